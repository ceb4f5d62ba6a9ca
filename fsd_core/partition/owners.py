"""`Partition` holds the rank that owns each neuron. It can be saved to a file and loaded from one."""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cached_property
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.model import Model
from fsd_core.model.npz import members, read_npz
from fsd_core.partition.published import read_folder
from fsd_core.partition.rows import widths

__all__ = ["Partition"]


def _workers(workers: Any) -> int:
    return arguments.whole("workers", workers, 1)


def _owners(owners: Any) -> tuple[NDArray[np.int32], ...]:
    if not isinstance(owners, list | tuple):
        raise arguments.wrong("owners", owners, "a list or tuple of arrays: one for the input and one for each layer")
    return tuple(_ranks(f"owner_{k}", owner) for k, owner in enumerate(owners))


def _ranks(name: str, given: Any) -> NDArray[np.int32]:
    owner = arguments.array(name, given, "iu")
    if owner.ndim != 1:
        raise InputError(f"{name} has shape {owner.shape}: expected one dimension")
    outside = owner[(owner < 0) | (owner > np.iinfo(np.int32).max)]
    if outside.size:
        raise InputError(f"{name} names rank {outside[0]}: expected ranks of at least 0")
    return arguments.own(owner.astype(np.int32, copy=False))


def _stages(stages: Any) -> int:
    return arguments.whole("stages", stages, 1)


@attrs.frozen(eq=False)
class Partition:
    """Each neuron of the input and of every layer has one owner among ``workers`` ranks, those of one replica.

    ``owners`` has L+1 int32 arrays of ranks from 0 to workers-1: the owner of each input neuron, then of each output neuron of layers 1
    to L. A rank may own no neuron of a layer. ``label`` is the method that made the partition, for people. ``digest`` is the SHA-256 of
    the content, hexadecimal. The layers are cut into ``stages`` stages of consecutive layers, and stage s belongs to the ranks from
    s x `tensor` on. The constructor takes arrays of any integer dtype. It stores read-only arrays, and copies each given array unless the
    array and its memory are read-only. Raises `InputError` for a rank outside 0 to workers-1, and for a layer that several stages share.
    """

    workers: int = attrs.field(converter=_workers)
    owners: tuple[NDArray[np.int32], ...] = attrs.field(converter=_owners)
    label: str = "given"
    stages: int = attrs.field(default=1, converter=_stages)

    def __attrs_post_init__(self) -> None:
        for k, owner in enumerate(self.owners):
            if owner.size and (largest := int(owner.max())) >= self.workers:
                raise InputError(f"owner_{k} names rank {largest}: expected ranks 0 to {self.workers - 1} of {self.workers} workers")
        if self.workers % self.stages:
            raise InputError(f"{self.workers} workers in {self.stages} stages: expected a number of workers that {self.stages} divides")
        if self.stages > 1:
            self._check_stages()

    def _check_stages(self) -> None:
        """Raise `InputError` unless each layer belongs to one stage, and the stages follow each other without a gap."""
        before = 0
        for k, owner in enumerate(self.owners):
            found = np.unique(owner // self.tensor)
            if len(found) > 1:
                raise InputError(f"owner_{k} has ranks of stages {found[0]} and {found[1]} (from 0): expected one stage in a layer")
            stage = int(found[0]) if len(found) else before
            if stage not in (before, before + 1) or (k < 2 and stage):
                raise InputError(f"owner_{k} is of stage {stage} (from 0) and the layer before of {before}: expected stages in order")
            before = stage
        if before != self.stages - 1:
            raise InputError(f"the last layer is of stage {before} (from 0): expected {self.stages - 1}, the last of {self.stages} stages")

    @property
    def tensor(self) -> int:
        """The number of ranks that share the layers of a stage."""
        return self.workers // self.stages

    @property
    def starts(self) -> list[int]:
        """The first layer of each stage, 0-based and ascending."""
        stage = [int(owner[0]) // self.tensor if len(owner) else 0 for owner in self.owners[1:]]
        return np.unique(stage, return_index=True)[1].tolist() if self.stages > 1 else [0]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the content, hexadecimal. Equal partitions have equal digests, also if they come from different files."""
        stages = f" {self.stages} stages" if self.stages > 1 else ""
        digest = hashlib.sha256(f"{self.workers} {[len(owner) for owner in self.owners]}{stages}".encode())
        for owner in self.owners:
            digest.update(np.ascontiguousarray(owner, "<i4").tobytes())
        return digest.hexdigest()

    def check(self, model: Model, origin: str = "partition") -> Partition:
        """Return this partition if it has the layers and widths of ``model``. Else raises `InputError`, which starts with ``origin``."""
        expected = widths(arguments.instance("model", model, Model))
        if len(self.owners) != len(expected):
            raise InputError(f"{origin}: {len(self.owners)} arrays of owners: expected {len(expected)}: the input and each layer")
        for k, (owner, width) in enumerate(zip(self.owners, expected, strict=True)):
            if owner.shape != (width,):
                raise InputError(f"{origin}: owner_{k} has shape {owner.shape}: expected {width} neurons, as the model has")
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the partition to an ``.npz`` with the keys ``workers``, ``owner_0`` to ``owner_L`` and ``digest``, and ``stages`` if
        there are several.

        At any moment, a reader finds the complete old file or the complete new file. Raises `InputError` if ``path`` exists and is not a
        partition file, or cannot be written.
        """
        path = arguments.path("path", path)
        if os.path.lexists(path) and not {"workers", "owner_0"} <= members(path):
            raise InputError(f"{path}: exists and is not a partition file, so it is not replaced: expected a new path or a partition file")
        arrays: dict[str, Any] = {"workers": np.int32(self.workers), "digest": np.array(self.digest)}
        arrays |= {"stages": np.int32(self.stages)} if self.stages > 1 else {}
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
        """Read an ``.npz`` that `save` wrote, or a folder with ``conn.0`` to ``conn.L-1`` (`fsd_core.partition.published`).

        Also reads files of other programs, which may have no ``digest`` and no ``stages``. Raises `InputError` if the file is missing,
        malformed or damaged, or does not fit ``model``.
        """
        path, layers = arguments.path("path", path), len(arguments.instance("model", model, Model).layers)
        if os.path.isdir(path):
            return Partition(*read_folder(path, model), str(path)).check(model, str(path))
        if not os.path.exists(path):
            raise InputError(f"partition {path}: no such file or folder: expected the path of a partition, or hypergraph, random or block")
        arrays = read_npz(path)
        digest, stages = arrays.pop("digest", None), arrays.pop("stages", np.int32(1))
        expected = ["workers", *(f"owner_{k}" for k in range(layers + 1))]
        if odd := sorted(arrays.keys() ^ set(expected)):
            state = "is missing" if odd[0] in expected else "is unknown"
            raise InputError(f"{path}: key {odd[0]} {state}: expected workers, owner_0 to owner_{layers} for this model")
        workers, *owners = (arrays[name] for name in expected)
        for name, number in (("workers", workers), ("stages", stages)):
            if number.shape != () or number.dtype.kind not in "iu":
                raise InputError(f"{path}: {name} is {number.dtype} of shape {number.shape}: expected one whole number")
        for k, owner in enumerate(owners):
            if owner.dtype != np.int32:
                raise InputError(f"{path}: owner_{k} is {owner.dtype}: expected int32")
        try:
            made = Partition(int(workers), tuple(owners), str(path), int(stages))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if digest is not None and str(digest) != made.digest:
            raise InputError(f"{path}: is damaged: its digest is {made.digest[:16]}, expected {str(digest)[:16]}; make the partition again")
        return made.check(model, str(path))
