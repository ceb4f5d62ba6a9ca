"""Where things lie in the object store, and the ids of runs.

Nearly all keys begin with a hash or a random id: stores spread keys over machines by how they begin.
"""

from __future__ import annotations

import secrets

import attrs

__all__ = ["RunKeys", "content", "is_content", "is_manifest", "is_run", "manifest", "new_run", "slot"]


def new_run() -> str:
    """A fresh run id: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def content(digest: str) -> str:
    """The prefix of staged content that belongs to one digest."""
    return f"{digest}/content/"


def manifest(key: str) -> str:
    """The key of the manifest that stands for staged content, given the key of any part of it."""
    return f"{key.rpartition('/')[0]}/manifest"


def is_content(key: str) -> bool:
    """Whether a key belongs to staged content."""
    return "/content/" in key


def is_manifest(key: str) -> bool:
    """Whether a key is the `manifest` of some content."""
    return is_content(key) and key == manifest(key)


def is_run(key: str) -> bool:
    """Whether a key belongs to some run."""
    return "/run/" in key


def slot(number: int, epoch: int | None = None) -> str:
    """The lease of a slot at an epoch, or the prefix of all its leases."""
    return f"slots/{number}/" if epoch is None else f"slots/{number}/{epoch:010d}"


@attrs.frozen
class RunKeys:
    """The keys of one run, all below its ``prefix``."""

    run: str

    @property
    def prefix(self) -> str:
        """What all keys of the run start with."""
        return f"{self.run}/run/"

    @property
    def config(self) -> str:
        """What every worker reads first."""
        return f"{self.prefix}config"

    @property
    def error(self) -> str:
        """Created by the first that fails."""
        return f"{self.prefix}error"

    def claim(self, rank: int) -> str:
        """Created by the worker that is this rank."""
        return f"{self.prefix}claim/{rank}"

    def progress(self, number: int) -> str:
        """How far rank 0 is; numbered, since some stores take one write a second of one key."""
        return f"{self.prefix}progress/{number}"

    def exchange(self, step: int, source: int) -> str:
        """What a rank sends in one step, for all its targets."""
        return f"{self.prefix}x/{step}/{source}"

    @property
    def outputs(self) -> str:
        """What the keys of all slices of the output start with."""
        return f"{self.prefix}output/"

    def output(self, batch: int, rank: int) -> str:
        """A rank's slice of the output of one batch."""
        return f"{self.outputs}{batch}/{rank}"

    def record(self, rank: int) -> str:
        """What a rank did: times, meter, memory."""
        return f"{self.prefix}record/{rank}"
