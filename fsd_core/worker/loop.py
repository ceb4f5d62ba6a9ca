"""`Loop`: what the loops of all engines share. A loop takes the micro-batches of one rank through its layers."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Protocol

import attrs

from fsd_core.channel import Aborted, Channel
from fsd_core.common.stopwatch import Stopwatch
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, RunFailed
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.storage.store import Store
from fsd_core.worker.background import Background
from fsd_core.worker.progress import Progress

__all__ = ["Loop", "Part", "read_staged"]

ABORT_CHECK_S = 1.0


def read_staged(store: Store, key: str, start: int | None = None, end: int | None = None) -> bytes:
    """The staged object at ``key``, or its bytes [start, end). Raises `DamagedContent` if it does not exist: stores expire old objects."""
    data = store.find(key, start, end)
    if data is None:
        raise DamagedContent(Code.NOT_FOUND, f"the staged object {key} no longer exists", key)
    return data


class Part(Protocol):
    """What one rank has of a model: its shard. The head has been read, the rest may follow."""

    numbers: list[int]  # of the layers (from 1) in which the rank computes or sends, ascending
    sources: list[list[int]]  # the ranks that send to this rank before each of these layers; ranks count from 0 in each replica


@attrs.define(kw_only=True, eq=False)
class Loop(abc.ABC):
    """Computes the micro-batches of one rank. ``channel`` is `None` in a run of one rank. Only one rank of a run has ``progress``."""

    rank: int
    config: RunConfig
    deadline: float  # of the run, in seconds since 1970
    shard: Any  # what `open` returned
    channel: Channel | None
    store: Store
    pool: Executor  # encodes payloads, reads the input of the next batch, and checks whether the run is over
    background: Background
    watch: Stopwatch
    progress: Progress | None
    note: Callable[[int], None]  # called with each layer that begins
    over: Callable[[], bool]  # checks in the object store whether the run is over
    layer: int | None = None  # the layer (1-based) that is computed now, or was computed last; of layers computed together, the last one
    _looked_at: float = attrs.field(factory=time.monotonic, init=False)
    _looking: Future[bool] | None = attrs.field(default=None, init=False)
    _ahead: Future[bytes] | None = None  # the staged input of the next batch

    @staticmethod
    @abc.abstractmethod
    def open(key: str, read: Callable[[str, int, int], bytes], pool: Executor, *, keep: bool, ahead: int) -> Part:
        """Read the head of the shard at ``key``. ``read(key, start, end)`` returns the bytes [start, end) of an object.

        ``keep``: the weights stay in memory from one micro-batch to the next. ``ahead``: the number of requests for later layers that may
        be under way while the rank computes.
        """

    @abc.abstractmethod
    def run(self, batch: int) -> bytes:
        """Compute a micro-batch by its number (0-based). Returns this rank's slice of the output, encoded.

        The caller ignores the result of a rank that has no slice. Raises `RunFailed` if this rank, a peer or a background task failed, or
        if the deadline passed.
        """

    def _staged(self, batch: int) -> tuple[str, bytes] | None:
        """Key and content of the staged input of a batch, `None` if this rank needs no input. Starts to read that of the next batch."""
        ahead, self._ahead = self._ahead, None
        key = self._input_key(batch)
        if key is None:
            return None
        data = read_staged(self.store, key) if ahead is None else ahead.result()
        following = batch + self.config.data
        if following < len(self.config.batches) and (more := self._input_key(following)) is not None:
            self._ahead = self.pool.submit(read_staged, self.store, more)
        return key, data

    def _input_key(self, batch: int) -> str | None:
        return self.config.inputs[batch][self.rank % self.config.parts]

    @property
    def _base(self) -> int:
        """The first rank of this replica: shards count ranks from there."""
        return self.rank - self.rank % self.config.parts

    def _raise_if_over(self, *, waits: bool) -> None:
        """Raise the failure that ended the run, if any. If the rank does not wait for a peer (``waits``), also check the object store."""
        if time.time() >= self.deadline:
            raise RunFailed(Code.DEADLINE, "the deadline of the run has passed")
        error = self.background.error or (self.channel.mailbox.error if self.channel is not None else None)
        if error is not None:
            raise error
        if not waits and self._looking is None and time.monotonic() - self._looked_at >= ABORT_CHECK_S:
            self._looking = self.pool.submit(self.over)  # the next layers do not wait for the answer
        if self._looking is not None and self._looking.done():
            looking, self._looking, self._looked_at = self._looking, None, time.monotonic()
            if looking.result():
                raise Aborted(Code.UNAVAILABLE, "the run is over")
