"""What every channel has in common: patience, who is missing, how a run ends early."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import attrs

from fsd_core.channel.mailbox import Mailbox
from fsd_core.common.sealed import seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, RunFailed
from fsd_core.storage.retry import Retry

__all__ = ["Aborted", "Channel", "ChannelConfig", "Patience", "RankIdentity"]

START_S = 65.0  # where nobody says how long launches may take: 5 s, made four times (`spawn.start_limit_s`), and some more
LEAST_LIMIT_S = 5.0
SLOWEST_FACTOR = 20.0


class Aborted(RunFailed):
    """Another rank failed first and has said why; this one only stops."""

    key = ""  # of the staged content that the other rank found gone or damaged

    @property
    def reason(self) -> RunFailed:
        """What the other rank raised."""
        if self.key:
            return DamagedContent(self.code, self.message, self.key, rank=self.rank, layer=self.layer)
        return RunFailed(self.code, self.message, rank=self.rank, layer=self.layer)


@attrs.frozen
class RankIdentity:
    """Who this worker is, in which run. ``deadline`` in seconds since the epoch."""

    run: str
    epoch: int
    rank: int
    workers: int
    deadline: float


@attrs.frozen
class ChannelConfig:
    """One rank's part in the exchange of a run, whatever carries it.

    ``expected`` names, for every step, the sources whose payload this rank will receive. ``pool`` sends and fetches.
    ``eager``: time goes before requests. ``start_s``: how long ranks may take to start, in seconds.
    """

    me: RankIdentity
    expected: Mapping[int, Collection[int]]
    retry: Retry
    pool: ThreadPoolExecutor
    eager: bool = False
    start_s: float = START_S


class Patience:
    """How long a step may go without any arrival before its peers are given up: the stall limit, in seconds.

    While ranks may still be starting, for ``start_s`` from when this one was ready, the limit is at least ``start_s``: a rank that
    starts late holds up a peer in the first step, and the peers of that in steps after it. From then on it is the slowest step so far
    times 20, at least 5 s and at least ``least_s`` (a lost reply hides messages until their lease ends, and that is no stall).
    ``clock``: in seconds.
    """

    def __init__(self, least_s: float = 0.0, clock: Callable[[], float] = time.monotonic, start_s: float = START_S) -> None:
        self._start = start_s
        self._least = max(LEAST_LIMIT_S, least_s)
        self._slowest = 0.0
        self._clock = clock
        self._began = clock()

    @property
    def limit_s(self) -> float:
        """The stall limit now."""
        learned = max(self._least, SLOWEST_FACTOR * self._slowest)
        return max(learned, self._start) if self._clock() < self._began + self._start else learned

    def step_ended(self, seconds: float) -> None:
        """Learn from a step that took this long."""
        self._slowest = max(seconds, self._slowest)


class Channel(abc.ABC):
    """Moves payloads between the ranks of one run: at most one from each source to each target in each step.

    Each source that a step expects sends exactly one, so that a step ends by counting. Sending is asynchronous;
    `receive` hands payloads out in the order of their arrival. Any failure surfaces in `receive` or `finish` as `RunFailed`.
    """

    def __init__(self, exchange: ChannelConfig, patience: Patience) -> None:
        self.me = exchange.me
        self.retry = exchange.retry
        self.meter = exchange.retry.meter
        self.pool = exchange.pool
        self.eager = exchange.eager
        self.patience = patience
        self.retry.stall_s = lambda: patience.limit_s
        self.mailbox = Mailbox(exchange.expected, self.retry.stop.set)  # what waits for a retry ends as well, once the run has failed
        self._sending: list[Future[None]] = []
        self._step_began = time.monotonic()

    @abc.abstractmethod
    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Send (target, payload) pairs; returns before they have left."""

    @abc.abstractmethod
    def abort(self, error: RunFailed, retry: Retry) -> None:
        """Tell every peer, as far as possible, that the run is over. ``retry``: the run's own may be what ran out."""

    def prepare(self, step: int) -> None:  # noqa: B027  only some services need it
        """Start looking for what arrives in ``step``."""

    def receive(self, step: int, *, stalls: int = 1) -> Iterator[tuple[int, bytes]]:
        """Every expected (source, payload) of ``step``, as they arrive; nothing may come for ``stalls`` times the stall limit."""
        self.prepare(step)
        heard_at = time.monotonic()
        while missing := self.mailbox.missing(step):
            for item in self._drain(step):
                yield item
                heard_at = time.monotonic()  # after the consumer's work: that is no stall of the peers
            self._check_sends()
            arrival = self.mailbox.next(step, timeout=0.2)
            if arrival is not None:
                yield arrival
                heard_at = time.monotonic()
                continue
            waited = time.monotonic() - heard_at
            if waited > stalls * self.patience.limit_s or time.time() > self.me.deadline:
                raise RunFailed(Code.DEADLINE, self._who(step, missing, waited), rank=self.me.rank)
        yield from self._drain(step)
        now = time.monotonic()
        self.patience.step_ended(now - self._step_began)  # computing included: a peer may take that long as well
        self._step_began = now

    def _drain(self, step: int) -> Iterator[tuple[int, bytes]]:
        while (item := self.mailbox.next(step, timeout=0)) is not None:
            yield item

    def _who(self, step: int, missing: list[int], waited: float) -> str:
        """The line that names who was waited for, and when each was last heard of."""
        heard = self.mailbox.heard
        who = ", ".join(f"rank {r} ({f'last heard in step {heard[r]}' if r in heard else 'never heard of'})" for r in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        limit = "past the run's deadline" if time.time() > self.me.deadline else "longer than the stall limit"
        strays = self.meter.snapshot()["strays_dropped"]
        note = f"; {strays} messages that could not be read, or were of other runs, were dropped" if strays else ""
        away = f"; {silent[0]} unreachable for {silent[1]:.0f} s" if (silent := self.retry.unreachable()) else ""
        return f"waited {waited:.1f} s in step {step}, {limit}, for {who}{more}{note}{away}"

    def submit(self, task: Callable[[], None]) -> None:
        """Run a sending task on the pool; its error surfaces later."""
        self._sending.append(self.pool.submit(task))

    def _check_sends(self) -> None:
        """Raise what a finished sending task raised."""
        pending = []
        for task in self._sending:
            if task.done():
                task.result()
            else:
                pending.append(task)
        self._sending = pending

    def finish_sends(self) -> None:
        """Wait until everything sent has left."""
        for task in self._sending:
            task.result()
        self._sending = []

    def finish(self) -> None:
        """Wait until everything sent has left and everything received is settled."""
        self.finish_sends()

    def close(self) -> None:  # noqa: B027  only some services need it
        """Stop background work. Nothing more is sent or received."""


def describe(error: RunFailed) -> bytes:
    """An error as the sealed JSON that travels to peers and client."""
    fields = {"code": error.code.name, "rank": error.rank, "layer": error.layer, "message": error.message[:2000]}
    return seal(fields | ({"key": error.key} if isinstance(error, DamagedContent) else {}))


def explain(data: bytes) -> Aborted:
    """The error that `describe` wrote (as ``reason``); of a damaged one, an error that says so."""
    try:
        fields = unseal(data, "the reason")
        error = Aborted(Code[fields["code"]], str(fields["message"]), rank=fields["rank"], layer=fields["layer"])
        error.key = str(fields.get("key", ""))
    except (ValueError, KeyError, TypeError):
        error = Aborted(Code.UNKNOWN, "the run was aborted, and its reason cannot be read")
    return error
