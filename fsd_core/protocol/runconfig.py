"""What all workers of a run share: written by the client into the object store, read by every worker first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import RunFailed

__all__ = ["VERSION", "RunConfig"]

VERSION = 2


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Names, never secrets. ``batches``: sample counts; ``inputs``: key by batch, then rank.

    ``keep``: hold the shard in memory between batches, instead of reading it again. ``start_s``: how long the launches of all ranks
    may take together. ``outage_s``: how long a service may be unreachable.
    """

    version: int
    run: str
    channel: str
    workers: int
    branching: int
    layers: int
    batches: list[int]
    keep: bool
    shards: list[str]
    inputs: list[list[str]]
    objective: str
    faults: str | None
    started: float
    start_s: float
    outage_s: float

    @property
    def queued(self) -> bool:
        """Whether the ranks have queues on which they hear of an abort."""
        return self.channel != "object" and self.workers > 1

    def pack(self) -> bytes:
        """As sealed JSON."""
        return seal(asdict(self))

    @staticmethod
    def unpack(data: bytes) -> RunConfig:
        """From sealed JSON of this version. Raises `RunFailed` on any other, and where it is damaged."""
        try:
            found = unseal(data, "the run's configuration")
        except Damaged as error:
            raise RunFailed(Code.INVALID, str(error)) from error
        if found.get("version") != VERSION or found.keys() != {field.name for field in fields(RunConfig)}:
            raise RunFailed(
                Code.INVALID, f"the run's configuration has version {found.get('version')}, this worker reads {VERSION}: deploy again"
            )
        return RunConfig(**found)
