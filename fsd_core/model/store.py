"""Our models on disk: a folder with ``model.json`` and safetensors files.

``model.json`` says for each layer its file, kind, shape, activation, clip, rule and checksum; layer k's arrays are named ``k.indptr``,
``k.indices``, ``k.values`` (or ``k.weights``) and ``k.bias``. Layers share files of up to 256 MiB: one file each would need more open
files than a process may have for the deepest models, one file for all would need a second copy of the model in memory to be written.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import tensors
from fsd_core.model.layer import Csr, Layer, Model

__all__ = ["MANIFEST", "load", "save"]

MANIFEST = "model.json"
_FORMAT = "fsd-model"
_VERSION = 1
_FILE_BYTES = 256 * 2**20
_KINDS = {"csr": ("indptr", "indices", "values", "bias"), "dense": ("weights", "bias")}


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` as folder ``path``, which at every moment is nothing, the old model, or the new one, whole.

    A folder that `save` made is replaced; InputError where anything else is at ``path``, or where it cannot be written.
    """
    folder = arguments.path("path", path)
    arguments.instance("model", model, Model)
    replaces = os.path.lexists(folder)
    if replaces:
        try:
            _manifest(folder)
        except InputError as error:
            raise InputError(f"{folder}: exists and is not a model that fsd made, so it is not replaced") from error
    target = folder if replaces else folder.parent / f".{folder.name}.{secrets.token_hex(8)}"
    try:
        target.mkdir(parents=True, exist_ok=replaces)
        try:
            kept = _write(model, target)
            if not replaces:
                target.rename(folder)
        except BaseException:
            if not replaces:
                shutil.rmtree(target, ignore_errors=True)
            raise
        for stale in folder.glob("weights-*"):
            if stale.name not in kept:
                stale.unlink()
    except OSError as error:
        raise InputError(f"{folder}: the model cannot be written: {error}") from error


def _write(model: Model, folder: Path) -> set[str]:
    """Write the files under names of their content, then the manifest, which makes them the model; return the files' names."""
    from safetensors.numpy import save_file

    entries: list[dict[str, Any]] = []
    files = set()
    for group in _groups(model):
        name = f"weights-{group[0] + 1:05d}-{model.digest[:16]}.safetensors"
        arrays = {f"{k + 1}.{key}": array for k in group for key, array in model.layers[k].arrays.items()}
        aside = folder / f"{name}.new"
        save_file(arrays, aside, {"format": _FORMAT})
        aside.chmod(folder.stat().st_mode & 0o666)  # the library makes it readable by its owner only
        aside.replace(folder / name)  # never written in place: it may be mapped by who reads the model
        files.add(name)
        entries += [_entry(model.layers[k], name) for k in group]
    manifest = {"format": _FORMAT, "version": _VERSION, "name": model.name, "digest": model.digest, "layers": entries}
    aside = folder / f"{MANIFEST}.new"
    aside.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / MANIFEST)
    return files


def _groups(model: Model) -> Iterator[list[int]]:
    """Layer numbers (0-based) in runs that share a file."""
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
    return {
        "file": file,
        "kind": "csr" if isinstance(layer.weights, Csr) else "dense",
        "shape": [layer.outputs, layer.inputs],
        "activation": layer.activation,
        "clip": layer.clip,
        "challenge": layer.challenge,
        "checksum": layer.checksum,
    }


def load(path: str | os.PathLike[str]) -> Model:
    """Open the model in folder ``path``: its arrays are read-only views of the mapped files, all checked, nothing copied.

    Raises InputError naming the file and what is wrong with it.
    """
    folder = arguments.path("path", path)
    manifest = _manifest(folder)
    where = folder / MANIFEST
    entries, name = manifest.get("layers"), manifest.get("name")
    if not isinstance(entries, list) or not isinstance(name, str):
        raise InputError(f"{where}: 'layers' must be a list and 'name' a text")
    files: dict[str, tuple[Any, dict[str, tensors.TensorInfo]]] = {}
    layers = []
    for k, entry in enumerate(entries, 1):
        file = entry.get("file") if isinstance(entry, dict) else None
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{where}: layer {k} has file {file!r}, the name of a file in this folder would be right")
        if file not in files:
            files[file] = _map(folder / file)
        try:
            layers.append(_layer(k, entry, *files[file]))
        except InputError as error:
            raise InputError(f"{folder / file}: layer {k}: {error}") from error
    try:
        model = Model(tuple(layers), name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if model.digest != manifest.get("digest"):
        raise InputError(f"{where}: the digest is {manifest.get('digest')}, its layers give {model.digest}")
    return model


def _manifest(folder: Path) -> dict[str, Any]:
    """The checked head of ``model.json``; InputError where ``folder`` is not a model of ours."""
    path = folder / MANIFEST
    if not os.path.isfile(path):
        raise InputError(f"{folder}: is not a model folder that fsd made (it has no {MANIFEST})")
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise InputError(f"{path}: is not the manifest of a model that fsd made ('format' must be {_FORMAT!r})")
    if manifest.get("version") != _VERSION:
        raise InputError(f"{path}: format version {manifest.get('version')}, this fsd reads version {_VERSION}")
    return manifest


def _map(path: Path) -> tuple[Any, dict[str, tensors.TensorInfo]]:
    """The file mapped into memory, and its arrays."""
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        infos, _, offset = tensors.header(memoryview(buffer))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    end = max((info.end for info in infos.values()), default=offset)
    if len(buffer) != end:
        raise InputError(f"{path}: truncated or too long: {len(buffer)} bytes, its header needs {end}")
    return buffer, infos


def _layer(k: int, entry: dict[str, Any], buffer: Any, infos: dict[str, tensors.TensorInfo]) -> Layer:
    """Layer ``k`` (1-based) as its entry in the manifest says, checked against it."""
    kind, shape, clip, activation, challenge = (entry.get(key) for key in ("kind", "shape", "clip", "activation", "challenge"))
    if kind not in ("csr", "dense"):
        raise InputError(f"kind {kind!r}: csr or dense would be right")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(size) is int for size in shape)):
        raise InputError(f"shape {shape!r}: [outputs, inputs] would be right")
    if not (clip is None or type(clip) in (int, float)) or not isinstance(challenge, bool) or not isinstance(activation, str):
        raise InputError(f"clip {clip!r}, challenge {challenge!r} or activation {activation!r} has a wrong type")
    missing = [name for name in _KINDS[kind] if f"{k}.{name}" not in infos]
    if missing:
        raise InputError(f"has no array {k}.{missing[0]}")
    arrays = {name: tensors.view(buffer, infos[f"{k}.{name}"]) for name in _KINDS[kind]}
    bias = arrays.pop("bias")
    weights = Csr(**arrays, shape=(shape[0], shape[1])) if kind == "csr" else arrays["weights"]
    layer = Layer(weights, bias, activation, clip, challenge)
    if [layer.outputs, layer.inputs] != shape:
        raise InputError(f"shape {layer.outputs} x {layer.inputs}, {MANIFEST} says {shape[0]} x {shape[1]}")
    if layer.checksum != entry.get("checksum"):
        raise InputError(f"corrupt: its checksum is {layer.checksum}, {MANIFEST} says {entry.get('checksum')}")
    return layer
