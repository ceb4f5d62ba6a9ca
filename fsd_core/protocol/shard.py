"""Shards: a shard is the part of a model that one rank needs: its rows of every layer, and the rows that it sends and receives.

The client builds the shards, and each worker reads one; the replicas of a run read the same shards, in which ranks count from 0 in each
replica. A shard is one object: a preamble (magic, length and CRC-32 of the head; CRC-32 of the preamble before it), a head (number, size
and checksum of each layer; the ranks that send to this rank before this layer), then one segment for each layer, in order. A layer in which
the rank owns no rows, and before which it sends none, has no segment: a worker does not see the layers of other stages. Head and segments
have the safetensors layout. Equal arguments give equal bytes. A worker reads the head first, then the segments, several in a request. While
it computes, or waits for its input, it loads the next segments. It checks the checksum of all bytes before it uses them.

The columns of a rank's weights are renumbered: first the rank's own rows of the previous layer, then the rows of each source, ascending by
the source's rank. So the multiplication has a local part, which can start at once, and a remote part, which waits for the sources.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core import kernel
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent
from fsd_core.kernel import Finish
from fsd_core.model import tensors

if TYPE_CHECKING:
    from fsd_core.kernel import Fused, Weights
    from fsd_core.model import Layer, Model
    from fsd_core.partition import ExchangePlan, Partition

__all__ = [
    "FORMAT",
    "READS",
    "READ_BYTES",
    "LayerShard",
    "ShardReader",
    "build",
]

FORMAT = "fsd-shard-3"
_PREAMBLE = struct.Struct("<8sQI")  # magic, length and CRC-32 of the head
_CRC = struct.Struct("<I")
_START = _PREAMBLE.size + _CRC.size
_MAGIC = b"FSDshrd3"
HEAD_BYTES = 512 * 1024  # of the first request: another one takes longer than these bytes; often they hold the first layer too
READ_BYTES = 4 << 20
READS = 2  # groups of segments that are loaded at a time, where the memory allows: together they use the bandwidth of a function


@attrs.frozen(eq=False)
class LayerShard:
    """One rank's part of one layer, ready to multiply. "Held rows" are the rank's own rows of the previous layer."""

    number: int  # of the layer, from 1
    rows: int  # the number of rows that the rank computes; 0: it only sends
    local: Weights | Fused  # (rows, held rows that are multiplied); if ``remote`` is `None`, it also applies bias and activation
    remote: Weights | Fused | None  # (rows, received rows); `None` if the rank receives nothing
    receives: list[tuple[int, int]]  # (source, number of rows), in the column order of the remote weights
    sends: list[tuple[int, NDArray[np.int32]]]  # (target, positions among the held rows)


def build(model: Model, partition: Partition, plan: ExchangePlan, rank: int) -> bytes:
    """Encode the shard of ``rank`` as bytes. ``plan`` is the exchange plan of ``model`` and ``partition``."""
    segments, sources, numbers = [], [], []
    held = plan.inputs(rank)  # the rows that the rank has before a layer: at first its staged inputs, later its own outputs
    for number, layer in enumerate(model.layers, 1):
        rows = np.flatnonzero(partition.owners[number] == rank).astype(np.int32)
        receives = dict(sorted(plan.receives(number, rank).items())) if number > 1 else {}
        sends = dict(sorted(plan.sends(number, rank).items())) if number > 1 else {}
        if len(rows) or sends:
            numbers.append(number)
            segments.append(b"".join(tensors.pack(*_segment(layer, rows, held, receives, sends))))
            sources.append(np.fromiter(receives, np.int32, len(receives)))
        held = rows
    head: dict[str, NDArray[Any]] = {
        "numbers": np.array(numbers, np.int32),
        "sizes": np.array([len(segment) for segment in segments], np.int64),
        "checksums": np.array([zlib.crc32(segment) for segment in segments], np.uint32),
        "source_counts": np.array([len(each) for each in sources], np.int32),
        "sources": np.concatenate([*sources, np.zeros(0, np.int32)]).astype(np.int32),
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
    """int32: the positions of the rows of all groups among the held rows, one group after another."""
    return np.searchsorted(held, np.concatenate([*groups, np.zeros(0, np.int32)])).astype(np.int32)


class ShardReader:
    """Reads the shard at ``key``. Each iteration yields its layers in order. Raises `DamagedContent` if a checksum is wrong.

    ``read(key, start, end)`` returns the bytes [start, end) of an object, or fewer if the object ends before ``end``. While the caller
    computes or waits, ``pool`` loads the layers of up to ``ahead`` later requests, `READS` requests at a time. With ``keep``, the first
    iteration keeps the layers ready to multiply, and later iterations yield the kept layers. Without ``keep``, the memory holds the layers
    of one request and those that were loaded ahead, if the caller keeps no layer that it has computed.
    """

    def __init__(self, key: str, read: Callable[[str, int, int], bytes], pool: Executor, *, keep: bool, ahead: int = READS) -> None:
        self._key = key
        self._read = read
        self._pool = pool
        self._ahead = ahead
        self._kept: list[LayerShard] | None = [] if keep else None
        self._begin = read(key, 0, HEAD_BYTES)
        head = self._head()
        arrays = {name: tensors.view(head, info) for name, info in tensors.header(head)[0].items()}
        self._ends = _START + len(head) + np.cumsum(arrays["sizes"])
        self._starts = self._ends - arrays["sizes"]
        self._checksums = arrays["checksums"].tolist()
        self.numbers: list[int] = arrays["numbers"].tolist()  # of the layers that the shard has, from 1
        ends = np.cumsum(arrays["source_counts"]).tolist()
        # The ranks that send to this rank before each of these layers.
        self.sources: list[list[int]] = [arrays["sources"][start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]

    def _head(self) -> bytes:
        """Read the head. Checks the checksum of the preamble before it uses the length in it, then the checksum of the head."""
        begin = self._begin[:_START]
        if len(begin) < _START or _CRC.unpack_from(begin, _PREAMBLE.size)[0] != zlib.crc32(begin[: _PREAMBLE.size]):
            raise self._damaged(f"its first {_START} bytes are not a preamble with a correct checksum")
        magic, length, crc = _PREAMBLE.unpack_from(begin)
        if magic != _MAGIC:
            raise self._damaged(f"it begins with {magic!r}, expected {_MAGIC!r}")
        head = self._range(_START, _START + length)
        if len(head) != length or zlib.crc32(head) != crc:
            raise self._damaged(
                f"its head has {len(head)} bytes, expected {length}" if len(head) != length else "the checksum of its head is wrong"
            )
        return head

    def _damaged(self, how: str, layer: int | None = None) -> DamagedContent:
        return DamagedContent(Code.INVALID, f"the shard is damaged: {how}", self._key, layer=layer)

    def __iter__(self) -> Iterator[LayerShard]:
        """Yield the layers in order."""
        for layers in self.together():
            yield from layers

    def together(self) -> Iterator[list[LayerShard]]:
        """Yield the layers in order, as lists: each list has the layers of one request, or all layers once they are kept."""
        if self._kept:
            yield self._kept
            return
        groups = self._groups()
        ahead = _Ahead(lambda number: self._load(*groups[number]), len(groups), self._pool, self._ahead)
        try:
            for _ in groups:
                layers = ahead.take()
                if self._kept is not None:
                    self._kept += layers
                yield layers
                del layers
        finally:
            ahead.stop()

    def _load(self, first: int, last: int) -> list[LayerShard]:
        """Read the segments [first, last) in one request, and make them ready to multiply."""
        data = self._range(int(self._starts[first]), int(self._ends[last - 1]))
        layers = []
        for at in range(first, last):
            start = int(self._starts[at] - self._starts[first])
            segment = memoryview(data)[start : start + int(self._ends[at] - self._starts[at])]
            if zlib.crc32(segment) != self._checksums[at]:
                raise self._damaged("the checksum of this layer is wrong", self.numbers[at])
            layers.append(_layer(self.numbers[at], segment))
        return layers

    def _groups(self) -> list[tuple[int, int]]:
        """Group the segments: each pair (first, last) means that one request reads the segments [first, last)."""
        groups = [(0, 1)] if self.numbers else []
        for at in range(1, len(self.numbers)):
            first, last = groups[-1]
            # The first segment is read by a separate request, because the worker waits for it.
            if first > 0 and self._ends[at] - self._starts[first] <= READ_BYTES:
                groups[-1] = (first, last + 1)
            else:
                groups.append((at, at + 1))
        return groups

    def _range(self, start: int, end: int) -> bytes:
        """The bytes [start, end) of the object. The first bytes of the object are in memory since the head was read."""
        have = self._begin[start:end]
        return have if len(have) == end - start else have + self._read(self._key, start + len(have), end)


class _Ahead:
    """Loads groups of layers in order, up to ``most`` of them before they are taken. ``load(number)`` loads a group; ``pool`` runs it."""

    def __init__(self, load: Callable[[int], list[LayerShard]], count: int, pool: Executor, most: int) -> None:
        self._load = load
        self._count = count
        self._pool = pool
        self._most = most
        self._asked: deque[Future[list[LayerShard]]] = deque()  # not taken yet
        self._next = 0
        self._lock = threading.RLock()  # a task that has ended already calls `_ended` at once
        self._more(most)

    def take(self) -> list[LayerShard]:
        """The next group. Raises the error of ``load``."""
        with self._lock:
            self._more(max(1, self._most))
            group = self._asked[0]
        layers = group.result()
        with self._lock:
            self._asked.popleft()
            self._more(self._most)
        return layers

    def stop(self) -> None:
        """Load no more groups, and drop the loaded ones: a warm function must not hold them in its next run."""
        with self._lock:
            self._next = self._count
            self._asked.clear()

    def _more(self, most: int) -> None:
        with self._lock:
            while self._next < self._count and len(self._asked) < most and sum(not each.done() for each in self._asked) < READS:
                group = self._pool.submit(self._load, self._next)
                self._asked.append(group)
                self._next += 1
                group.add_done_callback(self._ended)

    def _ended(self, group: Future[list[LayerShard]]) -> None:
        if group.cancelled():  # by the pool's `shutdown`, which holds the lock that `submit` takes
            return
        with suppress(RuntimeError):  # the pool may be shut down
            self._more(self._most)


def _layer(number: int, segment: memoryview) -> LayerShard:
    """Decode the layer of this number from its segment. The caller has checked the segment's checksum."""
    infos, metadata, _ = tensors.header(segment)
    arrays = {name: tensors.view(segment, info) for name, info in infos.items()}
    rows, own = len(arrays["bias"]), int(metadata["own"])
    away = int(arrays["source_rows"].sum())
    # A copy: a view would keep all of the segment's bytes in memory.
    groups = np.split(arrays["target_positions"].copy(), np.cumsum(arrays["target_rows"])[:-1])
    clip = float(metadata["clip"]) if metadata["clip"] else None
    finish = Finish(arrays["bias"], metadata["activation"], clip, metadata["challenge"] == "1")
    return LayerShard(
        number=number,
        rows=rows,
        local=_weights(arrays, "local", (rows, own), arrays.get("own"), None if away else finish),
        remote=_weights(arrays, "remote", (rows, away), None, finish) if away else None,
        receives=list(zip(arrays["sources"].tolist(), arrays["source_rows"].tolist(), strict=True)),
        sends=list(zip(arrays["targets"].tolist(), groups, strict=False)),
    )


def _weights(
    arrays: dict[str, NDArray[Any]], name: str, shape: tuple[int, int], own: NDArray[np.int32] | None, finish: Finish | None
) -> Weights | Fused:
    if f"{name}.dense" in arrays:
        return kernel.weights(shape, None, arrays[f"{name}.dense"], own, finish)
    return kernel.weights(shape, (arrays[f"{name}.indptr"], arrays[f"{name}.indices"], arrays[f"{name}.values"]), None, own, finish)
