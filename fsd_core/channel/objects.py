"""The exchange over an object store: a rank puts all payloads of a step into one object, a bundle, under a key that its peers know.

A bundle starts with a directory of targets, lengths and tags; the directory has a tag too. The tags use the run's frame key, as those of
frames do. A receiver requests the first `HEAD_BYTES` of each source's bundle, and repeats the request until the bundle exists. The answer
contains the directory and, if the bundle is small, the payload. So a step costs a rank one put and, for each source, one get that succeeds
plus the gets made before the bundle existed. No rank lists keys.
"""

from __future__ import annotations

import heapq
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from hmac import compare_digest
from typing import Any, TypeVar

import numpy as np

from fsd_core.channel.channel import Channel, ChannelConfig, RankIdentity, Superseded, explain
from fsd_core.channel.frames import TAG_BYTES, tag
from fsd_core.channel.limits import MIN_LIMIT_S, StallLimit
from fsd_core.driver import Code
from fsd_core.errors import RunFailed
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = [
    "HEAD_BYTES",
    "DamagedBundle",
    "ObjectChannel",
    "bundle",
    "bundle_bytes",
    "entry",
    "fetch",
    "first_get_s",
    "next_get_s",
    "payload_tag",
    "repeated",
]

log = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024
_HEADER = struct.Struct("<4sIQIIII")  # magic, version, run, epoch, step, source, entries
_ENTRY = struct.Struct(f"<IQ{TAG_BYTES}s")  # target, length, tag of the payload; offsets follow from the lengths
_MAGIC = b"FSDo"
_VERSION = 2
_DIRECTORY, _PAYLOAD = b"fsd directory", b"fsd payload"  # the kinds of content that have tags
READS = 3  # of an object that is damaged: the damage may be in the answer only

T = TypeVar("T")
_ABORT_CHECK_S = 1.0
_MAX_WAIT_S = 0.5  # between two gets of the same bundle
_MAX_DELAY_S = 0.1  # of the first get; with longer delays, one late rank would slow down all others for many steps


class DamagedBundle(RunFailed):
    """A bundle, or a payload in it, does not fit its tag. If only the answer was damaged, another read returns the right bytes."""


def payload_tag(me: RankIdentity, payload: bytes) -> bytes:
    """The tag of a payload in a bundle, with the frame key of ``me``."""
    return tag(me.key, _PAYLOAD, payload)


def bundle(me: RankIdentity, step: int, payloads: Sequence[tuple[int, bytes]]) -> bytes:
    """Encode ``payloads``, pairs of (target rank, payload), as the bundle that rank ``me`` puts in ``step``."""
    entries = [_ENTRY.pack(target, len(payload), payload_tag(me, payload)) for target, payload in payloads]
    head = b"".join((_HEADER.pack(_MAGIC, _VERSION, int(me.run, 16), me.epoch, step, me.rank, len(payloads)), *entries))
    return b"".join((head, tag(me.key, _DIRECTORY, head), *(payload for _, payload in payloads)))


def bundle_bytes(payloads: Sequence[int]) -> int:
    """The size of a bundle in bytes. ``payloads``: the sizes of its payloads in bytes."""
    return _HEADER.size + len(payloads) * _ENTRY.size + TAG_BYTES + sum(payloads)


def first_get_s(took_s: Any, eager: bool) -> Any:
    """The pause before the first get of a bundle, in seconds. Takes and returns a number or an array.

    ``took_s``: the seconds from the start of the last step to the arrival of the same source's bundle.
    """
    return 0.0 * took_s if eager else np.minimum(_MAX_DELAY_S, 0.75 * took_s)


def next_get_s(since_s: Any, eager: bool, poll_s: float) -> Any:
    """The pause before the next get of a bundle that does not exist yet, in seconds. Takes and returns a number or an array.

    ``since_s``: the seconds since the step began. ``poll_s``: the shortest pause that the store allows, in seconds.
    """
    return np.minimum(_MAX_WAIT_S, np.maximum(poll_s, (0.2 if eager else 0.5) * since_s))


