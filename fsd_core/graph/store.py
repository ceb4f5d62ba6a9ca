"""Writes an imported ONNX model: a folder with the graph, which other programs can open too, its weights, and ``model.json``."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.graph.graph import Graph
from fsd_core.graph.read import outside
from fsd_core.graph.stored import FORMAT, MANIFEST, VERSION, Stored, checksum, is_stored

__all__ = ["save_graph"]

_ALIGN = 4096  # bytes: weights are mapped into memory in pages


def save_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write ``graph`` to the folder ``path``. Replaces a folder that `save_graph` wrote there before.

    At any moment, a reader finds the complete old model (or no folder) or the complete new model. Raises `InputError` if ``path`` exists
    and is not such a folder, or cannot be written.
    """
    folder = arguments.path("path", path)
    arguments.instance("graph", graph, Graph)
    replaces = os.path.lexists(folder)
    if replaces and not is_stored(folder):
        raise InputError(f"{folder}: exists and is not an ONNX model that fsd imported, so it is not replaced: expected a new path")
    target = folder if replaces else folder.parent / f".{folder.name}.{secrets.token_hex(8)}"
    try:
        target.mkdir(parents=True, exist_ok=replaces)
        try:
            kept = _write(graph, target)
            if not replaces:
                target.rename(folder)
        except BaseException:
            if not replaces:
                shutil.rmtree(target, ignore_errors=True)
            raise
        for stale in (*folder.glob("graph-*"), *folder.glob("weights-*")):
            if stale.name not in kept:
                stale.unlink()
    except OSError as error:
        raise InputError(f"{folder}: the model cannot be written: {error}") from error


def _write(graph: Graph, folder: Path) -> set[str]:
    """Write the two files, named by the digest, then the manifest, which names them. Return the names of the files."""
    names = (f"weights-{graph.digest[:16]}.bin", f"graph-{graph.digest[:16]}.onnx")
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    aside = folder / f"{names[0]}.new"
    with aside.open("wb") as file:
        for tensor, start in _places(graph, model):
            file.seek(start)
            file.write(np.ascontiguousarray(graph.weights[tensor.name]).data.cast("B"))
            tensor.CopyFrom(outside(tensor.name, graph.weights[tensor.name], tensor.data_type, start))
            tensor.external_data[0].value = names[0]
    aside.replace(folder / names[0])
    aside = folder / f"{names[1]}.new"
    aside.write_bytes(model.SerializeToString(deterministic=True))
    aside.replace(folder / names[1])
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
    aside = folder / f"{MANIFEST}.new"
    aside.write_text(json.dumps({"format": FORMAT, "version": VERSION} | attrs.asdict(entries), indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / MANIFEST)
    return set(names)


def _places(graph: Graph, model: Any) -> Iterator[tuple[Any, int]]:
    """Each tensor of ``model`` whose data is not in it, and the first byte of its place in the file of weights."""
    end = 0
    for tensor in model.graph.initializer:
        if tensor.name in graph.weights:
            start = -(-end // _ALIGN) * _ALIGN
            end = start + graph.weights[tensor.name].nbytes
            yield tensor, start
