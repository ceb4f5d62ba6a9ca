"""`Partition`: the owner of every neuron, and its file."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.model.npz import members, read_npz

__all__ = ["Partition", "widths"]


def widths(model: Model) -> list[int]:
    """Neurons of the input, then of each layer: L+1 numbers."""
    return [model.layers[0].inputs, *(layer.outputs for layer in model.layers)]


@dataclass(frozen=True, eq=False)
class Partition:
    """Every neuron of every layer has one owner among ``workers`` ranks.

    ``owners`` holds L+1 int32 arrays of values 0 to workers-1: the owner of each input neuron, then of each output neuron of layers 1 to L.
    A rank may own nothing of a layer. ``label`` tells people how it was made. Whole numbers of any dtype may be given; what is kept is
    read-only, a copy unless what was given is read-only too. Raises `InputError` where a rank is named that there is not.
    """

    workers: int
    owners: tuple[NDArray[np.int32], ...]
    label: str = "given"

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", arguments.whole("workers", self.workers, 1))
        if not isinstance(self.owners, list | tuple):
            raise arguments.wrong("owners", self.owners, "a list or tuple of arrays, one of the input and one a layer")
        object.__setattr__(self, "owners", tuple(self._ranks(k, owner) for k, owner in enumerate(self.owners)))

    def _ranks(self, k: int, given: Any) -> NDArray[np.int32]:
        owner = arguments.array(f"owner_{k}", given, "iu")
        if owner.ndim != 1:
            raise InputError(f"owner_{k} has shape {owner.shape}: expected one dimension")
        bad = owner[(owner < 0) | (owner >= self.workers)]
        if bad.size:
            raise InputError(f"owner_{k} names rank {bad[0]}; {self.workers} workers have ranks 0 to {self.workers - 1}")
        return arguments.own(owner.astype(np.int32, copy=False))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal; equal for equal partitions whatever file they came from."""
        digest = hashlib.sha256(f"{self.workers} {[len(owner) for owner in self.owners]}".encode())
        for owner in self.owners:
            digest.update(np.ascontiguousarray(owner, "<i4").tobytes())
        return digest.hexdigest()

    def check(self, model: Model, origin: str = "partition") -> Partition:
        """Return itself; raises `InputError`, starting with ``origin``, where it does not fit the model."""
        expected = widths(arguments.instance("model", model, Model))
        if len(self.owners) != len(expected):
            raise InputError(f"{origin}: owners of {len(self.owners)} arrays of neurons; the model's input and layers make {len(expected)}")
        for k, (owner, width) in enumerate(zip(self.owners, expected, strict=True)):
            if owner.shape != (width,):
                raise InputError(f"{origin}: owner_{k} has shape {owner.shape}; the model has {width} neurons there")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ``.npz`` (keys ``workers``, ``owner_0`` to ``owner_L``, ``digest``) in one step: a reader sees the old file or the new.

        Raises `InputError` where ``path`` is something other than a partition, or cannot be written.
        """
        path = arguments.path("path", path)
        if os.path.lexists(path) and not {"workers", "owner_0"} <= members(path):
            raise InputError(f"{path}: exists and is no partition file; it is not replaced")
        arrays: dict[str, Any] = {"workers": np.int32(self.workers), "digest": np.array(self.digest)}
        arrays |= {f"owner_{k}": owner for k, owner in enumerate(self.owners)}
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
    def load(path: str | os.PathLike[str], model: Model) -> Partition:
        """Read an ``.npz`` of `save`, or a folder ``conn.0`` to ``conn.L-1`` (`fsd_core.partition.published`); check it against ``model``.

        A file without ``digest`` is one of another maker. Raises `InputError` where it is missing, malformed, damaged or of another model.
        """
        path, layers = arguments.path("path", path), len(arguments.instance("model", model, Model).layers)
        if os.path.isdir(path):
            from fsd_core.partition.published import read_folder  # it builds on this module

            return read_folder(path, model)
        if not os.path.exists(path):
            raise InputError(f"partition {path}: no such file or folder, and neither hypergraph, random nor block")
        arrays = read_npz(path)
        told = arrays.pop("digest", None)
        expected = ["workers", *(f"owner_{k}" for k in range(layers + 1))]
        if odd := sorted(arrays.keys() ^ set(expected)):
            state = "is missing" if odd[0] in expected else "is not expected"
            raise InputError(f"{path}: key {odd[0]} {state}; a partition of this model has workers, owner_0 to owner_{layers}")
        workers, *owners = (arrays[name] for name in expected)
        if workers.shape != () or workers.dtype.kind not in "iu":
            raise InputError(f"{path}: workers is {workers.dtype} of shape {workers.shape}, not one whole number")
        for k, owner in enumerate(owners):
            if owner.dtype != np.int32:
                raise InputError(f"{path}: owner_{k} is {owner.dtype}, not int32")
        try:
            made = Partition(int(workers), tuple(owners), str(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if told is not None and str(told) != made.digest:
            raise InputError(f"{path}: is damaged: its digest is {made.digest[:16]}, expected {str(told)[:16]}; make it again")
        return made.check(model, str(path))
