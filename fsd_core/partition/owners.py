"""`Partition`: the owner of every neuron, and its file."""

from __future__ import annotations

import hashlib
import os
import secrets
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError
from fsd_core.home import expanded
from fsd_core.model import Model

__all__ = ["Partition", "widths"]


def widths(model: Model) -> list[int]:
    """Neurons of the input, then of each layer: L+1 numbers."""
    return [model.layers[0].inputs, *(layer.outputs for layer in model.layers)]


@dataclass(frozen=True, eq=False)
class Partition:
    """Every neuron of every layer has one owner among ``workers`` ranks.

    ``owners`` holds L+1 int32 arrays of values 0 to workers-1: the owner of each input neuron, then of each output neuron of layers 1 to L.
    A rank may own nothing of a layer.
    """

    workers: int
    owners: tuple[NDArray[np.int32], ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal; equal for equal partitions whatever file they came from."""
        digest = hashlib.sha256(f"{self.workers} {[len(owner) for owner in self.owners]}".encode())
        for owner in self.owners:
            digest.update(np.ascontiguousarray(owner, "<i4").tobytes())
        return digest.hexdigest()

    def check(self, model: Model, origin: str = "partition") -> Partition:
        """Return itself; raises `InputError`, starting with ``origin``, where it does not fit the model."""
        expected = widths(model)
        if self.workers < 1:
            raise InputError(f"{origin}: {self.workers} workers: at least 1 is needed")
        if len(self.owners) != len(expected):
            raise InputError(f"{origin}: owners of {len(self.owners)} arrays of neurons; the model's input and layers make {len(expected)}")
        for k, (owner, width) in enumerate(zip(self.owners, expected, strict=True)):
            if owner.dtype != np.int32:
                raise InputError(f"{origin}: owner_{k} is {owner.dtype}, not int32")
            if owner.shape != (width,):
                raise InputError(f"{origin}: owner_{k} has shape {owner.shape}; the model has {width} neurons there")
            if width and not 0 <= owner.min() <= owner.max() < self.workers:
                bad = owner[(owner < 0) | (owner >= self.workers)][0]
                raise InputError(f"{origin}: owner_{k} names rank {bad}; {self.workers} workers have ranks 0 to {self.workers - 1}")
        return self

    def save(self, path: str | Path) -> None:
        """Write the ``.npz`` (keys ``workers``, ``owner_0`` to ``owner_L``) in one step: a reader sees the old file or the new one.

        Raises `InputError` where ``path`` is something other than a partition, or cannot be written.
        """
        path = expanded(path)
        if os.path.lexists(path) and not _is_partition(path):
            raise InputError(f"{path}: exists and is no partition file; it is not replaced")
        arrays: dict[str, Any] = {"workers": np.int32(self.workers)} | {f"owner_{k}": owner for k, owner in enumerate(self.owners)}
        try:
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                with open(temporary, "xb") as file:
                    np.savez_compressed(file, **arrays)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error

    @staticmethod
    def load(path: str | Path, model: Model) -> Partition:
        """Read an ``.npz`` of `save`, or a folder ``conn.0`` to ``conn.L-1`` (`fsd_core.partition.published`); check it against ``model``.

        Raises `InputError` where the file is missing, malformed or of another model.
        """
        path = expanded(path)
        if path.is_dir():
            from fsd_core.partition.published import read_folder  # it builds on this module

            return read_folder(path, model)
        try:
            opened = np.load(path, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise InputError(f"{path}: is no .npz; a partition is an .npz with workers, owner_0 to owner_{len(model.layers)}")
            with opened as file:
                expected = {"workers", *(f"owner_{k}" for k in range(len(model.layers) + 1))}
                if set(file.files) != expected:
                    odd = sorted(expected ^ set(file.files))[0]
                    state = "is missing" if odd in expected else "is not expected"
                    raise InputError(
                        f"{path}: key {odd} {state}; a partition of this model has workers, owner_0 to owner_{len(model.layers)}"
                    )
                workers = file["workers"]
                if workers.shape != () or workers.dtype.kind not in "iu":
                    raise InputError(f"{path}: workers is {workers.dtype} of shape {workers.shape}, not one whole number")
                owners = tuple(file[f"owner_{k}"] for k in range(len(model.layers) + 1))
        except FileNotFoundError as error:
            raise InputError(f"partition {path}: no such file or folder, and neither hypergraph, random nor block") from error
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: is no readable .npz: {error}") from error
        return Partition(int(workers), owners).check(model, str(path))


def _is_partition(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return {"workers.npy", "owner_0.npy"} <= set(file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False
