"""Reads a partition as FSD-Inference (Oakley and Ferhatosmanoglu, ICDE 2024) published its own: a folder ``conn.0`` to ``conn.L-1``.

``conn.k`` tells what travels before layer k+1: a line ``row source target...`` for each row (0-based, an output of layer k; an input where
k = 0) that worker ``source`` owns and each ``target`` needs. A row that is not listed is owned by its only consumer. So it and what reads
it have one owner: neurons fall into groups, and a listed row tells the owner of its group. A group with none, such as an output of the last
layer, goes to a worker that is sent all that the group reads, such that every listed target is one as far as may be, and evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model import Layer, Model
from fsd_core.partition.owners import Partition, widths
from fsd_core.partition.plan import needs

__all__ = ["read_folder"]


@dataclass(frozen=True, eq=False)
class _Connections:
    """One file: of each row its line (1-based; 0: not listed) and source (-1: not listed), and pairs of (row, target)."""

    path: Path
    line: NDArray[np.int64]
    source: NDArray[np.int64]
    pairs: NDArray[np.int64]  # (pairs, 2)

    def targets(self, workers: int) -> NDArray[np.bool_]:
        table = np.zeros((len(self.line), workers), np.bool_)
        table[self.pairs[:, 0], self.pairs[:, 1]] = True
        return table


def read_folder(folder: Path, model: Model) -> Partition:
    """The partition of a folder ``conn.*``; its workers are as many as it names.

    Raises `InputError`, naming file and line, where a line is malformed or the files contradict each other or the model.
    """
    names = {path.name for path in folder.glob("conn.*")}
    expected = [f"conn.{k}" for k in range(len(model.layers))]
    if odd := sorted(names.symmetric_difference(expected)):
        state = "is missing" if odd[0] in expected else "is not expected"
        raise InputError(f"{folder}: {odd[0]} {state}; a partition of this model has conn.0 to conn.{len(model.layers) - 1}")
    sizes = widths(model)
    files = [_read(folder / name, sizes[k], max(sizes[1:])) for k, name in enumerate(expected)]
    workers = 1 + max(int(max(file.source.max(initial=0), file.pairs.max(axis=0, initial=0)[1])) for file in files)
    group = _groups(model, files, sizes)
    owners = _told(files, group, sum(sizes))
    known = [owner >= 0 for owner in owners]
    _choose(model, files, group, owners, workers)
    for k, (layer, file) in enumerate(zip(model.layers, files, strict=True)):
        _compare(layer, file, owners[k], owners[k + 1], workers, exact=bool(known[k + 1].all()))
    return Partition(workers, tuple(owner.astype(np.int32) for owner in owners), str(folder)).check(model, str(folder))


def _read(path: Path, rows: int, most: int) -> _Connections:
    line, source, pairs = np.zeros(rows, np.int64), np.full(rows, -1), []
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, content in enumerate(text.splitlines(), 1):
        words = content.split()
        if not words:
            continue
        if len(words) < 3 or not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
            raise InputError(f"{path}:{number}: {content[:40]!r} is not: row source-worker target-worker...")
        row, *workers = map(int, words)
        if row >= rows:
            raise InputError(f"{path}:{number}: row {row}; the model has rows 0 to {rows - 1} there")
        if max(workers) >= most:
            raise InputError(f"{path}:{number}: worker {max(workers)}; the largest layer has only {most} rows to own")
        if line[row]:
            raise InputError(f"{path}:{number}: row {row} was listed before, in line {line[row]}")
        if len(set(workers)) < len(workers):
            raise InputError(f"{path}:{number}: row {row} names a worker twice")
        line[row], source[row] = number, workers[0]
        pairs += [(row, target) for target in workers[1:]]
    return _Connections(path, line, source, np.array(pairs, np.int64).reshape(-1, 2))


def _reads(layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``starts`` and ``inputs``: output j reads ``inputs[starts[j]:starts[j + 1]]``."""
    if isinstance(layer.weights, np.ndarray):
        return np.arange(layer.outputs + 1) * layer.inputs, np.tile(np.arange(layer.inputs), layer.outputs)
    return layer.weights.indptr, layer.weights.indices.astype(np.int64)


