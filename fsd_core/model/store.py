"""Models on disk: a folder with ``model.json`` and safetensors files.

``model.json`` has for each layer its file, kind, shape, activation, clip, rule and checksum. The arrays of layer k are named ``k.indptr``,
``k.indices`` and ``k.values`` (or ``k.weights``), and ``k.bias``. Layers share files of up to 256 MiB: one file for each layer could exceed
the number of files that a process may open, and to write one file for all layers, the library would need a second copy of the model in
memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from fsd_core.common import arguments
from fsd_core.common.fields import Kind, boolean, choice, key, listed, read, table, text
from fsd_core.common.files import open_regular
from fsd_core.common.folders import FILE, MANIFEST, Format, replacing_path
from fsd_core.errors import InputError
from fsd_core.model import tensors
from fsd_core.model.layer import ACTIVATIONS, Csr, Layer, Model

__all__ = ["load", "save"]

_FORMAT = Format("fsd-model", 1, "a model that fsd made")
_FILE_BYTES = 256 * 2**20
_KINDS = {"csr": ("indptr", "indices", "values", "bias"), "dense": ("weights", "bias")}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_SHAPE = Kind("[outputs, inputs]", lambda value: isinstance(value, list) and [type(size) for size in value] == [int, int])
_CLIP = Kind("a number, or null", lambda value: value is None or _is_number(value))  # `Layer` checks the number


@attrs.frozen(kw_only=True)
class _Entry:
    """The entry of one layer in ``model.json``."""

    file: str = key(FILE)
    kind: str = key(choice(*_KINDS))
    shape: list[int] = key(_SHAPE)
    activation: str = key(choice(*ACTIVATIONS))
    clip: float | None = key(_CLIP)
    challenge: bool = key(boolean())
    checksum: str = key(text())


@attrs.frozen(kw_only=True)
class _Manifest:
    """The entries of ``model.json`` that describe the whole model, except format and version."""

    name: str = key(text())
    digest: str = key(text())
    layers: list[Any] = key(listed(table()))


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to the folder ``path``. Replaces a model that `save` wrote there before.

    At any moment, a reader finds the complete old model (or no folder) or the complete new model. Raises InputError if ``path`` exists and
    is not such a folder, or cannot be written.
    """
    folder = arguments.path("path", path)
    arguments.instance("model", model, Model)
    _FORMAT.save(folder, partial(_write, model))


def _write(model: Model, folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Write the files of weights. Return the entries of the manifest and the names of the files."""
    from safetensors.numpy import save_file

    entries: list[dict[str, Any]] = []
    files = set()
    for group in _groups(model):
        name = f"weights-{group[0] + 1:05d}-{model.digest[:16]}.safetensors"
        arrays = {f"{k + 1}.{key}": array for k in group for key, array in model.layers[k].arrays.items()}
        with replacing_path(folder / name) as new:
            save_file(arrays, new, {"format": _FORMAT.name})
            new.chmod(folder.stat().st_mode & 0o666)  # the library lets only the owner read the file
        files.add(name)
        entries += [_entry(model.layers[k], name) for k in group]
    return {"name": model.name, "digest": model.digest, "layers": entries}, files


def _groups(model: Model) -> Iterator[list[int]]:
    """The layer numbers (0-based) of each file."""
    group: list[int] = []
    size = 0
    for k, layer in enumerate(model.layers):
        layer_bytes = sum(array.nbytes for array in layer.arrays.values())
        if group and size + layer_bytes > _FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(k)
        size += layer_bytes
    yield group


def _entry(layer: Layer, file: str) -> dict[str, Any]:
    return attrs.asdict(
        _Entry(
            file=file,
            kind="csr" if isinstance(layer.weights, Csr) else "dense",
            shape=[layer.outputs, layer.inputs],
            activation=layer.activation,
            clip=layer.clip,
            challenge=layer.challenge,
            checksum=layer.checksum,
        )
    )


def load(path: str | os.PathLike[str], checksums: bool = True) -> Model:
    """Open the model in the folder ``path``. Its arrays are read-only views of memory-mapped files: `load` checks all and copies none.

    ``checksums``: compare the content with the checksums in the manifest, which takes two seconds for a gigabyte. Without that, the model's
    ``recipe`` is the digest in the manifest. Raises InputError, which names the file and the defect, if the folder is not a model or a file
    is damaged.
    """
    folder = arguments.path("path", path)
    where = folder / MANIFEST
    manifest = read(_Manifest, _FORMAT.manifest(folder), f"{where}: ", known=("format", "version"))
    files: dict[str, tuple[Any, dict[str, tensors.TensorInfo]]] = {}
    layers = []
    for k, found in enumerate(manifest.layers, 1):
        entry = read(_Entry, found, f"{where}: layer {k}: ")
        if entry.file not in files:
            files[entry.file] = _map(folder / entry.file)
        try:
            layers.append(_layer(k, entry, *files[entry.file], checksums))
        except InputError as error:
            raise InputError(f"{folder / entry.file}: layer {k}: {error}") from error
    try:
        model = Model(tuple(layers), manifest.name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not checksums:
        object.__setattr__(model, "recipe", f"digest {manifest.digest}")
    elif model.digest != manifest.digest:
        raise InputError(f"{where}: digest = {manifest.digest}: expected {model.digest}, the digest of its layers")
    return model


def _map(path: Path) -> tuple[Any, dict[str, tensors.TensorInfo]]:
    """The file, mapped into memory, and the places of its arrays by name."""
    try:
        with open_regular(path) as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        infos, _, offset = tensors.header(memoryview(buffer))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    end = max((info.end for info in infos.values()), default=offset)
    if len(buffer) != end:
        raise InputError(f"{path}: truncated or too long: {len(buffer)} bytes: expected {end}, as its header describes")
    return buffer, infos


def _layer(k: int, entry: _Entry, buffer: Any, infos: dict[str, tensors.TensorInfo], checksums: bool) -> Layer:
    """Layer ``k`` (1-based) of the arrays in ``buffer``, checked against its ``entry``."""
    missing = [name for name in _KINDS[entry.kind] if f"{k}.{name}" not in infos]
    if missing:
        raise InputError(f"array {k}.{missing[0]} is missing: expected arrays {', '.join(_KINDS[entry.kind])} of layer {k}")
    arrays = {name: tensors.view(buffer, infos[f"{k}.{name}"]) for name in _KINDS[entry.kind]}
    bias = arrays.pop("bias")
    weights = Csr(**arrays, shape=(entry.shape[0], entry.shape[1])) if entry.kind == "csr" else arrays["weights"]
    layer = Layer(weights, bias, entry.activation, entry.clip, entry.challenge)
    if [layer.outputs, layer.inputs] != entry.shape:
        raise InputError(f"shape {layer.outputs} x {layer.inputs}: expected {entry.shape[0]} x {entry.shape[1]}, as in {MANIFEST}")
    if checksums and layer.checksum != entry.checksum:
        raise InputError(f"corrupt: its checksum is {layer.checksum}: expected {entry.checksum}, as in {MANIFEST}")
    return layer
