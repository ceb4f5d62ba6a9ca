"""Cases of `fsd_core.driver.MessageDriver`."""

from __future__ import annotations

import random
import secrets
import string
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from fsd_conformance.base import RANKS, Deployed, DriverCases, new_retry, refused
from fsd_core.driver import Code, Delivery, Message, MessageDriver

__all__ = ["DeliveryCases", "MessageCases"]

OVER = {Code.TOO_LARGE, Code.INVALID}


class DeliveryCases(DriverCases):
    """What must hold in the end, whatever single calls do: requests are repeated as core repeats them."""

    def wrap(self, driver: MessageDriver) -> MessageDriver:
        """A driver around the provider's, for groups that test a wrapper."""
        return driver

    def open(self, deployed: Deployed, slot: int) -> MessageDriver:
        """A driver of its own for one slot."""
        return self.wrap(deployed.provider.messages(deployed.resources, slot))

    @pytest.fixture
    def driver(self, deployed: Deployed) -> Iterator[MessageDriver]:
        """The queues of slot 0."""
        driver = self.open(deployed, 0)
        yield driver
        driver.close()

    def test_arrives_at_its_rank_only(self, deployed: Deployed, driver: MessageDriver) -> None:
        """A published message must be delivered to the queue of its rank, and to no other rank or slot, at least once."""
        other = self.open(deployed, 1)
        bodies = {(slot, rank): _body(f"slot {slot} rank {rank}") for slot in (0, 1) for rank in range(RANKS)}
        for slot, each in enumerate((driver, other)):
            _publish(each, [Message(rank, bodies[slot, rank]) for rank in range(RANKS)])
        for slot, each in enumerate((driver, other)):
            for rank in range(RANKS):
                got = _collect(each, rank, [bodies[slot, rank]])
                got.update(delivery.body for delivery in _receive(each, rank, 0.5))
                assert got.keys() & set(bodies.values()) == {bodies[slot, rank]}
        other.close()

    def test_everything_arrives(self, driver: MessageDriver) -> None:
        """More messages than one publish, receive or ack takes all arrive, their bodies as they were."""
        bodies = [_body(f"{number} {'x' * number}") for number in range(3 * driver.limits.batch_messages if _small(driver) else 50)]
        _publish(driver, [Message(1, body) for body in bodies])
        _collect(driver, 1, bodies)

    def test_bodies_survive(self, driver: MessageDriver) -> None:
        """Any bytes pass through a binary service, any printable ASCII through a text service; down to one byte."""
        whole = bytes(range(256)) if driver.limits.body == "binary" else string.printable[:95].encode()
        noise = random.Random(7).choices(whole, k=4096)
        bodies = [_body("") + whole, whole[::-1] + _body(""), bytes(noise) + _body(""), whole * 4 + _body("")]
        _publish(driver, [Message(1, body) for body in bodies])
        _collect(driver, 1, bodies)
        _publish(driver, [Message(1, b"1")])
        _collect(driver, 1, [b"1"])

    def test_threads_lose_nothing(self, driver: MessageDriver) -> None:
        """Drivers must be safe to call from several threads: four publish while three receive."""
        bodies = [[_body(f"{publisher}-{number}") for number in range(24)] for publisher in range(4)]
        missing = {body for each in bodies for body in each}
        retry = new_retry(_patience(driver))

        def publish(mine: Sequence[bytes]) -> None:
            for first in range(0, len(mine), 4):
                _publish(driver, [Message(2, body) for body in mine[first : first + 4]])

        def receive() -> None:
            while missing and time.time() < retry.deadline:
                deliveries = _receive(driver, 2, 0.5)
                _ack(driver, 2, deliveries)
                missing.difference_update(delivery.body for delivery in deliveries)

        with ThreadPoolExecutor(7) as pool:
            futures = [pool.submit(receive) for _ in range(3)] + [pool.submit(publish, mine) for mine in bodies]
            for future in futures:
                future.result()
        assert not missing

    def test_unacknowledged_comes_again(self, driver: MessageDriver) -> None:
        """A delivered message must be delivered again after ``lease_s``, unless acknowledged."""
        _needs_short_lease(self, driver)
        body = _body("again")
        _publish(driver, [Message(0, body)])
        for _ in range(2):
            _await(driver, 0, body)
        _collect(driver, 0, [body])


