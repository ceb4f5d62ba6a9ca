"""Reads a partition as FSD-Inference (Oakley and Ferhatosmanoglu, ICDE 2024) published its own: a folder ``conn.0`` to ``conn.L-1``.

``conn.k`` tells what travels before layer k+1: a line ``row source target...`` for each row (0-based, an output of layer k; an input where
k = 0) that worker ``source`` owns and each ``target`` needs. A row that is not listed is owned by its only consumer. Nothing gives the
owners of the last layer's outputs: each goes to a worker that holds all of its inputs, such that every listed target is one, and evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model import Layer, Model
from fsd_core.partition.balance import spread
from fsd_core.partition.exchange import needs
from fsd_core.partition.owners import Partition, widths

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
    workers = 1 + max((int(max(file.source.max(initial=0), file.pairs.max(axis=0, initial=0)[1])) for file in files), default=0)
    owners = [_last(model.layers[-1], files[-1], workers)]
    for k in reversed(range(len(files))):
        owners.insert(0, _owners(model.layers[k], files[k], owners[0], workers, k == len(files) - 1))
    return Partition(workers, tuple(owners)).check(model, str(folder))


def _read(path: Path, rows: int, most: int) -> _Connections:
    line, source, pairs = np.zeros(rows, np.int64), np.full(rows, -1), []
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, content in enumerate(text.splitlines(), 1):
        words = content.split()
        if not words:
            continue
        if len(words) < 3 or not all(word.isdecimal() and len(word) < 10 for word in words):
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


def _owners(layer: Layer, file: _Connections, outputs: NDArray[np.int32], workers: int, last: bool) -> NDArray[np.int32]:
    """Owner of each input row of ``layer``, given those of its ``outputs``; checks that what is listed is what must travel.

    In the ``last`` layer, where the owners of the outputs were chosen, less may travel than is listed.
    """
    need, listed = needs(layer, outputs, workers), file.targets(workers)
    used = need.any(axis=1)
    owner = np.where(
        file.source >= 0, file.source, np.where(used, need.argmax(axis=1), spread(layer.inputs, workers))
    )  # the last: rows that nobody reads
    need[np.arange(len(owner)), owner] = False
    for row, target in np.argwhere(need & ~listed)[:1]:
        if file.line[row]:
            raise InputError(f"{file.path}:{file.line[row]}: row {row} does not go to worker {target}, which owns a row that it feeds")
        raise InputError(f"{file.path}: row {row} is not listed, but workers {owner[row]} and {target} need it")
    for row, target in np.argwhere(listed & ~need & (not last))[:1]:
        raise InputError(f"{file.path}:{file.line[row]}: row {row} goes to worker {target}, which owns no row that it feeds")
    return owner.astype(np.int32)


def _last(layer: Layer, file: _Connections, workers: int) -> NDArray[np.int32]:
    """Owner of each output of the last layer: fewest choices first, to the worker that most of its rows go to in vain so far,
    of equals the least loaded.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    weights = layer.weights
    if isinstance(weights, np.ndarray):
        indptr = np.arange(layer.outputs + 1, dtype=np.int64) * layer.inputs
        indices = np.tile(np.arange(layer.inputs, dtype=np.int32), layer.outputs)
    else:
        indptr, indices = weights.indptr, weights.indices
    missing = file.targets(workers)
    holds = missing.copy()  # which worker has which input row
    holds[file.source < 0] = True
    holds[np.flatnonzero(file.source >= 0), file.source[file.source >= 0]] = True
    # outputs that share a row that is not listed share their owner: components of the graph of outputs and such rows
    shared = file.source[indices] < 0
    ends = (np.repeat(np.arange(layer.outputs), np.diff(indptr))[shared], layer.outputs + indices[shared])
    nodes = layer.outputs + layer.inputs
    links = csr_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(nodes, nodes))
    group = np.unique(connected_components(links, directed=False)[1][: layer.outputs], return_inverse=True)[1]
    count = int(group.max()) + 1
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group, minlength=count))[:-1])
    inputs = [np.unique(np.concatenate([indices[indptr[j] : indptr[j + 1]] for j in outputs])) for outputs in members]
    choices = [holds[rows].all(axis=0) for rows in inputs]
    owner, load = np.zeros(layer.outputs, np.int32), np.zeros(workers, np.int64)
    for i in sorted(range(count), key=lambda i: int(choices[i].sum())):
        able = np.flatnonzero(choices[i])
        if not len(able):
            raise InputError(f"{file.path}: no worker is sent all input rows of output row {members[i][0]} of the last layer")
        lacking = missing[inputs[i]][:, able].sum(axis=0)
        chosen = able[np.lexsort((load[able], -lacking))[0]]
        owner[members[i]], load[chosen] = chosen, load[chosen] + len(members[i])
        missing[inputs[i], chosen] = False
    return owner
