"""What one rank needs of a model: its rows of every layer, and whom it exchanges rows with. Built by the client, read by a worker.

A shard is one object: a preamble (magic, length and CRC-32 of the head, CRC-32 of the preamble so far), a head (sizes and
checksums of the layers, who sends to this rank before each), then a segment a layer, in order. Head and segments use the
safetensors layout. Equal arguments give equal bytes. A worker reads the head first, then the segments by range, a few at
a time and one read ahead, so that it computes while the rest is on its way. It uses no byte whose checksum it did not compare.

A rank's columns of a layer are renumbered: first those of its own rows that it multiplies, then the rows of each source
in ascending order of the source's rank. So the multiply is split into what can start at once and what must be awaited.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.driver import Code
from fsd_core.errors import DamagedContent
from fsd_core.kernel import DENSE_SHARE, Weights
from fsd_core.model import tensors

if TYPE_CHECKING:
    from fsd_core.model import Layer, Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = ["FORMAT", "READ_BYTES", "LayerShard", "ShardReader", "build", "predicted_bytes"]

FORMAT = "fsd-shard-2"
_PREAMBLE = struct.Struct("<8sQI")  # magic, length and CRC-32 of the head
_CRC = struct.Struct("<I")
_START = _PREAMBLE.size + _CRC.size
_MAGIC = b"FSDshrd2"
HEAD_BYTES = 64 * 1024
READ_BYTES = 4 << 20


@dataclass(frozen=True, eq=False, slots=True)
class LayerShard:
    """One rank's part of one layer, ready to multiply.

    ``own``: which of the previous layer's own rows the local weights multiply (`None`: all of them, in order).
    ``receives``: (source, rows) in column order of the remote weights. ``sends``: (target, positions in the own rows).
    """

    local: Weights
    remote: Weights | None
    own: NDArray[np.int32] | None
    bias: NDArray[np.float32]
    activation: str
    clip: float | None
    challenge: bool
    receives: list[tuple[int, int]]
    sends: list[tuple[int, NDArray[np.int32]]]


def build(model: Model, partition: Partition, plan: ExchangePlan, rank: int) -> bytes:
    """The shard object of one rank."""
    segments, sources = [], []
    held = plan.inputs(rank)  # what the rank has at hand before a layer: staged inputs, then its own outputs
    for number, layer in enumerate(model.layers, 1):
        rows = np.flatnonzero(partition.owners[number] == rank).astype(np.int32)
        receives = dict(sorted(plan.receives(number, rank).items())) if number > 1 else {}
        sends = dict(sorted(plan.sends(number, rank).items())) if number > 1 else {}
        segments.append(b"".join(tensors.pack(*_segment(layer, rows, held, receives, sends))))
        sources.append(np.fromiter(receives, np.int32, len(receives)))
        held = rows
    head: dict[str, NDArray[Any]] = {
        "sizes": np.array([len(segment) for segment in segments], np.int64),
        "checksums": np.array([zlib.crc32(segment) for segment in segments], np.uint32),
        "source_counts": np.array([len(some) for some in sources], np.int32),
        "sources": np.concatenate(sources),
    }
    packed = b"".join(tensors.pack(head))
    preamble = _PREAMBLE.pack(_MAGIC, len(packed), zlib.crc32(packed))
    return b"".join([preamble, _CRC.pack(zlib.crc32(preamble)), packed, *segments])


def _segment(
    layer: Layer,
    rows: NDArray[np.int32],
    held: NDArray[np.int32],
    receives: dict[int, NDArray[np.int32]],
    sends: dict[int, NDArray[np.int32]],
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays and metadata of one layer's segment."""
    arrays: dict[str, NDArray[Any]] = {
        "bias": layer.bias[rows],
        "targets": np.fromiter(sends, np.int32, len(sends)),
        "target_rows": np.array([len(ids) for ids in sends.values()], np.int32),
        "target_positions": _positions(held, list(sends.values())),
        "sources": np.fromiter(receives, np.int32, len(receives)),
        "source_rows": np.array([len(ids) for ids in receives.values()], np.int32),
    }
    away = np.concatenate([*receives.values(), np.zeros(0, np.int32)]).astype(np.int32)
    weights = layer.rows(rows)
    if isinstance(weights, np.ndarray):
        own = held
        arrays["local.dense"] = weights[:, own]
        arrays["remote.dense"] = weights[:, away]
    else:
        columns, values = weights.indices, weights.values
        own = np.intersect1d(columns, held).astype(np.int32)
        number = np.full(layer.inputs, -1, np.int32)
        number[own] = np.arange(len(own))
        number[away] = np.arange(len(own), len(own) + len(away))
        local = number[columns] < len(own)
        row_of = np.repeat(np.arange(len(rows)), np.diff(weights.indptr))
        for name, mask, first in (("local", local, 0), ("remote", ~local, len(own))):
            arrays[f"{name}.indptr"] = np.concatenate([[0], np.cumsum(np.bincount(row_of[mask], minlength=len(rows)))]).astype(np.int64)
            arrays[f"{name}.indices"] = number[columns[mask]] - np.int32(first)
            arrays[f"{name}.values"] = values[mask]
    if len(own) < len(held):
        arrays["own"] = np.searchsorted(held, own).astype(np.int32)
    metadata = {
        "activation": layer.activation,
        "clip": "" if layer.clip is None else repr(float(layer.clip)),
        "challenge": str(int(layer.challenge)),
    }
    return arrays, metadata | {"own": str(len(own))}


