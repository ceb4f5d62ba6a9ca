"""The configuration of a run. The client writes it into the object store, and each worker reads it before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from fsd_core.channel import RankIdentity
from fsd_core.common.fields import boolean, choice, integer, key, listed, matching, nullable, number, read, table, text
from fsd_core.common.logs import LEVELS
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import InputError, RunFailed

__all__ = ["CHANNELS", "ENGINES", "OBJECTIVES", "RECOVERY", "VERSION", "RunConfig"]

VERSION = 8
CHANNELS = ("queue", "object", "hybrid")  # the channels that can carry activations
ENGINES = ("rows", "onnx")  # what can compute a part of a model
OBJECTIVES = ("cost", "latency")  # the quantity that a run minimises
RECOVERY = ("on", "off", "deaths", "stragglers")  # which ranks get another function; on: slow ones only where latency is minimised


@attrs.frozen
class RunConfig:
    """The configuration of one run. ``frame_key`` is its one secret: no log line, record, error or `repr` shows it."""

    version: int = key(integer(1))
    run: str = key(text())
    engine: str = key(choice(*ENGINES))
    channel: str = key(choice(*CHANNELS))
    workers: int = key(integer(1))
    data: int = key(integer(1))  # replicas; replica d has the ranks from d x `parts` on
    pipeline: int = key(integer(1))  # stages of a replica
    roots: int = key(integer(1))  # the number of ranks that the client starts itself
    branching: int = key(integer(1))
    layers: int = key(integer(1))
    batches: list[int] = key(listed(integer(1), filled=True))  # samples of each batch
    # By part. rows: a worker keeps its weights for all batches, else it reads them again for each batch; onnx: a worker holds its weights a
    # second time, in a form that multiplies faster.
    keep: list[bool] = key(listed(boolean(), filled=True))
    ahead: list[int] = key(listed(integer(0), filled=True))  # by part: requests for later layers that are under way while it computes
    shards: list[str] = key(listed(text(), filled=True))  # key of the shard, by part: the number of a rank in its replica
    inputs: list[list[str | None]] = key(listed(listed(nullable(text()), filled=True), filled=True))  # key of the inputs, by batch and part
    last: list[int] = key(listed(integer(0), filled=True))  # the parts that own rows of the last layer, ascending
    objective: str = key(choice(*OBJECTIVES))
    faults: str | None = key(nullable(text()))
    started: float = key(number())  # seconds since 1970, on the client's clock
    start_s: float = key(number())  # the seconds that a stage may take to start and to compute its first micro-batch
    stage_s: float = key(number())  # the estimate of the seconds in which a stage computes a micro-batch
    slow_s: float = key(number())  # a rank waits at least so many seconds before it calls another one slow; 0: it calls none
    log: str = key(choice(*LEVELS))  # the level of the lines that a worker keeps
    outage_s: float = key(number())  # the time in seconds that a service may be unreachable
    recovery: bool = key(boolean())  # a rank that is lost gets a new incarnation
    kept_bytes: int = key(integer(0))  # what a worker may keep of what it sent through queues
    frame_key: str = key(matching(r"[0-9a-f]{64}", "64 hexadecimal digits", secret=True))  # of the tags of frames and bundles
    latency: Mapping[str, Any] | None = key(nullable(table()), default=None)  # see `fsd_core.latency.Latency.pack`

    @property
    def queued(self) -> bool:
        """True if the run uses queues. Its ranks then also receive abort messages from their queues."""
        return self.channel != "object" and self.workers > 1

    @property
    def parts(self) -> int:
        """The number of ranks of one replica."""
        return self.workers // self.data

    def stage(self, rank: int) -> int:
        """The stage of a rank, from 0."""
        return rank % self.parts * self.pipeline // self.parts

    def step(self, batch: int, layer: int) -> int:
        """The number of the exchange before a layer (from 2) of a batch (from 0). There is no exchange before layer 1."""
        return batch * (self.layers - 1) + layer - 2

    def targets(self, rank: int) -> list[int]:
        """The ranks to which a rank may send activations: the others of its stage, and those of the next stage of its replica."""
        tensor = self.parts // self.pipeline
        first = rank - rank % tensor
        end = min(first + 2 * tensor, rank - rank % self.parts + self.parts)
        return [each for each in range(first, end) if each != rank]

    def sources(self, rank: int) -> list[int]:
        """The ranks that may send something to a rank. Each rank that writes outputs also sends to rank 0."""
        return [each for each in range(self.workers) if rank in self.targets(each) or (rank == 0 < each and each % self.parts in self.last)]

    def batches_of(self, rank: int) -> range:
        """The numbers of the batches (from 0) that a rank computes: batch b goes to replica b modulo ``data``."""
        return range(rank // self.parts, len(self.batches), self.data)

    def writers(self, batch: int) -> list[int]:
        """The ranks that write the output of a batch, ascending."""
        return [batch % self.data * self.parts + part for part in self.last]

    @property
    def slices(self) -> int:
        """The number of objects in which the ranks write the output of all batches."""
        return len(self.last) * len(self.batches)

    def member(self, epoch: int, rank: int, deadline: float, incarnation: int = 0) -> RankIdentity:
        """The member of the run with this rank; -1: the client. ``epoch``: of the slot's lease; ``deadline`` in seconds since 1970."""
        return RankIdentity(self.run, epoch, rank, self.workers, deadline, incarnation, key=bytes.fromhex(self.frame_key))

    def pack(self) -> bytes:
        """Encode the configuration as sealed JSON."""
        return seal(attrs.asdict(self, recurse=False))

    @staticmethod
    def unpack(data: bytes) -> RunConfig:
        """Decode what `pack` made. Raises `RunFailed` (`Code.INVALID`) if ``data`` is damaged or has another version."""
        try:
            found = unseal(data, "the run's configuration")
            if found.get("version") != VERSION:
                raise InputError(
                    f"the run's configuration has version {found.get('version')!r}: expected {VERSION}, the version of this worker; "
                    "deploy the app again"
                )
            return read(RunConfig, found, "the run's configuration: ")
        except (Damaged, InputError) as error:
            raise RunFailed(Code.INVALID, str(error)) from error
