"""Damage for tests: seeded flips of single bits, and what a decoder makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

FLIPS = 3000


def flips(good: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` copies of ``good``, one bit of each flipped; no bit twice while there are enough."""
    bits = 8 * len(good)
    for bit in np.random.default_rng(seed).choice(bits, count, replace=count > bits).tolist():
        at, mask = bit >> 3, 1 << (bit & 7)
        yield good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :]


def refused(
    good: Sequence[bytes],
    decode: Callable[[int, bytes], object],
    error: type[Exception] | tuple[type[Exception], ...],
    *,
    longer: bool = True,
) -> None:
    """Fail unless ``decode(which, bytes)`` takes every one of ``good`` and raises ``error`` for each of `FLIPS` flips, shared among them.

    Truncations (up to 200 lengths of each) must be refused as well and, with ``longer``, what has more bytes than it should.
    """
    for which, data in enumerate(good):
        decode(which, data)
        bad = list(flips(data, -(-FLIPS // len(good)), which))
        bad += [data[:length] for length in sorted({int(length) for length in np.linspace(0, len(data), 200, endpoint=False)})]
        bad += [data + more for more in (b"\0", b"\xff", data) if longer]
        for number, each in enumerate(bad):
            try:
                decode(which, each)
            except error:
                continue
            pytest.fail(f"example {which}: damage {number} of {len(bad)} ({len(each)} of {len(data)} bytes) was not found")