def _positions(held: NDArray[np.int32], groups: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Where the rows of all groups stand among the held ones."""
    return np.searchsorted(held, np.concatenate([*groups, np.zeros(0, np.int32)])).astype(np.int32)


def predicted_bytes(model: Model, partition: Partition, plan: ExchangePlan, rank: int, samples: int) -> int:
    """An upper estimate of what one rank needs for a batch of ``samples``, beside process and shard: every sample live in every layer."""
    most = 0
    held = len(plan.inputs(rank))
    for number, layer in enumerate(model.layers, 1):
        rows = int(np.count_nonzero(partition.owners[number] == rank))
        away = sum(len(ids) for ids in plan.receives(number, rank).values()) if number > 1 else 0
        # Held, its part that is multiplied, arrived, put together; product of both parts and the activation's temporaries.
        values = (2 * held + 2 * away + 4 * rows) * (samples + 1)
        nonzeros, size = layer.nonzeros * rows // layer.outputs, rows * (held + away)
        most = max(most, 4 * values + 8 * nonzeros + (4 * size if nonzeros >= DENSE_SHARE * size / 2 else 0))
        held = rows
    return most


class ShardReader:
    """Reads the shard ``key``. ``read(key, start, end)`` gets a range of it; with ``keep``, layers can be iterated again without reads.

    Raises `DamagedContent` where a checksum differs.
    """

    def __init__(self, key: str, read: Callable[[str, int, int], bytes], pool: Executor, *, keep: bool) -> None:
        self._key = key
        self._read = read
        self._pool = pool
        self._kept: list[memoryview] | None = [] if keep else None
        self._begin = read(key, 0, HEAD_BYTES)
        head = self._head()
        arrays = {name: tensors.view(head, info) for name, info in tensors.header(head)[0].items()}
        self._ends = _START + len(head) + np.cumsum(arrays["sizes"])
        self._starts = self._ends - arrays["sizes"]
        self._checksums = arrays["checksums"].tolist()
        self.sources = [part.tolist() for part in np.split(arrays["sources"], np.cumsum(arrays["source_counts"])[:-1])]

    def _head(self) -> bytes:
        """The head, once its checksum was compared: its length is believed after that of the preamble was."""
        begin = self._begin[:_START]
        if len(begin) < _START or _CRC.unpack_from(begin, _PREAMBLE.size)[0] != zlib.crc32(begin[: _PREAMBLE.size]):
            raise self._damaged(f"its first {_START} bytes are no preamble, or their checksum differs")
        magic, length, crc = _PREAMBLE.unpack_from(begin)
        if magic != _MAGIC:
            raise self._damaged(f"it begins with {magic!r}, expected {_MAGIC!r}")
        head = self._range(_START, _START + length)
        if len(head) != length or zlib.crc32(head) != crc:
            raise self._damaged(
                f"its head has {len(head)} bytes, expected {length}" if len(head) != length else "the checksum of its head differs"
            )
        return head

    def _damaged(self, how: str, layer: int | None = None) -> DamagedContent:
        return DamagedContent(Code.INVALID, f"the shard is damaged: {how}", self._key, layer=layer)

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return len(self._checksums)

    def __iter__(self) -> Iterator[LayerShard]:
        """The layers in order."""
        if self._kept:
            yield from (_layer(segment) for segment in self._kept)
            return
        groups = self._groups()
        ahead: Future[bytes] | None = None
        for number, (first, last) in enumerate(groups):
            data = ahead.result() if ahead is not None else self._segments(first, last)
            ahead = self._pool.submit(self._segments, *groups[number + 1]) if number + 1 < len(groups) else None
            for layer in range(first, last):
                start = int(self._starts[layer] - self._starts[first])
                segment = memoryview(data)[start : start + int(self._ends[layer] - self._starts[layer])]
                if zlib.crc32(segment) != self._checksums[layer]:
                    raise self._damaged("the checksum of this layer differs", layer + 1)
                if self._kept is not None:
                    self._kept.append(segment)
                yield _layer(segment)

    def _groups(self) -> list[tuple[int, int]]:
        """Layers [first, last) that are read together."""
        groups = [(0, 1)]
        for layer in range(1, self.layers):
            first, last = groups[-1]
            if first > 0 and self._ends[layer] - self._starts[first] <= READ_BYTES:  # the first layer comes alone: it is waited for
                groups[-1] = (first, last + 1)
            else:
                groups.append((layer, layer + 1))
        return groups

    def _segments(self, first: int, last: int) -> bytes:
        return self._range(int(self._starts[first]), int(self._ends[last - 1]))

    def _range(self, start: int, end: int) -> bytes:
        """The bytes [start, end) of the object, of which the beginning is here already."""
        have = self._begin[start:end]
        return have if len(have) == end - start else have + self._read(self._key, start + len(have), end)


def _layer(segment: memoryview) -> LayerShard:
    """One layer from its segment, whose checksum was compared."""
    infos, metadata, _ = tensors.header(segment)
    arrays = {name: tensors.view(segment, info) for name, info in infos.items()}
    rows, own = len(arrays["bias"]), int(metadata["own"])
    away = int(arrays["source_rows"].sum())
    groups = np.split(arrays["target_positions"], np.cumsum(arrays["target_rows"])[:-1])
    return LayerShard(
        local=_weights(arrays, "local", (rows, own)),
        remote=_weights(arrays, "remote", (rows, away)) if away else None,
        own=arrays.get("own"),
        bias=arrays["bias"],
        activation=metadata["activation"],
        clip=float(metadata["clip"]) if metadata["clip"] else None,
        challenge=metadata["challenge"] == "1",
        receives=list(zip(arrays["sources"].tolist(), arrays["source_rows"].tolist(), strict=True)),
        sends=list(zip(arrays["targets"].tolist(), groups, strict=False)),
    )


def _weights(arrays: dict[str, NDArray[Any]], name: str, shape: tuple[int, int]) -> Weights:
    if f"{name}.dense" in arrays:
        return Weights(shape, None, arrays[f"{name}.dense"])
    return Weights(shape, (arrays[f"{name}.indptr"], arrays[f"{name}.indices"], arrays[f"{name}.values"]), None)
