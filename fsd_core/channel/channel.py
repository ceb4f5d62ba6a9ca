"""The base class of all channels. It waits for payloads up to a stall limit, names the ranks that did not send, and ends a failed run."""

from __future__ import annotations

import abc
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import attrs
from attrs.validators import max_len, min_len

from fsd_core.channel.frames import KEY_BYTES
from fsd_core.channel.kept import Kept, Sent, Shelf
from fsd_core.channel.limits import START_S, StallLimit
from fsd_core.channel.mailbox import Mailbox
from fsd_core.channel.news import News
from fsd_core.channel.slow import SlowSources
from fsd_core.common import fields
from fsd_core.common.fields import choice, integer, nullable, text
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DamagedContent, FsdError, InputError, RunFailed
from fsd_core.storage.retry import Retry

__all__ = ["Aborted", "Channel", "ChannelConfig", "RankIdentity", "Superseded"]

log = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 2000  # of an error's text, so that the abort fits one message of every queue service
POLL_S = 0.2  # between two checks of the limits while a step waits
ASK_S = 2.0  # after so long without a payload, a new incarnation asks its sources again; the time doubles with each question


class Aborted(RunFailed):
    """Another process of the run (a rank, or the client) failed and ended the run. This error describes that failure."""

    key = ""  # the staged object that was missing or damaged, if that is the reason

    @property
    def reason(self) -> RunFailed:
        """The error that ended the run, with the rank and layer in which it occurred."""
        if self.key:
            return DamagedContent(self.code, self.message, self.key, rank=self.rank, layer=self.layer)
        return RunFailed(self.code, self.message, rank=self.rank, layer=self.layer)


class Superseded(RunFailed):
    """Another incarnation of this rank has replaced this worker, which stops and reports nothing."""


@attrs.frozen
class RankIdentity:
    """One member of a run: its ``rank`` (-1 is the client) and the data of the run that every member has.

    ``run`` is the run's id, ``epoch`` the number of the slot's lease, ``workers`` the number of ranks, and ``deadline`` the run's end
    in seconds since 1970. ``incarnation`` counts the functions of the rank, from 0. ``key`` is the run's frame key, a secret.
    """

    run: str
    epoch: int
    rank: int
    workers: int
    deadline: float
    incarnation: int = 0
    key: bytes = attrs.field(
        repr=False, kw_only=True, validator=[min_len(KEY_BYTES), max_len(KEY_BYTES)]
    )  # a tag without a key protects nothing


@attrs.frozen
class ChannelConfig:
    """The configuration that every kind of channel takes.

    ``expected`` maps each step to the ranks that send a payload to this rank. ``retry`` repeats failed requests. ``pool`` runs the
    requests that send and fetch payloads. With ``eager``, the channel makes more requests to deliver payloads sooner. ``start_s`` is
    the time in seconds that the ranks may take to start. ``slack_s`` is added to the shortest stall limit: the seconds that services may be
    slower than expected. ``newest_epoch`` requests the epoch of the slot's last lease from the object store. The channel calls it for a
    message with a newer epoch, because such a message may be forged.

    For recovery: the channel keeps what it sends through queues, up to ``kept_bytes`` bytes in memory and the rest on ``shelf``. ``look``
    reads the news of the run; an `ObjectChannel` calls it between its gets. ``ask(step, ranks)`` requests again what ``ranks`` sent from
    ``step`` on. The channel calls it during a wait, if it belongs to a new incarnation or the rank may lack a message. ``look`` and ``ask``
    are `None` in a run without recovery. ``slow`` finds the sources that are late; `None` in a run that does not replace slow ranks.
    """

    me: RankIdentity
    expected: Mapping[int, Collection[int]]
    retry: Retry
    pool: ThreadPoolExecutor
    eager: bool = False
    start_s: float = START_S
    slack_s: float = 0.0
    newest_epoch: Callable[[], int] = lambda: 0
    kept_bytes: int = 0
    shelf: Shelf | None = None
    look: Callable[[], object] | None = None
    ask: Callable[[int, Sequence[int]], None] | None = None
    slow: SlowSources | None = None


