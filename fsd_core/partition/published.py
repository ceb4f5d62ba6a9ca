"""Reads the folder format in which FSD-Inference (Oakley and Ferhatosmanoglu, ICDE 2024) published its partition.

The folder has files ``conn.0`` to ``conn.L-1``. File ``conn.k`` lists the rows that travel before layer k+1: outputs of layer k, or inputs
of the model if k = 0. A line is ``row source target...`` (numbers from 0): worker ``source`` owns the row, each ``target`` needs it. A row
without a line does not travel, because its owner is the only worker that reads it. This module derives the owner of every neuron:

1. A row without a line has the same owner as the outputs that read it. Neurons that are connected in this way form a group.
2. A line for any row of a group names the owner of the whole group.
3. A group without a line (for instance an output of the last layer) can belong to any worker that receives all rows that the group reads.
   Among these workers, the module counts for each: the rows that the group reads and that no neuron of the worker reads so far. The worker
   with the largest count gets the group. If several are equal, the one that owns the fewest neurons in the last layer of the group gets it.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model import Layer, Model
from fsd_core.partition.rows import needs, widths

__all__ = ["read_folder"]

_LINE = "row source-worker target-worker..."


@attrs.frozen(eq=False)
class _Connections:
    """The content of one file. For each row: the number of its line (1-based; 0 without a line) and its source worker (-1 without a line).

    ``pairs`` are pairs of row and target worker.
    """

    path: Path
    line: NDArray[np.int64]  # (rows,)
    source: NDArray[np.int64]  # (rows,)
    pairs: NDArray[np.int64]  # (pairs, 2)

    def targets(self, workers: int) -> NDArray[np.bool_]:
        """A table, bool (rows, workers): true if the file sends the row to the worker."""
        table = np.zeros((len(self.line), workers), np.bool_)
        table[self.pairs[:, 0], self.pairs[:, 1]] = True
        return table


def read_folder(folder: Path, model: Model) -> tuple[int, tuple[NDArray[np.int32], ...]]:
    """Read a folder of ``conn.*`` files.

    Returns the number of workers, and L+1 int32 arrays: the owner of each neuron of the input and of each layer.

    Raises `InputError`, which names the file and the line, if a line is malformed or if the files contradict each other or the model.
    """
    names = {path.name for path in folder.glob("conn.*")}
    expected = [f"conn.{k}" for k in range(len(model.layers))]
    if odd := sorted(names.symmetric_difference(expected)):
        state = "is missing" if odd[0] in expected else "is unknown"
        raise InputError(f"{folder}: {odd[0]} {state}: expected conn.0 to conn.{len(model.layers) - 1} for this model")
    sizes = widths(model)
    files = [_read(folder / name, sizes[k], max(sizes[1:])) for k, name in enumerate(expected)]
    workers = 1 + max(int(max(file.source.max(initial=0), file.pairs.max(axis=0, initial=0)[1])) for file in files)
    group = _groups(model, files, sizes)
    owners = _named_owners(files, group, sum(sizes))
    known = [owner >= 0 for owner in owners]
    _choose_owners(model, files, group, owners, workers)
    for k, (layer, file) in enumerate(zip(model.layers, files, strict=True)):
        _compare(layer, file, owners[k], owners[k + 1], workers, exact=bool(known[k + 1].all()))
    return workers, tuple(owner.astype(np.int32) for owner in owners)


def _read(path: Path, rows: int, max_workers: int) -> _Connections:
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
            raise InputError(f"{path}:{number}: {content[:40]!r}: expected {_LINE}")
        row, *workers = map(int, words)
        if row >= rows:
            raise InputError(f"{path}:{number}: row {row}: expected rows 0 to {rows - 1}, as the model has")
        if max(workers) >= max_workers:
            raise InputError(
                f"{path}:{number}: worker {max(workers)}: expected 0 to {max_workers - 1}: the largest layer has {max_workers} rows"
            )
        if line[row]:
            raise InputError(f"{path}:{number}: row {row} is on line {line[row]} already: expected one line for each row")
        if len(set(workers)) < len(workers):
            raise InputError(f"{path}:{number}: row {row} names a worker twice: expected different workers")
        line[row], source[row] = number, workers[0]
        pairs += [(row, target) for target in workers[1:]]
    return _Connections(path, line, source, np.array(pairs, np.int64).reshape(-1, 2))


def _reads(layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``starts`` int64 (outputs + 1,) and ``inputs`` int64: output j reads rows ``inputs[starts[j]:starts[j + 1]]``."""
    if isinstance(layer.weights, np.ndarray):
        return np.arange(layer.outputs + 1) * layer.inputs, np.tile(np.arange(layer.inputs), layer.outputs)
    return layer.weights.indptr, layer.weights.indices.astype(np.int64)


