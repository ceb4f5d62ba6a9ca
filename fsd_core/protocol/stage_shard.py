"""Shards of ONNX models: a shard is one stage, that is, a smaller model with its own weights, and what it gets and gives.

A shard is one object: a preamble (magic, length of the head), the head (sealed JSON, see `Head`), then the body: the smaller model as ONNX
bytes, and the weights, each at a multiple of 64 bytes. The head has a checksum for each `CHUNK_BYTES` of the body. A worker reads the head
first, then the chunks, several requests at a time, straight to their place in one buffer, over which ONNX Runtime gets its weights.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.codec.named import DTYPES
from fsd_core.common.fields import integer, key, listed, read, table, text
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, InputError

__all__ = ["FORMAT", "StageReader", "build_stage"]

FORMAT = "fsd-stage-1"
CHUNK_BYTES = 8 << 20
READS = 4  # requests under way at a time: together they use the bandwidth of a function
HEAD_BYTES = 512 * 1024  # of the first request, which gets all of a small stage
_PREAMBLE = struct.Struct("<8sQ")
_MAGIC = b"FSDstge1"
_ALIGN = 64  # bytes: ONNX Runtime reads weights with vector instructions


@attrs.frozen(kw_only=True)
class Head:
    """What a worker knows of a stage before it loads it. Stages count from 1."""

    number: int = key(integer(1))
    inputs: list[str] = key(listed(text()))  # the inputs of the whole model that it reads
    outputs: list[str] = key(listed(text()))  # the outputs of the whole model that it makes
    receives: dict[str, Any] = key(table())  # the names of the tensors that it gets, by the number of their stage
    sends: dict[str, Any] = key(table())  # the names of the tensors that it gives, by the number of their stage
    model_bytes: int = key(integer(1))
    weights: list[Any] = key(listed(table()))  # name, dtype, shape and first byte in the body
    body_bytes: int = key(integer(1))
    checksums: list[int] = key(listed(integer(0)))  # CRC-32 of each chunk


def build_stage(
    number: int,
    model: bytes,
    weights: Mapping[str, NDArray[Any]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    receives: Mapping[int, Sequence[str]],
    sends: Mapping[int, Sequence[str]],
) -> bytes:
    """Encode stage ``number``. ``model``: ONNX bytes without the data of ``weights``. ``receives``, ``sends``: names by stage."""
    places: list[dict[str, Any]] = []
    end = _aligned(len(model))
    for name, array in weights.items():
        places.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "start": end})
        end = _aligned(end + array.nbytes)
    body = np.zeros(end, np.uint8)
    body[: len(model)] = np.frombuffer(model, np.uint8)
    for place, array in zip(places, weights.values(), strict=True):
        values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        body[place["start"] : place["start"] + len(values)] = values
    head = Head(
        number=number,
        inputs=list(inputs),
        outputs=list(outputs),
        receives={str(stage): list(names) for stage, names in receives.items()},
        sends={str(stage): list(names) for stage, names in sends.items()},
        model_bytes=len(model),
        weights=places,
        body_bytes=end,
        checksums=[zlib.crc32(body[start : start + CHUNK_BYTES].data) for start in range(0, end, CHUNK_BYTES)],
    )
    packed = seal(attrs.asdict(head))
    return b"".join([_PREAMBLE.pack(_MAGIC, len(packed)), packed, body.data])


def _aligned(end: int) -> int:
    return -(-end // _ALIGN) * _ALIGN


class StageReader:
    """Reads the stage at ``key``: at once the head, with `load` the rest. Raises `DamagedContent` if a checksum is wrong.

    ``read(key, start, end)`` returns the bytes [start, end) of an object, or fewer if the object ends before ``end``. ``pool`` runs the
    requests. ``numbers`` and ``sources``: see `fsd_core.worker.loop.Part`; a stage also has the numbers of the stages to which it sends.
    """

    def __init__(self, key: str, read: Callable[[str, int, int], bytes], pool: Executor) -> None:
        self._key = key
        self._read = read
        self._pool = pool
        self._begin = read(key, 0, HEAD_BYTES)
        self.head = self._head()
        self.receives = {int(stage) - 1: names for stage, names in self.head.receives.items()}  # by rank of a replica
        self.sends = {int(stage): names for stage, names in self.head.sends.items()}
        # All tensors that it has to make, in the order of their first use.
        self.gives = list(dict.fromkeys([*self.head.outputs, *(name for names in self.sends.values() for name in names)]))
        self.numbers = sorted({self.head.number, *self.sends})
        self.sources = [sorted(self.receives) if number == self.head.number else [] for number in self.numbers]

    def load(self, check: Callable[[], None]) -> tuple[bytes, dict[str, NDArray[Any]]]:
        """The smaller model as ONNX bytes, and its weights by name, views of one buffer.

        ``check`` is called between two requests; an error that it raises ends the loading.
        """
        body = np.empty(self.head.body_bytes, np.uint8)
        starts = range(0, len(body), CHUNK_BYTES)
        reading = [self._pool.submit(self._chunk, start) for start in starts[:READS]]
        for number, start in enumerate(starts):
            check()
            data = reading.pop(0).result()
            reading += [self._pool.submit(self._chunk, later) for later in starts[number + READS : number + READS + 1]]
            place = body[start : start + CHUNK_BYTES]
            if len(data) != len(place) or zlib.crc32(data) != self.head.checksums[number]:
                raise self._damaged(f"{len(data)} bytes from byte {start} of its body have a wrong checksum")
            place[:] = np.frombuffer(data, np.uint8)
        model = body[: self.head.model_bytes].tobytes()
        return model, {each["name"]: self._weight(body, each) for each in self.head.weights}

    def _head(self) -> Head:
        if len(self._begin) < _PREAMBLE.size or self._begin[: len(_MAGIC)] != _MAGIC:
            raise self._damaged(f"it begins with {self._begin[: len(_MAGIC)]!r}, expected {_MAGIC!r}")
        length = _PREAMBLE.unpack_from(self._begin)[1]
        try:
            fields = unseal(self._range(_PREAMBLE.size, _PREAMBLE.size + length), "the head of the stage")
            head = read(Head, fields, "the head of the stage: ")
        except (Damaged, InputError) as error:
            raise self._damaged(str(error)) from error
        self._body = _PREAMBLE.size + length
        return head

    def _chunk(self, start: int) -> bytes:
        return self._range(self._body + start, self._body + min(start + CHUNK_BYTES, self.head.body_bytes))

    def _range(self, start: int, end: int) -> bytes:
        """The bytes [start, end) of the object. The first bytes of the object are in memory since the head was read."""
        have = self._begin[start:end]
        return have if len(have) == end - start else have + self._read(self._key, start + len(have), end)

    def _weight(self, body: NDArray[np.uint8], place: Mapping[str, Any]) -> NDArray[Any]:
        dtype, shape, start = np.dtype(DTYPES[DTYPES.index(place["dtype"])]), place["shape"], place["start"]
        values: NDArray[Any] = body[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return values

    def _damaged(self, how: str) -> DamagedContent:
        return DamagedContent(Code.INVALID, f"the shard is damaged: {how}", self._key)
