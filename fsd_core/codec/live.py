"""Encodes which samples of a block are live: the whole set, or the difference to the set of the step before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fsd_core.codec.parts import CodecError, Reader, compressed, number, packed, smallest

__all__ = ["pack_live", "unpack_live"]

_ALL, _BITMAP, _GAPS, _CHANGES = 0, 1, 2, 4  # forms of the set; with _CHANGES it has the samples that are in exactly one of both sets
_SAME = number(_CHANGES | _GAPS) + number(0) + number(0) + compressed(b"")  # both sets are equal


def pack_live(live: NDArray[np.int32], samples: int, before: NDArray[np.int32] | None) -> bytes:
    """Encode ``live``, int32 (live,), ascending numbers of samples below ``samples``. ``before`` is the set of the step before, if any.

    It writes the numbers as a bitmap, or as the gaps between them. If fewer samples are in exactly one of ``live`` and ``before``, it
    writes the numbers of these samples instead.
    """
    changed = None
    if before is not None:
        if samples >= 8 and np.array_equal(live, before):  # the usual case in the last layers of a deep network
            return _SAME
        changed = np.flatnonzero(_flags(live, samples) != _flags(before, samples)).astype(np.int32)
    if len(live) == samples and (changed is None or len(changed)):
        return number(_ALL)
    form, numbers = (0, live) if changed is None or len(changed) >= len(live) else (_CHANGES, changed)
    gaps = np.diff(numbers, prepend=np.int32(-1)) - 1
    largest = int(gaps.max(initial=0))
    kind = smallest(largest)
    if len(numbers) * np.dtype(kind).itemsize < samples // 8:
        return number(form | _GAPS) + number(len(numbers)) + number(largest) + compressed(gaps.astype(kind).tobytes())
    return number(form | _BITMAP) + compressed(packed(_flags(numbers, samples).view(np.uint8), 1))


def unpack_live(reader: Reader, samples: int, before: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """Decode what `pack_live` made: int32 (live,). ``before`` is the set of the step before. Raises `CodecError` if the bytes are wrong."""
    form = reader.number(_CHANGES | _GAPS, "the form of the live samples")
    if form == _ALL:
        reader.end("the live samples")
        return np.arange(samples, dtype=np.int32)
    if form & ~_CHANGES == _GAPS:
        count, largest = reader.number(samples, "a number of samples"), reader.number(samples, "a gap between samples")
        kind = smallest(largest)
        part = Reader.of_compressed(reader.rest(), 4 * count)
        if not count and form & _CHANGES and before is not None:
            part.end("the live samples")
            return before
        gaps = part.array(kind, count, "the gaps between samples").astype(np.int64)
        numbers = np.cumsum(gaps + 1) - 1
        if count and numbers[-1] >= samples:
            raise CodecError(f"sample {numbers[-1]} is live: expected samples below {samples}")
        flags = _flags(numbers, samples)
    elif form & ~_CHANGES == _BITMAP:
        part = Reader.of_compressed(reader.rest(), (samples + 7) // 8)
        flags = part.codes(1, samples, "the bitmap of the live samples").view(bool)
    else:
        raise CodecError(f"form {form} of the live samples: expected one of 0, 1, 2, 5 and 6")
    part.end("the live samples")
    if form & _CHANGES:
        if before is None:
            raise CodecError("a difference to the step before: expected the whole set, because this is the first step")
        flags = flags != _flags(before, samples)
    return np.flatnonzero(flags).astype(np.int32)


def _flags(numbers: NDArray[np.int32] | NDArray[np.int64], samples: int) -> NDArray[np.bool_]:
    flags = np.zeros(samples, bool)
    flags[numbers] = True
    return flags