def entry(head: bytes, me: RankIdentity, step: int, source: int) -> tuple[int, int, bytes]:
    """Find the payload for rank ``me`` in the directory of a bundle: its (offset, length, tag), in bytes from the bundle's start.

    ``head`` is the first bytes of the bundle. Raises `DamagedBundle` (`Code.INVALID`) if the directory is damaged, belongs to another run,
    step or source, or has no entry for this rank.
    """

    def damaged(why: str) -> DamagedBundle:
        return DamagedBundle(Code.INVALID, f"the object that rank {source} sent in step {step} is damaged: {why}", rank=me.rank)

    if len(head) < _HEADER.size or head[:4] != _MAGIC:
        raise damaged(f"it begins with {head[:4]!r}, expected {_MAGIC!r} and a header of {_HEADER.size} bytes")
    _, version, has_run, _, has_step, has_source, entries = _HEADER.unpack_from(head)
    end = _HEADER.size + entries * _ENTRY.size
    if len(head) < end + TAG_BYTES:
        raise damaged(f"its directory of {entries} entries does not fit its first {len(head)} bytes")
    if not compare_digest(tag(me.key, _DIRECTORY, head[:end]), head[end : end + TAG_BYTES]):
        raise damaged("the tag of its directory is wrong")
    if (version, has_run, has_step, has_source) != (_VERSION, int(me.run, 16), step, source):
        found = f"version {version}, run {has_run:016x}, step {has_step}, rank {has_source}"
        raise damaged(f"its header has {found}, expected version {_VERSION}, run {me.run}, step {step}, rank {source}")
    offset = end + TAG_BYTES
    for owner, length, its_tag in _ENTRY.iter_unpack(head[_HEADER.size : end]):
        if owner == me.rank:
            return offset, length, its_tag
        offset += length
    raise damaged(f"its directory has no entry for rank {me.rank}")


def fetch(store: Store, key: str, head: bytes, where: tuple[int, int, bytes], me: RankIdentity, what: str) -> bytes:
    """Read one payload from the bundle at ``key``. ``where`` is the payload's (offset, length, tag), ``head`` the bundle's first bytes.

    Makes a request only if ``head`` does not contain the complete payload. Raises `DamagedBundle` (`Code.INVALID`) if the payload is
    damaged; the error line calls it ``what``.
    """
    offset, length, its_tag = where
    found = head[offset : offset + length]
    if len(found) < length:
        found += store.get(key, offset + len(found), offset + length)
    if len(found) != length:
        raise DamagedBundle(Code.INVALID, f"{what} is damaged: it has {len(found)} bytes, expected {length}", rank=me.rank)
    if not compare_digest(payload_tag(me, found), its_tag):
        raise DamagedBundle(Code.INVALID, f"{what} is damaged: its tag is wrong", rank=me.rank)
    return found


def repeated(channel: Channel, read: Callable[[], T]) -> T:
    """Return what ``read`` returns. Calls ``read`` again while it raises `DamagedBundle`, `READS` times in all, then raises the error."""
    attempt = 0
    while True:
        try:
            return read()
        except DamagedBundle as error:
            channel.dropped(error.message)
            attempt += 1
            if attempt == READS or not channel.retry.pause(attempt):
                raise