class Sending:
    """Tasks that send the same payloads. The first that succeeds ends the sending; it fails only if every task fails.

    A task may set ``sent`` when it has succeeded.
    """

    def __init__(self, tasks: Sequence[Future[None]], sent: threading.Event | None = None) -> None:
        self._tasks = tasks
        self._sent = sent

    def ended(self) -> bool:
        """Whether a task has succeeded. Raises the error of the first task if every task has failed."""
        if self._sent is not None and self._sent.is_set():  # a look at each task takes ten times as long
            return True
        over = all(task.done() for task in self._tasks)  # asked first: a task may succeed between the two questions
        if any(task.done() and not task.cancelled() and task.exception() is None for task in self._tasks):
            return True
        if over:
            self._tasks[0].result()
        return False

    def wait(self) -> None:
        """Wait until the sending has ended. Raises the error of the first task if every task has failed."""
        left = set(self._tasks)
        while not self.ended():
            _, left = wait(left, return_when=FIRST_COMPLETED)


@attrs.define(eq=False)
class Begun:
    """Requests in flight that send the same payloads. No thread waits for them: the driver said when each one ends.

    The first of them ends at ``until``, on the monotonic clock. A wait ends earlier if ``stop`` is set.
    """

    until: float
    stop: threading.Event

    def ended(self) -> bool:
        """Whether the first request has ended."""
        return time.monotonic() >= self.until

    def wait(self) -> None:
        """Wait until the first request has ended."""
        self.stop.wait(max(0.0, self.until - time.monotonic()))


