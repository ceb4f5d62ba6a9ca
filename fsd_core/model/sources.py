"""Opens the model that the command's argument MODEL names, and imports models of other formats for `fsd model import`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.common.folders import MANIFEST
from fsd_core.common.home import expanded
from fsd_core.errors import InputError
from fsd_core.graph import is_graph, open_graph
from fsd_core.model.challenge import CHALLENGE_BIAS, CHALLENGE_CLIP, radixnet
from fsd_core.model.layer import Csr, Layer, Model
from fsd_core.model.npz import SCIPY_KEYS, compressed, dense, read_npz, scipy_csr
from fsd_core.model.store import load
from fsd_core.model.tsv import read_table

__all__ = ["import_model", "open_model"]

_LAYER_FILE = re.compile(r"n(\d{1,9})-l(\d{1,9})\.tsv")
_ARRAY = re.compile(r"(weights|data|indices|indptr|shape|bias)_(\d{1,9})")


def open_model(spec: str | os.PathLike[str], checksums: bool = True) -> Model:
    """Open the model that ``spec`` names: a folder that fsd made, a Graph Challenge folder, an ONNX file, or ``radixnet:N:L[:SEED]``.

    N is the number of neurons of each layer: 1024, 4096, 16384 or 65536, also for a Graph Challenge folder. L is the number of layers. A
    Graph Challenge folder gets the bias, rule and clip of the challenge. An ONNX model, also one that `save_graph` wrote, has to be a chain
    of layers; `open_graph` opens any. A `Path` is always a file or folder.

    ``checksums``: compare the content of a folder that fsd made with its checksums, which takes two seconds for a gigabyte. Raises
    InputError if the model does not exist or is malformed.
    """
    checksums = arguments.yes_or_no("checksums", checksums)
    spec = arguments.folder_or_name("model", spec, "a Model, the path of a model, or radixnet:NEURONS:LAYERS[:SEED]")
    if isinstance(spec, str) and spec.startswith("radixnet:"):
        fields = spec.split(":")[1:]
        if len(fields) not in (2, 3) or not all(re.fullmatch(r"\d{1,18}", field) for field in fields):
            raise InputError(f"{spec!r}: expected radixnet:NEURONS:LAYERS or radixnet:NEURONS:LAYERS:SEED")
        return radixnet(int(fields[0]), int(fields[1]), int(fields[2]) if len(fields) == 3 else 0)
    path = expanded(spec)
    if is_graph(path):
        from fsd_core.model.chain import chain

        return chain(open_graph(path))
    if os.path.isfile(path / MANIFEST):
        return load(path, checksums)
    if not os.path.exists(path):
        raise InputError(f"{spec}: no such folder: expected a model that fsd made, a Graph Challenge folder, or radixnet:NEURONS:LAYERS")
    if not os.path.isdir(path):
        raise InputError(f"{spec}: is a file: expected the folder of a model; 'fsd model import' makes one from an .npz file")
    neurons, files = _layer_files(path)
    if neurons not in CHALLENGE_BIAS:
        official = ", ".join(map(str, CHALLENGE_BIAS))
        raise InputError(
            f"{spec}: {neurons} neurons: expected a size of the Graph Challenge ({official}); import others with 'fsd model import'"
        )
    layers = [_tsv_layer(file, neurons) for file in files]
    return _model(layers, CHALLENGE_BIAS[neurons], "relu", CHALLENGE_CLIP, True, f"challenge-{neurons}x{len(files)}", str(spec))


def import_model(
    source: str | os.PathLike[str],
    bias: float | None = None,
    rule: str = "plain",
    activation: str = "relu",
    clip: float | None = None,
) -> Model:
    """Read a model from ``source``. Every layer gets ``rule`` (plain or challenge), ``activation`` and ``clip``.

    ``source`` is one of these:

    - A folder of ``n{N}-l{k}.tsv``, any N: lines of ``row column value``, 1-based, row = input neuron, column = output neuron.
    - An ``.npz`` with arrays for each layer k, numbered from 0 or 1 without a gap: ``weights_k`` (outputs, inputs) for a dense layer, or
      ``data_k``, ``indices_k``, ``indptr_k`` and ``shape_k`` of a CSR matrix (outputs, inputs). ``bias_k``, (outputs,) or a scalar, is
      optional.
    - An ``.npz`` with one CSR matrix, as ``scipy.sparse.save_npz`` writes it: a model of one layer.

    ``bias`` is the bias of every neuron. If it is ``None``, the file's own bias is used. A source without a bias gets 0, except a folder
    with the challenge rule and a size N of the challenge, which gets the bias of the challenge. Zero weights of sparse layers are left out.
    Raises InputError, which names the wrong file or argument.
    """
    path, rule = arguments.path("source", source), arguments.one_of("rule", rule, ("plain", "challenge"))
    bias = None if bias is None else arguments.number("bias", bias)
    if os.path.isdir(path):
        neurons, files = _layer_files(path)
        if bias is None:
            bias = CHALLENGE_BIAS.get(neurons, 0.0) if rule == "challenge" else 0.0
        layers = [_tsv_layer(file, neurons) for file in files]
    elif path.suffix == ".npz":
        layers = _npz_layers(path)
        own = next((k for k, (_, layer_bias) in enumerate(layers, 1) if layer_bias is not None), None)
        if bias is not None and own is not None:
            raise InputError(f"bias {bias}: expected no bias argument, because layer {own} of {path} has its own bias")
    elif is_graph(path):
        raise InputError(f"{path}: is an ONNX model: expected another source here; open_graph and save_graph import ONNX models")
    else:
        state = "is neither" if os.path.exists(path) else "no such file or folder"
        raise InputError(f"{path}: {state}: expected a folder of n{{N}}-l{{k}}.tsv files or an .npz file")
    return _model(layers, bias or 0.0, activation, clip, rule == "challenge", path.resolve().name.removesuffix(".npz"), str(path))


_Weights = tuple[Csr | NDArray[np.float32], NDArray[Any] | None]  # the weights of a layer, and its own bias if it has one


def _model(layers: list[_Weights], bias: float, activation: str, clip: float | None, challenge: bool, name: str, source: str) -> Model:
    try:
        with np.errstate(over="ignore"):
            shared = np.asarray(bias, np.float32)
        return Model(tuple(Layer(weights, shared if own is None else own, activation, clip, challenge) for weights, own in layers), name)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _layer_files(folder: Path) -> tuple[int, list[Path]]:
    """The width and the layer files in numeric order. Raises InputError if a file is missing or the widths differ."""
    found: dict[int, Path] = {}
    widths = set()
    try:
        files = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error}") from error
    for file in files:
        if match := _LAYER_FILE.fullmatch(file.name):
            number = int(match[2])
            widths.add(int(match[1]))
            if number in found:
                raise InputError(
                    f"{folder}: {found[number].name} and {file.name} are both layer {number}: expected one file for each layer"
                )
            found[number] = file
    if not found:
        raise InputError(f"{folder}: is a folder without a model: expected {MANIFEST} or files n{{N}}-l{{k}}.tsv")
    if len(widths) > 1:
        raise InputError(f"{folder}: has layers of {' and '.join(map(str, sorted(widths)))} neurons: expected one size for all layers")
    for number in range(1, len(found) + 1):
        if number not in found:
            raise InputError(
                f"{folder}: layer {number} is missing: expected n{min(widths)}-l{number}.tsv, because the last file is layer {max(found)}"
            )
    return widths.pop(), [found[number] for number in sorted(found)]


def _tsv_layer(file: Path, neurons: int) -> _Weights:
    table = read_table(file, neurons, neurons)
    return Csr.build(table.columns, table.rows, table.values, (neurons, neurons)), None


def _npz_layers(path: Path) -> list[_Weights]:
    """The weights and the own bias of each layer of an ``.npz``."""
    arrays = read_npz(path)
    try:
        if arrays.keys() >= SCIPY_KEYS:
            return [(scipy_csr(arrays), None)]
        layers: dict[int, dict[str, NDArray[Any]]] = {}
        for key, array in arrays.items():
            match = _ARRAY.fullmatch(key)
            if match is None:
                raise InputError(f"array {key!r} is unknown: expected weights_k, data_k, indices_k, indptr_k, shape_k or bias_k")
            layers.setdefault(int(match[2]), {})[match[1]] = array
        first = min(layers, default=0)
        if not layers or first > 1 or sorted(layers) != list(range(first, first + len(layers))):
            raise InputError(f"arrays of layers {sorted(layers)}: expected layer numbers that start at 0 or 1 and have no gap")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return [_npz_layer(f"{path}: layer key {k}", layers[k]) for k in sorted(layers)]


def _npz_layer(where: str, arrays: dict[str, NDArray[Any]]) -> _Weights:
    bias = arrays.pop("bias", None)
    try:
        if bias is not None and bias.dtype.kind not in "fiub":
            raise InputError(f"bias of {bias.dtype}: expected real numbers")
        if arrays.keys() == {"weights"}:
            return dense(arrays["weights"]), bias
        if arrays.keys() == {"data", "indices", "indptr", "shape"}:
            return compressed(**arrays), bias
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    raise InputError(f"{where}: has {', '.join(sorted(arrays)) or 'no weights'}: expected weights, or data, indices, indptr and shape")
