"""The layout of keys in the object store, and the ids of runs.

Nearly all keys begin with a hash or a random id, because stores distribute keys over their machines by the first characters.
"""

from __future__ import annotations

import os

import attrs

__all__ = ["AUDIT", "PASSING", "RunKeys", "content", "is_content", "is_manifest", "is_run", "manifest", "new_run", "slot"]

AUDIT = "audit/"  # the prefix of the audit log of an app
# Prefixes that all other keys have, and the audit log does not: for the rules by which a store forgets objects. Digests and the ids of runs
# begin with a hexadecimal digit; the others are "code/", "probe/" and "slots/".
PASSING = (*"0123456789bcdefps", *(f"a{digit}" for digit in "0123456789abcdef"))


def new_run() -> str:
    """A new random id of a run: 16 hexadecimal digits."""
    return os.urandom(8).hex()


def content(digest: str) -> str:
    """The prefix of the keys of the staged content (a model or inputs) that has this digest."""
    return f"{digest}/content/"


def manifest(key: str) -> str:
    """The key of the manifest of the staged content that ``key`` belongs to. It exists once all parts of the content are stored."""
    return f"{key.rpartition('/')[0]}/manifest"


def is_content(key: str) -> bool:
    """True if a key belongs to staged content."""
    return "/content/" in key


def is_manifest(key: str) -> bool:
    """True if a key is the key of a `manifest`."""
    return is_content(key) and key == manifest(key)


def is_run(key: str) -> bool:
    """True if a key belongs to a run."""
    return "/run/" in key


def slot(number: int, epoch: int | None = None) -> str:
    """The key of the lease of slot ``number`` at ``epoch``. Without ``epoch``, the prefix of all lease keys of the slot."""
    return f"slots/{number}/" if epoch is None else f"slots/{number}/{epoch:010d}"


@attrs.frozen
class RunKeys:
    """The keys of the objects of one run. All of them start with ``prefix``."""

    run: str

    @property
    def prefix(self) -> str:
        """The start of all keys of the run."""
        return f"{self.run}/run/"

    @property
    def config(self) -> str:
        """The run's configuration, which every worker reads first."""
        return f"{self.prefix}config"

    @property
    def error(self) -> str:
        """The error that ended the run. The first process that finds a failure creates this object."""
        return f"{self.prefix}error"

    @property
    def claims(self) -> str:
        """The start of the keys of all claims."""
        return f"{self.prefix}claim/"

    def claim(self, rank: int, incarnation: int = 0) -> str:
        """The claim of an incarnation of a rank. If several workers start for it, the one that creates this object computes the rank."""
        return f"{self.claims}{rank}.{incarnation}" if incarnation else f"{self.claims}{rank}"

    def news(self, number: int) -> str:
        """Entry ``number`` (from 0) of the run's news: a rank was lost, or its next incarnation has started."""
        return f"{self.prefix}news/{number}"

    def progress(self, number: int) -> str:
        """Progress report ``number`` (from 0): how many layers rank 0 has computed.

        Each report has its own key, because some stores accept only one write per second to a key.
        """
        return f"{self.prefix}progress/{number}"

    def exchange(self, step: int, source: int) -> str:
        """All payloads that rank ``source`` sends in one step."""
        return f"{self.prefix}x/{step}/{source}"

    def kept(self, rank: int, incarnation: int, number: int) -> str:
        """Object ``number`` (from 0) of what an incarnation of a rank sent through queues and does not keep in memory."""
        return f"{self.prefix}kept/{rank}.{incarnation}/{number}"

    @property
    def outputs(self) -> str:
        """The start of the keys of all parts of the output."""
        return f"{self.prefix}output/"

    def output(self, batch: int, rank: int) -> str:
        """The part of the output of ``batch`` that ``rank`` computed."""
        return f"{self.outputs}{batch}/{rank}"

    def record(self, rank: int) -> str:
        """The measurements of a rank: times, counters, memory."""
        return f"{self.prefix}record/{rank}"

    def log(self, rank: int) -> str:
        """The log lines of a rank, in a run that lasts long or fails. In other runs, its record has them."""
        return f"{self.prefix}log/{rank}"