class MessageCases(DeliveryCases):
    """What one call must do."""

    def test_not_again_before_its_lease_ended(self, driver: MessageDriver) -> None:
        """A delivered message must not be delivered again before ``lease_s`` passed."""
        _needs_short_lease(self, driver)
        body = _body("lease")
        _publish(driver, [Message(0, body)])
        before = time.monotonic()
        _await(driver, 0, body)
        again = _await(driver, 0, body)
        assert time.monotonic() - before >= 0.9 * driver.limits.lease_s
        driver.ack(0, [again.token])

    def test_acknowledged_stays_away(self, driver: MessageDriver) -> None:
        """A message acknowledged within its lease is not delivered again."""
        _needs_short_lease(self, driver)
        lease = driver.limits.lease_s
        for _ in range(10):
            body = _body("acked")
            _publish(driver, [Message(0, body)])
            before = time.monotonic()
            delivery = _await(driver, 0, body, lease / 4)
            assert not driver.ack(0, [delivery.token])
            if time.monotonic() - before < lease / 2:  # else this machine was too slow to know that the lease held
                break
        else:
            pytest.skip(f"no message was delivered and acknowledged within half of its lease of {lease:g} s")
        until = time.monotonic() + 2 * lease
        while time.monotonic() < until:
            assert body not in [each.body for each in _receive(driver, 0, min(0.5, lease))]

    def test_receive_returns_when_one_is_there(self, driver: MessageDriver) -> None:
        """``receive`` must return as soon as one message is there."""
        wait = min(20.0, driver.limits.wait_s)
        with ThreadPoolExecutor(1) as pool:
            for _ in range(5):  # what an earlier case left may end a wait before ours
                _drain(driver, 1)
                body, before = _body("wake"), time.monotonic()
                blocked = pool.submit(driver.receive, 1, driver.limits.receive_messages, wait)
                time.sleep(0.3)
                _publish(driver, [Message(1, body)])
                deliveries = blocked.result()
                took = time.monotonic() - before
                _ack(driver, 1, deliveries)
                if body in [delivery.body for delivery in deliveries]:
                    assert took < wait
                    return
        pytest.fail(f"a receive of {wait:g} s did not return what was published 0.3 s after it began, five times")

    def test_receive_is_empty_after_its_wait(self, driver: MessageDriver) -> None:
        """``receive`` must return an empty sequence after ``wait_s`` if no message is there, and not before."""
        took = _drain(driver, 2, wait_s=1.0)
        assert 0.9 <= took < 1.0 + 10

    def test_receive_keeps_to_its_limit(self, driver: MessageDriver) -> None:
        """Up to ``limit`` messages come, and no more."""
        bodies = [_body(f"limit {number}") for number in range(6)]
        _publish(driver, [Message(2, body) for body in bodies])
        missing, retry = set(bodies), new_retry(_patience(driver))
        while missing:
            assert time.time() < retry.deadline
            deliveries = driver.receive(2, 2, 1.0)
            assert len(deliveries) <= 2
            _ack(driver, 2, deliveries)
            missing.difference_update(delivery.body for delivery in deliveries)

    def test_publish_takes_a_full_batch(self, driver: MessageDriver) -> None:
        """``batch_messages`` entries are taken at once, and their tokens acknowledged at once."""
        count = driver.limits.batch_messages
        bodies = [_body(str(number)) for number in range(count)]
        for index in {each.index for each in driver.publish([Message(0, body) for body in bodies])}:
            _publish(driver, [Message(0, bodies[index])])
        got: dict[bytes, object] = {}
        retry = new_retry(_patience(driver))
        while set(bodies) - got.keys():
            assert time.time() < retry.deadline
            got |= {each.body: each.token for each in _receive(driver, 0, 1.0)}
        for entry in driver.ack(0, [got[body] for body in bodies]):  # a lease may have ended meanwhile
            assert 0 <= entry.index < count

    def test_publish_refuses_one_more(self, driver: MessageDriver) -> None:
        """Over ``batch_messages``: must raise, and nothing is sent."""
        bodies = [_body(str(number)) for number in range(driver.limits.batch_messages + 1)]
        refused(driver, OVER, lambda: driver.publish([Message(0, body) for body in bodies]))
        _sent_none(driver, 0, bodies)

    def test_message_of_the_largest_size(self, driver: MessageDriver) -> None:
        """A body of ``message_bytes`` is taken; one byte more must raise."""
        size = driver.limits.message_bytes
        body = _body("largest", size)
        _publish(driver, [Message(0, body)])
        _collect(driver, 0, [body])
        refused(driver, OVER, lambda: driver.publish([Message(0, _body("larger", size + 1))]))

    def test_batch_of_the_largest_size(self, driver: MessageDriver) -> None:
        """Bodies and overhead of ``batch_bytes`` are taken; one byte more must raise, and nothing is sent."""
        limits = driver.limits
        count = -(-(limits.batch_bytes + 1) // (limits.message_bytes + limits.overhead_bytes))
        if count > limits.batch_messages:
            pytest.skip("as many of the largest messages as a publish takes are within its bytes")
        room = limits.batch_bytes - count * limits.overhead_bytes
        sizes = [room // count] * (count - 1) + [room - room // count * (count - 1)]
        bodies = [_body(str(number), size) for number, size in enumerate(sizes)]
        _publish(driver, [Message(0, body) for body in bodies])
        _collect(driver, 0, bodies)
        sizes[0] += 1
        more = [_body(str(number), size) for number, size in enumerate(sizes)]
        refused(driver, OVER, lambda: driver.publish([Message(0, body) for body in more]))
        _sent_none(driver, 0, more)

    def test_ack_twice_is_harmless(self, driver: MessageDriver) -> None:
        """An ack of a token that is no longer valid must be harmless: acknowledged already."""
        first, second = _body("first"), _body("second")
        _publish(driver, [Message(0, first)])
        token = _await(driver, 0, first).token
        for _ in range(3):
            driver.ack(0, [token])
        _publish(driver, [Message(0, second)])
        _collect(driver, 0, [second])

    def test_ack_after_the_lease_is_harmless(self, driver: MessageDriver) -> None:
        """An ack of a token that is no longer valid must be harmless: its lease ended, and others are in the queue."""
        _needs_short_lease(self, driver)
        first, second = _body("first"), _body("second")
        _publish(driver, [Message(0, first)])
        stale = _await(driver, 0, first).token
        fresh = _await(driver, 0, first).token
        _publish(driver, [Message(0, second)])
        driver.ack(0, [stale])
        driver.ack(0, [fresh])
        _collect(driver, 0, [second])

    def test_no_such_queue(self, deployed: Deployed, driver: MessageDriver) -> None:
        """A queue that was never made is NOT_FOUND, for a rank and for a slot."""
        refused(driver, {Code.NOT_FOUND}, lambda: driver.receive(RANKS + 90, 1, 0.0))
        refused(driver, {Code.NOT_FOUND}, lambda: self.open(deployed, 97).receive(0, 1, 0.0))

    def test_route_is_a_key(self, driver: MessageDriver) -> None:
        """What one publish can reach is hashable, and the same at every call."""
        assert [hash(driver.route(rank)) for rank in range(RANKS)] == [hash(driver.route(rank)) for rank in range(RANKS)]
        assert isinstance(driver, MessageDriver)

    def test_limits_have_a_source(self, driver: MessageDriver) -> None:
        """Limits are data, with where and when they were read."""
        limits = driver.limits
        assert limits.source
        assert limits.as_of
        assert min(limits.batch_messages, limits.batch_bytes, limits.message_bytes, limits.receive_messages, limits.billing_bytes) > 0
        assert limits.lease_s > 0
        assert limits.wait_s > 0
        assert limits.body in ("binary", "text")


def _small(driver: MessageDriver) -> bool:
    return driver.limits.batch_messages <= 100


def _body(label: str, size: int | None = None) -> bytes:
    """An ASCII body that no other has, of ``size`` bytes if given."""
    body = f"{secrets.token_hex(8)} {label} ".encode()
    return body if size is None else body[:size].ljust(size, b".")


def _publish(driver: MessageDriver, messages: Sequence[Message]) -> None:
    """Send all, packed by route, count and bytes as core does, until none is refused."""
    limits, retry = driver.limits, new_retry()
    by_route: dict[object, list[Message]] = {}
    for message in messages:
        by_route.setdefault(driver.route(message.rank), []).append(message)
    for left in by_route.values():
        while left:
            count, size = 0, 0
            while count < min(len(left), limits.batch_messages):
                size += len(left[count].body) + limits.overhead_bytes
                if count and size > limits.batch_bytes:
                    break
                count += 1
            retry.entries(driver, "publish", left[:count], driver.publish)
            del left[:count]


def _receive(driver: MessageDriver, rank: int, wait_s: float) -> Sequence[Delivery]:
    wait = min(wait_s, driver.limits.wait_s)
    return new_retry().call(driver, "receive", lambda: driver.receive(rank, driver.limits.receive_messages, wait))


def _ack(driver: MessageDriver, rank: int, deliveries: Iterable[Delivery]) -> None:
    tokens, step = [each.token for each in deliveries], driver.limits.batch_messages
    for first in range(0, len(tokens), step):
        new_retry().entries(driver, "ack", tokens[first : first + step], lambda batch: driver.ack(rank, batch))


def _patience(driver: MessageDriver) -> float:
    """Seconds for what arrives: deliveries whose reply was lost come again after their lease."""
    return 60.0 + 5 * min(driver.limits.lease_s, 30.0)


def _until(driver: MessageDriver, rank: int, done: Callable[[Sequence[Delivery]], bool], what: object, wait_s: float = 2.0) -> None:
    """Receive until ``done``, which sees every batch of deliveries."""
    until = time.monotonic() + _patience(driver)
    while not done(_receive(driver, rank, wait_s)):
        assert time.monotonic() < until, f"rank {rank}: not delivered: {what!r:.300}"


def _collect(driver: MessageDriver, rank: int, bodies: Sequence[bytes]) -> Counter[bytes]:
    """Receive and acknowledge until each of ``bodies`` was there; how often each body came, also those of earlier cases."""
    got: Counter[bytes] = Counter()
    missing = set(bodies)

    def done(deliveries: Sequence[Delivery]) -> bool:
        _ack(driver, rank, deliveries)
        got.update(each.body for each in deliveries)
        missing.difference_update(got)
        return not missing

    _until(driver, rank, done, missing)
    return got


def _await(driver: MessageDriver, rank: int, body: bytes, wait_s: float = 2.0) -> Delivery:
    """The next delivery of ``body``, not acknowledged; what else comes is."""
    found: list[Delivery] = []

    def done(deliveries: Sequence[Delivery]) -> bool:
        found.extend(each for each in deliveries if each.body == body)
        _ack(driver, rank, [each for each in deliveries if each.body != body])
        return bool(found)

    _until(driver, rank, done, body, wait_s)
    return found[0]


def _drain(driver: MessageDriver, rank: int, wait_s: float = 1.0) -> float:
    """Acknowledge all that is there, and how long the receive waited that found nothing."""
    until = time.monotonic() + _patience(driver)
    while time.monotonic() < until:
        before = time.monotonic()
        deliveries = driver.receive(rank, driver.limits.receive_messages, wait_s)
        took = time.monotonic() - before
        if not deliveries:
            return took
        _ack(driver, rank, deliveries)
    pytest.fail(f"rank {rank}: the queue does not become empty")


def _sent_none(driver: MessageDriver, rank: int, bodies: Sequence[bytes]) -> None:
    """Assert that none of ``bodies`` is there, once a message sent later is."""
    last = _body("last")
    _publish(driver, [Message(rank, last)])
    assert not _collect(driver, rank, [last]).keys() & set(bodies)


def _needs_short_lease(cases: DriverCases, driver: MessageDriver) -> None:
    if driver.limits.lease_s > cases.harness.lease_most_s:
        pytest.skip(f"a lease is {driver.limits.lease_s:g} s long, over the harness's {cases.harness.lease_most_s:g} s")