class Channel(abc.ABC):
    """Moves payloads between the ranks of one run: in each step at most one from each source to each target.

    A step is complete when each expected source has sent its payload. `send` is asynchronous. `receive` returns payloads in the order of
    their arrival. If a background request that sends or receives fails, `receive` or `finish` raises its error, a `RunFailed`.
    """

    def __init__(self, config: ChannelConfig, stall_limit: StallLimit) -> None:
        self.me = config.me
        self.retry = config.retry
        self.meter = config.retry.meter
        self.pool = config.pool
        self.eager = config.eager
        self.stall_limit = stall_limit
        self.retry.stall_s = lambda: stall_limit.seconds
        self.look = config.look
        self.begins: Callable[[int], None] = lambda step: None  # called with each step in which this rank begins to wait
        self.kept = Kept(config.kept_bytes, config.shelf)
        self.incarnations: dict[int, int] = {}  # by rank: its newest incarnation; without an entry 0
        self._ask_again = config.ask
        self.slow = config.slow
        self.unread = False  # this rank may lack a message: it dropped one that it could not read, or a later function of it took one
        self._warned = False
        self._lacked: dict[int, int] = {}  # by target: it has all payloads of this rank before this step
        self._heeded: set[str] = set()  # the nonces of the news that this rank has acted on
        self._heed_lock = threading.Lock()
        self.mailbox = Mailbox(config.expected, self.retry.stop.set)  # if the run fails, requests that wait for a retry end too
        self._sending: list[Sending | Begun] = []
        self._sends_lock = threading.Lock()
        self._step_began = time.monotonic()

    @abc.abstractmethod
    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Start to send ``payloads``, pairs of (target rank, payload). Returns before they are sent."""

    @abc.abstractmethod
    def abort(self, error: RunFailed, retry: Retry) -> None:
        """Inform all other ranks that the run failed with ``error``.

        These requests use ``retry`` instead of the channel's own, whose deadline may have passed.
        """

    def prepare(self, step: int) -> None:  # noqa: B027  only some services need it
        """Start to receive the payloads of ``step``."""

    def receive(self, step: int, *, stalls: int = 1) -> Iterator[tuple[int, bytes]]:
        """Yield (source rank, payload) for each expected source of ``step``, in the order of arrival.

        Raises `RunFailed` (`Code.DEADLINE`) if nothing arrives for ``stalls`` x the stall limit, or when the run's deadline passes. Also
        raises the error of a background request.
        """
        self.prepare(step)
        self.begins(step)
        heard_at, ask_s = time.monotonic(), ASK_S
        if self.slow is not None:
            self.slow.begins(heard_at - self._step_began)
        while missing := self.mailbox.missing(step):
            for item in self._drain(step):
                yield item
                heard_at, ask_s = time.monotonic(), ASK_S  # the time since `yield`, in which the caller computed, is not a stall
            self._check_sends()
            arrival = self.mailbox.next(step, timeout=POLL_S)
            if arrival is not None:
                if self.slow is not None:
                    self.slow.arrived(arrival[0], time.monotonic() - heard_at)
                yield arrival
                heard_at, ask_s = time.monotonic(), ASK_S
                continue
            waited = time.monotonic() - heard_at
            if self.slow is not None and self.retry.unreachable() is None and self.slow.look(step, missing, waited):
                self.stall_limit.restart()  # the client gets the time to start another function
            if waited > stalls * self.stall_limit.seconds or time.time() > self.me.deadline:
                raise RunFailed(Code.DEADLINE, self._who(step, missing, waited), rank=self.me.rank)
            if self._ask_again is not None and (self.me.incarnation or self.unread) and waited > ask_s:
                ask_s = waited + ask_s
                self._ask_again(step, missing)
        yield from self._drain(step)
        now = time.monotonic()
        self.stall_limit.step_ended(now - self._step_began)  # includes computing: another rank may compute as long
        self._step_began = now

    def batch_ended(self, seconds: float) -> None:
        """Record that this rank computed a micro-batch in ``seconds`` seconds.

        This can raise the time limits, because a rank of another stage may send only once per micro-batch.
        """
        self.stall_limit.step_ended(seconds)
        if self.slow is not None:
            self.slow.patience.batch_ended(seconds)

    def _drain(self, step: int) -> Iterator[tuple[int, bytes]]:
        while (item := self.mailbox.next(step, timeout=0)) is not None:
            yield item

    def _who(self, step: int, missing: list[int], waited: float) -> str:
        """The error line. It names the ranks that did not send, and for each rank the last step from which its payload arrived."""
        heard = self.mailbox.heard
        who = ", ".join(f"rank {r} ({f'last received in step {heard[r]}' if r in heard else 'nothing received'})" for r in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        limit = "past the run's deadline" if time.time() > self.me.deadline else "longer than the stall limit"
        counts = self.meter.snapshot()
        strays, dropped = counts["strays_dropped"], counts["frames_dropped"]
        note = f"; dropped {strays} messages that were unreadable or of other runs" if strays else ""
        note += f"; dropped {dropped} frames that were damaged or forged" if dropped else ""
        away = f"; {silent[0]} unreachable for {silent[1]:.0f} s" if (silent := self.retry.unreachable()) else ""
        return f"waited {waited:.1f} s in step {step}, {limit}, for {who}{more}{note}{away}"

    def dropped(self, why: str) -> None:
        """Count a frame or a bundle that this rank drops because the tag is wrong. The first call also logs ``why``."""
        self.meter.add("frames_dropped")
        self.unread = True
        if not self._warned:
            self._warned = True
            log.warning("drops a damaged or forged message, and logs no later one: %s", why)

    # Recovery

    def heed(self, news: News) -> None:
        """Act on an entry of the run's news. Does nothing if the channel has acted on this entry before. Thread-safe.

        Raises `Superseded` if this rank has a newer incarnation, and `RunFailed` if a new incarnation of another rank needs payloads that
        this rank no longer keeps.
        """
        rank, mine = news.rank, news.rank == self.me.rank
        if mine and news.replaces(self.me.incarnation):
            raise Superseded(Code.PRECONDITION, f"incarnation {news.newest} of this rank has replaced this worker", rank=rank)
        if mine and news.kind == "lost" and news.incarnation > self.me.incarnation:
            self.unread = True
        if news.kind == "slow":
            if mine and news.newest == self.me.incarnation and self.slow is not None:
                self.slow.doubt()
            return
        with self._heed_lock:
            known = self.incarnations.get(rank, 0)
            if mine or news.nonce in self._heeded or news.newest < known:
                return
            self._heeded.add(news.nonce)
            ahead = news.kind == "lost" and news.incarnation > known  # it did not say hello: the known one may work on
            expected = self.incarnations[rank] = known if ahead else news.newest
            if news.kind != "lost":
                self._lacked[rank] = news.step
        if news.newest > known:
            log.warning(
                "a function of rank %d was lost%s: expects incarnation %d", rank, f" ({news.reason})" if news.reason else "", expected
            )
            if self.slow is not None:
                self.slow.patience.restart()
        if news.kind != "lacks" and (news.newest > known or news.step == 0):
            self.stall_limit.restart()
        if news.kind == "hello":
            log.info("incarnation %d of rank %d lacks everything from step %d on", news.incarnation, rank, news.step)
            self.send_again(rank, news.step, needed=news.incarnation > 0)

    def send_again(self, target: int, step: int, *, needed: bool) -> None:  # noqa: B027  with an object store, what was sent is still there
        """Send ``target`` again what this rank sent to it from ``step`` on.

        If this rank no longer keeps these payloads: raises `RunFailed` if they are ``needed``, else sends nothing.
        """

    def say(self, news: News, ranks: Iterable[int]) -> None:  # noqa: B027  with an object store, the ranks read the list
        """Start to send copies of ``news`` to ``ranks``."""

    def take(self, source: int, incarnation: int, sent: Sent) -> None:  # noqa: B027  with an object store, the payload is there
        """Accept ``sent``, a payload that ``source`` left in its record when it ended. ``incarnation`` is the one that sent it."""

    def submit(self, task: Callable[[], None]) -> None:
        """Run ``task``, which sends payloads, in a thread of the pool. If it fails, `receive` or `finish` raises its error."""
        self.track(Sending([self.pool.submit(task)]))

    def track(self, sending: Sending | Begun) -> None:
        """Make `receive` or `finish` raise the error of ``sending`` if it fails. Thread-safe."""
        with self._sends_lock:
            self._sending.append(sending)

    def _check_sends(self) -> None:
        """Raise the error of a sending that has failed."""
        with self._sends_lock:
            self._sending = [each for each in self._sending if not each.ended()]

    def receiving_failed(self, error: Exception) -> None:
        """Make `receive` raise ``error``, which ended a thread that receives.

        An error that is not an `FsdError` is a defect in the program: the error line names its class.
        """
        if not isinstance(error, FsdError):
            error = RunFailed(Code.UNKNOWN, f"receiving failed: {type(error).__name__}: {error}", rank=self.me.rank)
        self.mailbox.fail(error)

    def finish_sends(self) -> None:
        """Wait until all payloads are sent. Raises the error of a sending task."""
        while True:
            with self._sends_lock:
                if not self._sending:
                    return
                first = self._sending.pop(0)
            first.wait()  # other sendings may begin meanwhile

    def await_sends(self) -> None:
        """Wait for the sendings that have begun, not for later ones. Raises the error of a sending task. Thread-safe.

        They stay in the list: `finish_sends` of another thread waits for them too, and raises their errors.
        """
        with self._sends_lock:
            begun = list(self._sending)
        for each in begun:
            each.wait()

    def finish(self) -> None:
        """Wait until all payloads are sent and all received messages are acknowledged."""
        self.finish_sends()

    def close(self) -> None:  # noqa: B027  only some services need it
        """Stop the background threads that receive."""


@attrs.frozen
class _Reason:
    """The stored form of the error that ended a run. `Aborted.key` describes ``key``."""

    code: str = fields.key(choice(*Code.__members__))
    message: str = fields.key(text(empty=True))
    rank: int | None = fields.key(nullable(integer(-1)))
    layer: int | None = fields.key(nullable(integer(0)))
    key: str = fields.key(text(empty=True), default="")


def describe(error: RunFailed) -> bytes:
    """``error`` as sealed JSON, which the other ranks and the client decode with `explain`."""
    key = error.key if isinstance(error, DamagedContent | Aborted) else ""
    return seal(attrs.asdict(_Reason(error.code.name, error.message[:MAX_MESSAGE_CHARS], error.rank, error.layer, key)))


def explain(data: bytes) -> Aborted:
    """Decode what `describe` encoded: an `Aborted` whose ``reason`` equals the encoded error.

    Raises nothing: if ``data`` is damaged, the message of the `Aborted` explains this.
    """
    try:
        content = unseal(data, "the reason")
        found = fields.read(_Reason, content, "the reason: ", known=content.keys())  # a newer version may write more
    except (Damaged, InputError):
        return Aborted(Code.UNKNOWN, "the run was aborted, and its reason cannot be read")
    error = Aborted(Code[found.code], found.message, rank=found.rank, layer=found.layer)
    error.key = found.key
    return error
