"""Shards of ONNX models: the shard of a rank has smaller models with their weights, and the names of the tensors that each reads and makes.

Each of the smaller models is a `Section`. A rank that has a stage alone has one section. A rank that shares a stage has a section between
any two exchanges.

A shard is one object: a preamble (magic, length of the head), the head (sealed JSON, see `Head`), then the body: the smaller models as ONNX
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
from fsd_core.common.fields import Kind, integer, key, listed, read, table, text
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, InputError

__all__ = ["FORMAT", "Section", "StageReader", "Transfer", "build_stage"]

FORMAT = "fsd-stage-2"
CHUNK_BYTES = 8 << 20
READS = 4  # requests under way at a time: together they use the bandwidth of a function
HEAD_BYTES = 512 * 1024  # of the first request, which gets all of a small stage
_PREAMBLE = struct.Struct("<8sQ")
_MAGIC = b"FSDstge2"
_ALIGN = 64  # bytes: ONNX Runtime reads weights with vector instructions


def _each(cls: type) -> Kind:
    """A list of tables, which `read` turns into objects of ``cls``."""
    return attrs.evolve(listed(table()), becomes=lambda found: [read(cls, each, f"{cls.__name__.lower()}: ") for each in found])


Arrays = dict[str, NDArray[Any]]


@attrs.frozen(kw_only=True)
class Transfer:
    """Tensors, by name, that pass between this rank and ``rank``, a number in the replica. A section of step ``step`` reads them."""

    rank: int = key(integer(0))
    step: int = key(integer(1))
    names: list[str] = key(listed(text(), filled=True))


@attrs.frozen(kw_only=True)
class Section:
    """What a rank computes between two exchanges. All lists have names of tensors."""

    step: int = key(integer(1))
    model_bytes: int = key(integer(1))
    lean_bytes: int = key(integer(0))  # of the lean model: the same with some weights as inputs, which ONNX Runtime does not copy; 0: none
    weights: list[str] = key(listed(text()))  # the weights whose data is not in the bytes of the model
    feeds: list[str] = key(listed(text()))  # the weights that are inputs of the lean model; empty: there is no lean model
    reads: list[str] = key(listed(text()))  # what it receives, inputs of the whole model, and what earlier sections of the rank keep
    gives: list[str] = key(listed(text(), filled=True))  # what it has to make
    keeps: list[str] = key(listed(text()))  # what later sections of the rank read, make or send, and outputs of the whole model
    receives: list[Transfer] = key(_each(Transfer))
    sends: list[Transfer] = key(_each(Transfer))


@attrs.frozen(kw_only=True)
class Head:
    """The head of a shard: what a worker knows before it loads models and weights."""

    inputs: list[str] = key(listed(text()))  # the inputs of the whole model that it reads
    outputs: list[str] = key(listed(text()))  # the outputs of the whole model that it makes
    sections: list[Section] = key(_each(Section))  # in the order of their steps; none: the rank has nothing to compute
    weights: list[Any] = key(listed(table()))  # name, dtype, shape and first byte in the body
    body_bytes: int = key(integer(0))
    checksums: list[int] = key(listed(integer(0)))  # CRC-32 of each chunk


def build_stage(
    sections: Sequence[Section], models: Sequence[bytes], weights: Mapping[str, NDArray[Any]], inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """Encode the shard of a rank. ``models``: for each section its model, then its lean model, as ONNX bytes without ``weights``."""
    places: list[dict[str, Any]] = []
    end = _aligned(sum(map(len, models)))
    for name, array in weights.items():
        places.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "start": end})
        end = _aligned(end + array.nbytes)
    body, at = np.zeros(end, np.uint8), 0
    for model in models:
        body[at : at + len(model)] = np.frombuffer(model, np.uint8)
        at += len(model)
    for place, array in zip(places, weights.values(), strict=True):
        body[place["start"] : place["start"] + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
    head = Head(
        inputs=list(inputs),
        outputs=list(outputs),
        sections=list(sections),
        weights=places,
        body_bytes=end,
        checksums=[zlib.crc32(body[start : start + CHUNK_BYTES].data) for start in range(0, end, CHUNK_BYTES)],
    )
    packed = seal(attrs.asdict(head))
    return b"".join([_PREAMBLE.pack(_MAGIC, len(packed)), packed, body.data])


def _aligned(end: int) -> int:
    return -(-end // _ALIGN) * _ALIGN


class StageReader:
    """Reads the shard at ``key``: the constructor reads the head, `load` the rest. Raises `DamagedContent` if a checksum is wrong.

    ``read(key, start, end)`` returns the bytes [start, end) of an object, or fewer if the object ends before ``end``. ``pool`` runs the
    requests. ``numbers`` and ``sources``: see `fsd_core.worker.loop.Part`; a step counts as a layer, also one in which the rank sends.
    """

    def __init__(self, key: str, read: Callable[[str, int, int], bytes], pool: Executor) -> None:
        self._key = key
        self._read = read
        self._pool = pool
        self._begin = read(key, 0, HEAD_BYTES)
        self.head = self._head()
        sources = {transfer.step: list[int]() for section in self.head.sections for transfer in section.sends}
        sources |= {section.step: [transfer.rank for transfer in section.receives] for section in self.head.sections}
        self.numbers = sorted(sources)
        self.sources = [sources[number] for number in self.numbers]

    def load(self, check: Callable[[], None], *, lean: bool) -> list[tuple[bytes, Arrays, Arrays]]:
        """Load all sections. Returns for each its model as ONNX bytes, its weights, and the weights that are inputs of the model.

        With ``lean``, the model is the lean one, if there is one. Without ``lean``, no weights are inputs. All arrays are views of one
        buffer. This method calls ``check`` before each chunk of the body; an error that it raises ends the loading.
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
        weights, found, at = {each["name"]: self._weight(body, each) for each in self.head.weights}, [], 0
        for section in self.head.sections:
            start, size = (at + section.model_bytes, section.lean_bytes) if lean and section.feeds else (at, section.model_bytes)
            fed = {name: weights[name] for name in section.feeds if lean}
            found.append((body[start : start + size].tobytes(), {name: weights[name] for name in section.weights if name not in fed}, fed))
            at += section.model_bytes + section.lean_bytes
        return found

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
