"""Writes an imported ONNX model: a folder with the graph, which other programs can open too, its weights, and ``model.json``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from fsd_core.common import arguments
from fsd_core.common.folders import replacing_path
from fsd_core.graph.graph import Graph
from fsd_core.graph.read import outside
from fsd_core.graph.stored import FORMAT, Stored, checksum

__all__ = ["save_graph"]

_ALIGN = 4096  # bytes: weights are mapped into memory in pages


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write ``graph`` to the folder ``path``. Replaces a folder that `save_graph` wrote there before.

    At any moment, a reader finds the complete old model (or no folder) or the complete new model. Raises `InputError` if ``path`` exists
    and is not such a folder, or cannot be written.
    """
    folder = arguments.path("path", path)
    arguments.instance("graph", graph, Graph)
    FORMAT.save(folder, partial(_write, graph))


def _write(graph: Graph, folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Write the two data files. Return the entries of the manifest and the names of the files."""
    names = (f"weights-{graph.digest[:16]}.bin", f"graph-{graph.digest[:16]}.onnx")
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    with replacing_path(folder / names[0]) as new, new.open("wb") as file:
        for tensor, start in _places(graph, model):
            file.seek(start)
            file.write(np.ascontiguousarray(graph.weights[tensor.name]).data.cast("B"))
            tensor.CopyFrom(outside(tensor.name, graph.weights[tensor.name], tensor.data_type, start))
            tensor.external_data[0].value = names[0]
    with replacing_path(folder / names[1]) as new:
        new.write_bytes(model.SerializeToString(deterministic=True))
    sums = [checksum(folder / name) for name in names]
    entries = Stored(
        name=graph.name,
        graph=names[1],
        graph_sha256=sums[1],
        weights=names[0],
        weights_sha256=sums[0],
        batch_axis="0" if graph.no_batch is None else "none",
        shapes={each.name: [1 if size is None else size for size in each.shape or ()] for each in graph.inputs},
    )
    return attrs.asdict(entries), set(names)


def _places(graph: Graph, model: Any) -> Iterator[tuple[Any, int]]:
    """Each tensor of ``model`` whose data is not in it, and the first byte of its place in the file of weights."""
    end = 0
    for tensor in model.graph.initializer:
        if tensor.name in graph.weights:
            start = -(-end // _ALIGN) * _ALIGN
            end = start + graph.weights[tensor.name].nbytes
            yield tensor, start