def _groups(model: Model, files: list[_Connections], sizes: list[int]) -> list[NDArray[np.int64]]:
    """The group of each neuron, an array for the input and each layer: connected by rows that are not listed."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    offsets, ends = np.cumsum([0, *sizes]), []
    for k, (layer, file) in enumerate(zip(model.layers, files, strict=True)):
        starts, inputs = _reads(layer)
        here = file.source[inputs] < 0
        outputs = np.repeat(np.arange(layer.outputs), np.diff(starts))[here]
        ends.append(np.stack([offsets[k] + inputs[here], offsets[k + 1] + outputs]))
    joined = np.concatenate(ends, axis=1)
    links = csr_matrix((np.ones(joined.shape[1], np.int8), tuple(joined)), shape=(offsets[-1], offsets[-1]))
    return np.split(connected_components(links, directed=False)[1], offsets[1:-1])


def _told(files: list[_Connections], group: list[NDArray[np.int64]], groups: int) -> list[NDArray[np.int64]]:
    """The owner of each neuron (-1: nothing tells it), an array for the input and each layer."""
    low, high = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    for ids, file in zip(group, files, strict=False):
        listed = file.source >= 0
        np.minimum.at(low, ids[listed], file.source[listed])
        np.maximum.at(high, ids[listed], file.source[listed])
    for ids, file in zip(group, files, strict=False):
        for row in np.flatnonzero((file.source < 0) & (high[ids] > low[ids]))[:1]:
            pair = f"workers {low[ids[row]]} and {high[ids[row]]}"
            raise InputError(f"{file.path}: row {row} is not listed, so what reads it has one owner, but other lines tell {pair}")
    return [high[ids] for ids in group]


def _choose(model: Model, files: list[_Connections], group: list[NDArray[np.int64]], owners: list[NDArray[np.int64]], workers: int) -> None:
    """Give each neuron that nothing tells the owner of (-1) one, in place.

    Groups with the fewest choices come first; each goes to the worker to which most of what it reads goes in vain so far, of equals to the
    least loaded.
    """
    groups: dict[int, list[tuple[int, int, NDArray[np.int64]]]] = {}  # of each, its members: layer, neuron, listed rows that it reads
    holds = [np.zeros((0, workers), np.bool_) for _ in owners]  # which worker is sent, or owns, which listed row that layer k reads
    in_vain = list(holds)  # and which it is sent while it owns nothing that reads it
    load = np.array([np.bincount(owner[owner >= 0], minlength=workers) for owner in owners])
    for k, owner in enumerate(owners):
        if k and (owner < 0).any():
            source, (starts, inputs) = files[k - 1].source, _reads(model.layers[k - 1])
            in_vain[k], reader = files[k - 1].targets(workers), np.repeat(owner, np.diff(starts))
            holds[k] = in_vain[k].copy()
            holds[k][np.arange(len(source)), source] |= source >= 0
            in_vain[k][inputs[reader >= 0], reader[reader >= 0]] = False
        for neuron in np.flatnonzero(owner < 0).tolist():
            read = inputs[starts[neuron] : starts[neuron + 1]] if k else np.zeros(0, np.int64)
            groups.setdefault(int(group[k][neuron]), []).append((k, neuron, read[source[read] >= 0] if k else read))
    choices = []
    for members in groups.values():
        able = np.all([holds[k][read].all(axis=0) for k, _, read in members], axis=0)
        if not able.any():
            last, row, _ = members[-1]
            raise InputError(f"{files[last - 1].path}: no worker is sent all input rows of output row {row}")
        choices.append((np.flatnonzero(able), members))
    for able, members in sorted(choices, key=lambda choice: len(choice[0])):
        lacking = np.sum([in_vain[k][read][:, able].sum(axis=0) for k, _, read in members], axis=0)
        chosen = able[np.lexsort((load[members[-1][0]][able], -lacking))[0]]
        for k, neuron, read in members:
            owners[k][neuron] = chosen
            in_vain[k][read, chosen] = False
            load[k, chosen] += 1


def _compare(layer: Layer, file: _Connections, owner: NDArray[np.int64], outputs: NDArray[np.int64], workers: int, exact: bool) -> None:
    """Check that what is listed is what must travel, or more where owners of outputs were chosen (not ``exact``)."""
    need, listed = needs(layer, outputs, workers), file.targets(workers)
    need[np.arange(len(owner)), owner] = False
    for row, target in np.argwhere(need & ~listed)[:1]:
        raise InputError(f"{file.path}:{file.line[row]}: row {row} does not go to worker {target}, which owns a row that it feeds")
    for row, target in np.argwhere(listed & ~need & exact)[:1]:
        raise InputError(f"{file.path}:{file.line[row]}: row {row} goes to worker {target}, which owns no row that it feeds")
