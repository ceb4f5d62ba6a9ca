"""The base class of all channels: waiting for peers with a stall limit, naming the missing ranks, and ending a run early."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import attrs

from fsd_core.channel.mailbox import Mailbox
from fsd_core.common import fields
from fsd_core.common.fields import choice, integer, nullable, text
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, FsdError, InputError, RunFailed
from fsd_core.storage.retry import Retry

__all__ = ["Aborted", "Channel", "ChannelConfig", "RankIdentity", "StallLimit"]

START_S = 65.0  # `fsd_core.protocol.spawn.start_limit_s` for a platform of 5 s, and 15 s more
MAX_MESSAGE_CHARS = 2000  # of an error, so that its message fits every queue
MIN_LIMIT_S = 5.0
SLOWEST_FACTOR = 20.0
POLL_S = 0.2  # between two looks at the limits while a step waits


class Aborted(RunFailed):
    """The run failed elsewhere and the reason is known. This rank stops for no reason of its own."""

    key = ""  # the staged object that was missing or damaged, if that is the reason

    @property
    def reason(self) -> RunFailed:
        """The error that ended the run, as its rank raised it."""
        if self.key:
            return DamagedContent(self.code, self.message, self.key, rank=self.rank, layer=self.layer)
        return RunFailed(self.code, self.message, rank=self.rank, layer=self.layer)


@attrs.frozen
class RankIdentity:
    """A worker's rank (-1: the client) and its run. ``epoch``: of the slot's lease. ``deadline``: of the run, in seconds since 1970."""

    run: str
    epoch: int
    rank: int
    workers: int
    deadline: float


@attrs.frozen
class ChannelConfig:
    """What a channel of any kind has to know.

    ``expected``: for each step, the ranks that send a payload to this rank. ``pool``: runs the requests that send and fetch.
    ``eager``: save time rather than requests. ``start_s``: how long the ranks may take to start, in seconds.
    """

    me: RankIdentity
    expected: Mapping[int, Collection[int]]
    retry: Retry
    pool: ThreadPoolExecutor
    eager: bool = False
    start_s: float = START_S


class StallLimit:
    """The stall limit: the run fails if a step waits for so many seconds and no payload arrives.

    The limit is `SLOWEST_FACTOR` times the duration of the slowest step so far, and at least `MIN_LIMIT_S` and ``min_s`` seconds. For
    ``start_s`` seconds from the construction of this object it is also at least ``start_s``: a rank that starts late delays another rank
    in the first step, and through it more ranks in later steps. ``clock``: returns seconds.
    """

    def __init__(self, min_s: float = 0.0, clock: Callable[[], float] = time.monotonic, start_s: float = START_S) -> None:
        self._start = start_s
        self._min_s = max(MIN_LIMIT_S, min_s)
        self._slowest = 0.0
        self._clock = clock
        self._began = clock()

    @property
    def seconds(self) -> float:
        """The current stall limit."""
        learned = max(self._min_s, SLOWEST_FACTOR * self._slowest)
        return max(learned, self._start) if self._clock() < self._began + self._start else learned

    def step_ended(self, seconds: float) -> None:
        """Take the duration of a step into account."""
        self._slowest = max(seconds, self._slowest)


class Channel(abc.ABC):
    """Moves payloads between the ranks of one run: in each step at most one from each source to each target.

    A step is complete when each expected source has sent its payload. `send` is asynchronous, and `receive` returns payloads in the
    order of their arrival. Errors of either raise `RunFailed` in `receive` or `finish`.
    """

    def __init__(self, config: ChannelConfig, stall_limit: StallLimit) -> None:
        self.me = config.me
        self.retry = config.retry
        self.meter = config.retry.meter
        self.pool = config.pool
        self.eager = config.eager
        self.stall_limit = stall_limit
        self.retry.stall_s = lambda: stall_limit.seconds
        self.mailbox = Mailbox(config.expected, self.retry.stop.set)  # once the run has failed, requests that wait for a retry end too
        self._sending: list[Future[None]] = []
        self._step_began = time.monotonic()

    @abc.abstractmethod
    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Start to send each payload to its target: pairs of (target, payload). Returns before they are sent."""

    @abc.abstractmethod
    def abort(self, error: RunFailed, retry: Retry) -> None:
        """Tell all other ranks that the run failed with ``error``. ``retry``: for these requests; the run's may have no time left."""

    def prepare(self, step: int) -> None:  # noqa: B027  only some services need it
        """Start to receive payloads of ``step``."""

    def receive(self, step: int, *, stalls: int = 1) -> Iterator[tuple[int, bytes]]:
        """Yield (source, payload) for each expected source of ``step``, in the order of arrival.

        Raises `RunFailed` (`Code.DEADLINE`) if nothing arrives for ``stalls`` times the stall limit, or at the run's deadline.
        """
        self.prepare(step)
        heard_at = time.monotonic()
        while missing := self.mailbox.missing(step):
            for item in self._drain(step):
                yield item
                heard_at = time.monotonic()  # the caller may have computed since `yield`, which is no stall
            self._check_sends()
            arrival = self.mailbox.next(step, timeout=POLL_S)
            if arrival is not None:
                yield arrival
                heard_at = time.monotonic()
                continue
            waited = time.monotonic() - heard_at
            if waited > stalls * self.stall_limit.seconds or time.time() > self.me.deadline:
                raise RunFailed(Code.DEADLINE, self._who(step, missing, waited), rank=self.me.rank)
        yield from self._drain(step)
        now = time.monotonic()
        self.stall_limit.step_ended(now - self._step_began)  # the time of computing counts: another rank may take as long
        self._step_began = now

    def _drain(self, step: int) -> Iterator[tuple[int, bytes]]:
        while (item := self.mailbox.next(step, timeout=0)) is not None:
            yield item

    def _who(self, step: int, missing: list[int], waited: float) -> str:
        """The error line: the ranks that did not send, and the last step in which this rank heard from each."""
        heard = self.mailbox.heard
        who = ", ".join(f"rank {r} ({f'last heard in step {heard[r]}' if r in heard else 'never heard of'})" for r in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        limit = "past the run's deadline" if time.time() > self.me.deadline else "longer than the stall limit"
        strays = self.meter.snapshot()["strays_dropped"]
        note = f"; dropped {strays} messages that were unreadable or of other runs" if strays else ""
        away = f"; {silent[0]} unreachable for {silent[1]:.0f} s" if (silent := self.retry.unreachable()) else ""
        return f"waited {waited:.1f} s in step {step}, {limit}, for {who}{more}{note}{away}"

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task that sends in the pool. `receive` or `finish` raises its error."""
        self._sending.append(self.pool.submit(task))

    def _check_sends(self) -> None:
        """Raise the error of a sending task that has ended."""
        pending = []
        for task in self._sending:
            if task.done():
                task.result()
            else:
                pending.append(task)
        self._sending = pending

    def receiving_failed(self, error: Exception) -> None:
        """Make `receive` raise the error of a thread that receives. An error of another class than `FsdError` is a defect, and is named."""
        if not isinstance(error, FsdError):
            error = RunFailed(Code.UNKNOWN, f"receiving failed: {type(error).__name__}: {error}", rank=self.me.rank)
        self.mailbox.fail(error)

    def finish_sends(self) -> None:
        """Wait until all payloads are sent. Raises the error of a sending task."""
        for task in self._sending:
            task.result()
        self._sending = []

    def finish(self) -> None:
        """Wait until all payloads are sent and all received messages are acknowledged."""
        self.finish_sends()

    def close(self) -> None:  # noqa: B027  only some services need it
        """Stop the background threads, which receive."""


@attrs.frozen
class _Reason:
    """Why a run failed, as it is stored and sent. ``key``: see `Aborted.key`."""

    code: str = fields.key(choice(*Code.__members__))
    message: str = fields.key(text(empty=True))
    rank: int | None = fields.key(nullable(integer(-1)))
    layer: int | None = fields.key(nullable(integer(0)))
    key: str = fields.key(text(empty=True), default="")


def describe(error: RunFailed) -> bytes:
    """An error as sealed JSON, for the other ranks and the client."""
    key = error.key if isinstance(error, DamagedContent | Aborted) else ""
    return seal(attrs.asdict(_Reason(error.code.name, error.message[:MAX_MESSAGE_CHARS], error.rank, error.layer, key)))


def explain(data: bytes) -> Aborted:
    """The error whose `Aborted.reason` is the error that `describe` was given. If ``data`` is damaged, an error that says so."""
    try:
        found = fields.read(_Reason, unseal(data, "the reason"), "the reason: ")
    except (Damaged, InputError):
        return Aborted(Code.UNKNOWN, "the run was aborted, and its reason cannot be read")
    error = Aborted(Code[found.code], found.message, rank=found.rank, layer=found.layer)
    error.key = found.key
    return error
