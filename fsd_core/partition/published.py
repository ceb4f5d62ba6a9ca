"""Reads a partition as FSD-Inference (Oakley and Ferhatosmanoglu, ICDE 2024) published its own: a folder ``conn.0`` to ``conn.L-1``.

``conn.k`` tells what travels before layer k+1: a line ``row source target...`` for each row (0-based, an output of layer k; an input where
k = 0) that worker ``source`` owns and each ``target`` needs. A row that is not listed is owned by its only consumer. Nothing gives the
owners of rows that none reads, such as the last layer's: each goes to a worker that holds all of its inputs, such that every listed target
is one as far as may be, and evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.model import Layer, Model
from fsd_core.partition.balance import spread
from fsd_core.partition.exchange import needs, work
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
    owners = [np.full(sizes[-1], -1, np.int32)]
    for layer, file in zip(reversed(model.layers), reversed(files), strict=True):
        outputs = _fill(layer, file, owners[0], workers)
        owners[:1] = [_owners(layer, file, outputs, workers, exact=bool((owners[0] >= 0).all())), outputs]
    owners[0] = np.where(owners[0] < 0, spread(sizes[0], workers), owners[0])
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


def _fill(layer: Layer, file: _Connections, owner: NDArray[np.int32], workers: int) -> NDArray[np.int32]:
    """Owners of the outputs of ``layer`` with those that nothing tells (-1) chosen: fewest choices first, each to the worker that holds
    all of its inputs and that most of these go to in vain so far, of equals the least loaded.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    if (owner >= 0).all():
        return owner
    owner = owner.copy()
    if isinstance(layer.weights, np.ndarray):
        rows, columns = (axis.ravel() for axis in np.indices(layer.weights.shape))
    else:
        rows, columns = np.repeat(np.arange(layer.outputs), work(layer)), layer.weights.indices.astype(np.int64)
    known = owner[rows] >= 0
    in_vain = file.targets(workers)
    holds = in_vain.copy()
    holds[file.source < 0] = True
    listed = np.flatnonzero(file.source >= 0)
    holds[listed, file.source[listed]] = True
    in_vain[columns[known], owner[rows[known]]] = False
    # outputs that share a row that is not listed share their owner: components of the graph of outputs and such rows
    shared = file.source[columns] < 0
    nodes = layer.outputs + layer.inputs
    links = csr_matrix((np.ones(shared.sum(), np.int8), (rows[shared], layer.outputs + columns[shared])), shape=(nodes, nodes))
    group = connected_components(links, directed=False)[1][: layer.outputs]
    order = np.argsort(group, kind="stable")
    reads = np.split(columns, np.searchsorted(rows, np.arange(1, layer.outputs)))
    todo = []
    for outputs in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if (owner[outputs] < 0).any():
            inputs = np.unique(np.concatenate([reads[j] for j in outputs]))
            able = np.flatnonzero(holds[inputs].all(axis=0)) if owner[outputs].max() < 0 else owner[outputs].max(keepdims=True)
            todo.append((able, inputs, outputs[owner[outputs] < 0]))
    load = np.bincount(owner[owner >= 0], minlength=workers)
    for able, inputs, outputs in sorted(todo, key=lambda each: len(each[0])):
        if not len(able):
            raise InputError(f"{file.path}: no worker is sent all input rows of output row {outputs[0]}")
        chosen = able[np.lexsort((load[able], -in_vain[inputs][:, able].sum(axis=0)))[0]]
        owner[outputs] = chosen
        load[chosen] += len(outputs)
        in_vain[inputs, chosen] = False
    return owner


def _owners(layer: Layer, file: _Connections, outputs: NDArray[np.int32], workers: int, exact: bool) -> NDArray[np.int32]:
    """Owner of each input row of ``layer`` (-1: read by none), given those of its ``outputs``.

    Checks that what is listed is what must travel. Where owners of outputs were chosen (not ``exact``), less may travel than is listed.
    """
    need, listed = needs(layer, outputs, workers), file.targets(workers)
    owner = np.where(file.source >= 0, file.source, np.where(need.any(axis=1), need.argmax(axis=1), -1))
    need[np.arange(len(owner)), owner] = False
    for row, target in np.argwhere(need & ~listed)[:1]:
        if file.line[row]:
            raise InputError(f"{file.path}:{file.line[row]}: row {row} does not go to worker {target}, which owns a row that it feeds")
        raise InputError(f"{file.path}: row {row} is not listed, but workers {owner[row]} and {target} need it")
    for row, target in np.argwhere(listed & ~need & exact)[:1]:
        raise InputError(f"{file.path}:{file.line[row]}: row {row} goes to worker {target}, which owns no row that it feeds")
    return owner.astype(np.int32)