class ObjectChannel(Channel):
    """Polls the keys of the expected bundles, with few requests and little delay.

    If a bundle does not exist yet, the channel waits before it tries again: half of the time since `prepare` (a fifth if ``eager``), at
    least the store's ``poll_s`` and at most 0.5 s. With ``eager``, `prepare` makes the first get at once. Otherwise the first get waits
    for three quarters of the time that the last bundle of the same source took, at most 0.1 s.
    """

    def __init__(self, store: Store, config: ChannelConfig) -> None:
        super().__init__(config, StallLimit(min_s=MIN_LIMIT_S + config.slack_s, start_s=config.start_s))
        self.store = store
        self.keys = RunKeys(self.me.run)
        self._took: dict[int, float] = {}  # by source: seconds from `prepare` to the bundle's arrival, in its last step
        self._due: list[tuple[float, float, int, int]] = []  # a heap of gets to make: (when, since, step, source)
        self._wake = threading.Condition()
        self._closed = False
        self._news_turn = False
        self._abort_check = time.monotonic() + _ABORT_CHECK_S
        threading.Thread(target=self._poll_all, name="poll", daemon=True).start()

    def send(self, step: int, payloads: Iterable[tuple[int, bytes]]) -> None:
        """Start to send ``payloads``, pairs of (target rank, payload). Returns before they are sent."""
        pairs = list(payloads)
        if not pairs:
            return
        key, body = self.keys.exchange(step, self.me.rank), bundle(self.me, step, pairs)
        log.debug("puts the payloads of step %d for %d ranks", step, len(pairs))
        self.submit(lambda: self._put(key, body))

    def _put(self, key: str, body: bytes) -> None:
        """Put a bundle. Raises `Superseded` if another incarnation of this rank has put it, so that this worker can stop.

        That is the next incarnation, which works at the same time and was faster, or an earlier one, which has finished. If the reply to
        its own put was lost, this worker takes its own bundle for another's: it then stops if a next incarnation exists.
        """
        if self.store.put_once(key, body) or self.slow is None:
            return
        me, following = self.me, self.me.incarnation + 1
        if self.store.find(self.keys.claim(me.rank, following)) is not None:
            raise Superseded(Code.PRECONDITION, f"incarnation {following} of this rank was faster than this worker", rank=me.rank)
        if me.incarnation and self.store.find(self.keys.record(me.rank), 0, 1) is not None:
            raise Superseded(Code.PRECONDITION, "another incarnation of this rank has done its work", rank=me.rank)

    def abort(self, error: RunFailed, retry: Retry) -> None:
        """Do nothing: the ranks that wait read the run's error from the object store themselves."""

    def prepare(self, step: int) -> None:
        """Start to poll the bundles of ``step``."""
        now = time.monotonic()
        with self._wake:
            for source in self.mailbox.missing(step):
                first = now + float(first_get_s(self._took.get(source, 0.0), self.eager))
                heapq.heappush(self._due, (first, now, step, source))
            self._wake.notify()

    def _poll_all(self) -> None:
        """Pass each get to the pool when it is due, until the channel closes."""
        while True:
            with self._wake:
                now = time.monotonic()
                while not self._closed and not (self._due and self._due[0][0] <= now):
                    self._wake.wait(self._due[0][0] - now if self._due else None)
                    now = time.monotonic()
                if self._closed:
                    return
                _, since, step, source = heapq.heappop(self._due)
            try:
                self.pool.submit(self._ask, since, step, source)
            except RuntimeError as error:  # no more threads, or the pool is shut down
                self.receiving_failed(RunFailed(Code.UNAVAILABLE, f"receiving failed: {error}", rank=self.me.rank))
                return

    def _ask(self, since: float, step: int, source: int) -> None:
        """Request the bundle of a source once. If it does not exist yet, schedule the next get. ``since`` is the time of `prepare`."""
        try:
            payload = repeated(self, lambda: self._payload(step, source))
            if payload is not None:
                self._took[source] = time.monotonic() - since
                log.debug("received the payload of rank %d in step %d after %.3f s", source, step, self._took[source])
                self.mailbox.deliver(step, source, payload)
                return
            self._look_for_abort()
        except Exception as error:  # of any class: otherwise the main thread would wait for this thread
            self.receiving_failed(error)
            return
        now = time.monotonic()
        wait = float(next_get_s(now - since, self.eager, self.store.driver.limits.poll_s))
        with self._wake:
            heapq.heappush(self._due, (now + wait, since, step, source))
            self._wake.notify()

    def _payload(self, step: int, source: int) -> bytes | None:
        """The payload of a source; `None` if its bundle does not exist yet."""
        key = self.keys.exchange(step, source)
        head = self.store.find(key, 0, HEAD_BYTES)
        if head is None:
            return None
        where = entry(head, self.me, step, source)
        return fetch(self.store, key, head, where, self.me, f"the payload of rank {source} in step {step}")

    def _look_for_abort(self) -> None:
        """Read the error of the run, or in turns its error and its news. All threads together make one such request per second."""
        with self._wake:
            now = time.monotonic()
            if now < self._abort_check:
                return
            self._abort_check = now + _ABORT_CHECK_S
            self._news_turn, news = not self._news_turn, self._news_turn
        if news and self.look is not None:
            self.look()
            return
        reason = self.store.find(self.keys.error)
        if reason is not None:
            self.mailbox.fail(explain(reason))

    def close(self) -> None:
        """Stop polling."""
        with self._wake:
            self._closed = True
            self._wake.notify()