def _groups(model: Model, files: list[_Connections], sizes: list[int]) -> list[NDArray[np.int64]]:
    """The group number of each neuron, in one array for the input and one for each layer. A row without a line connects neurons."""
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


def _named_owners(files: list[_Connections], group: list[NDArray[np.int64]], groups: int) -> list[NDArray[np.int64]]:
    """The owner of each neuron (-1 if no line names it), in one array for the input and one for each layer."""
    low, high = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
    for ids, file in zip(group, files, strict=False):
        listed = file.source >= 0
        np.minimum.at(low, ids[listed], file.source[listed])
        np.maximum.at(high, ids[listed], file.source[listed])
    for ids, file in zip(group, files, strict=False):
        for row in np.flatnonzero((file.source < 0) & (high[ids] > low[ids]))[:1]:
            pair = f"workers {low[ids[row]]} and {high[ids[row]]}"
            raise InputError(f"{file.path}: row {row} has no line, but {pair} read it: expected a line for it")
    return [high[ids] for ids in group]


def _choose_owners(
    model: Model, files: list[_Connections], group: list[NDArray[np.int64]], owners: list[NDArray[np.int64]], workers: int
) -> None:
    """Set the owner of each neuron that has no owner (-1) in ``owners``, by rule 3 above. Groups that few workers can own come first."""
    groups: dict[int, list[tuple[int, int, NDArray[np.int64]]]] = {}  # group -> its members: layer, neuron, rows with a line that it reads
    holds = [np.zeros((0, workers), np.bool_) for _ in owners]  # [k][row, worker]: the worker owns or receives the row that layer k reads
    unread = list(holds)  # [k][row, worker]: the worker receives the row, and no neuron that it owns reads the row
    load = np.array([np.bincount(owner[owner >= 0], minlength=workers) for owner in owners])
    for k, owner in enumerate(owners):
        if k and (owner < 0).any():
            source, (starts, inputs) = files[k - 1].source, _reads(model.layers[k - 1])
            unread[k], reader = files[k - 1].targets(workers), np.repeat(owner, np.diff(starts))
            holds[k] = unread[k].copy()
            holds[k][np.arange(len(source)), source] |= source >= 0
            unread[k][inputs[reader >= 0], reader[reader >= 0]] = False
        for neuron in np.flatnonzero(owner < 0).tolist():
            read = inputs[starts[neuron] : starts[neuron + 1]] if k else np.zeros(0, np.int64)
            groups.setdefault(int(group[k][neuron]), []).append((k, neuron, read[source[read] >= 0] if k else read))
    choices = []
    for members in groups.values():
        able = np.all([holds[k][read].all(axis=0) for k, _, read in members], axis=0)
        if not able.any():
            last, row, _ = members[-1]
            raise InputError(f"{files[last - 1].path}: no worker receives all input rows of output row {row}: expected one that does")
        choices.append((np.flatnonzero(able), members))
    for able, members in sorted(choices, key=lambda choice: len(choice[0])):
        would_read = np.sum([unread[k][read][:, able].sum(axis=0) for k, _, read in members], axis=0)
        chosen = able[np.lexsort((load[members[-1][0]][able], -would_read))[0]]
        for k, neuron, read in members:
            owners[k][neuron] = chosen
            unread[k][read, chosen] = False
            load[k, chosen] += 1


def _compare(layer: Layer, file: _Connections, owner: NDArray[np.int64], outputs: NDArray[np.int64], workers: int, exact: bool) -> None:
    """Check that a file lists each pair of row and target that must travel and, if ``exact``, no other pair.

    Pass ``exact`` = False if this module chose the owner of an output: then the file may list more pairs.
    """
    need, listed = needs(layer, outputs, workers), file.targets(workers)
    need[np.arange(len(owner)), owner] = False
    for row, target in np.argwhere(need & ~listed)[:1]:
        where = f"{file.path}:{file.line[row]}: row {row}"
        raise InputError(f"{where} does not go to worker {target}: expected this target, because it owns a row that reads row {row}")
    for row, target in np.argwhere(listed & ~need & exact)[:1]:
        where = f"{file.path}:{file.line[row]}: row {row}"
        raise InputError(f"{where} goes to worker {target}: expected only targets that own a row that reads row {row}")
