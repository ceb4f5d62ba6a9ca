"""Cases of `fsd_core.driver.MessageDriver`."""

from __future__ import annotations

import random
import string
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing

import pytest

from fsd_conformance.base import RANKS, Deployed, DriverCases, new_retry, refused
from fsd_conformance.traffic import (
    ack_all,
    collect,
    drain,
    new_body,
    patience,
    publish_all,
    receive_one,
    receive_some,
    refused_entries,
    rejected_entries,
    sent_none,
)
from fsd_core.driver import Code, Message, MessageDriver

__all__ = ["DeliveryCases", "DirectMessageCases", "MessageCases"]

OVER = {Code.TOO_LARGE, Code.INVALID}


class DeliveryCases(DriverCases):
    """The contract over several calls: requests are repeated like fsd_core repeats them."""

    kind = "messages"

    def wrap(self, driver: MessageDriver) -> MessageDriver:
        """Wrap the provider's driver, in groups that test a wrapper."""
        return driver

    def open(self, deployed: Deployed, slot: int) -> MessageDriver:
        """A new driver for one slot."""
        return self.wrap(deployed.provider.messages(deployed.resources, slot))

    def refusing(self, deployed: Deployed) -> AbstractContextManager[tuple[MessageDriver, threading.Event] | None]:
        """A driver of slot 0 whose service refuses entries: see `Harness.refusing`."""
        return self.harness.refusing(deployed.resources)

    @pytest.fixture
    def driver(self, deployed: Deployed) -> Iterator[MessageDriver]:
        """A driver of slot 0."""
        driver = self.open(deployed, 0)
        yield driver
        driver.close()

    def test_native_is_there(self, deployed: Deployed, driver: MessageDriver) -> None:
        """`native` is the SDK's own client, which finds the app's queues."""
        self.find_by_native(driver, deployed.resources)

    def test_arrives_at_its_rank_only(self, deployed: Deployed, driver: MessageDriver) -> None:
        """A published message must be delivered to the queue of its rank, and to no other rank or slot, at least once."""
        other = self.open(deployed, 1)
        bodies = {(slot, rank): new_body(f"slot {slot} rank {rank}") for slot in (0, 1) for rank in range(RANKS)}
        for slot, each in enumerate((driver, other)):
            publish_all(each, [Message(rank, bodies[slot, rank]) for rank in range(RANKS)])
        for slot, each in enumerate((driver, other)):
            for rank in range(RANKS):
                got = collect(each, rank, [bodies[slot, rank]])
                got.update(delivery.body for delivery in receive_some(each, rank, 0.5))
                assert got.keys() & set(bodies.values()) == {bodies[slot, rank]}
        other.close()

    def test_everything_arrives(self, driver: MessageDriver) -> None:
        """More messages than fit in one publish, one receive and one ack all arrive, with unchanged bodies."""
        bodies = [new_body(f"{number} {'x' * number}") for number in range(3 * driver.limits.batch_messages if _small(driver) else 50)]
        publish_all(driver, [Message(1, body) for body in bodies])
        collect(driver, 1, bodies)

    def test_bodies_survive(self, driver: MessageDriver) -> None:
        """A binary service carries any bytes, a text service any printable ASCII; also a body of one byte."""
        whole = bytes(range(256)) if driver.limits.body == "binary" else string.printable[:95].encode()
        noise = random.Random(7).choices(whole, k=4096)
        bodies = [new_body("") + whole, whole[::-1] + new_body(""), bytes(noise) + new_body(""), whole * 4 + new_body("")]
        publish_all(driver, [Message(1, body) for body in bodies])
        collect(driver, 1, bodies)
        publish_all(driver, [Message(1, b"1")])
        collect(driver, 1, [b"1"])

    def test_threads_lose_nothing(self, driver: MessageDriver) -> None:
        """Drivers must be safe to call from several threads: four threads publish while three threads receive."""
        bodies = [[new_body(f"{publisher}-{number}") for number in range(24)] for publisher in range(4)]
        missing = {body for each in bodies for body in each}
        retry = new_retry(patience(driver))

        def publish(mine: Sequence[bytes]) -> None:
            for first in range(0, len(mine), 4):
                publish_all(driver, [Message(2, body) for body in mine[first : first + 4]])

        def receive() -> None:
            while missing and time.time() < retry.deadline:
                deliveries = receive_some(driver, 2, 0.5)
                ack_all(driver, 2, deliveries)
                missing.difference_update(delivery.body for delivery in deliveries)

        with ThreadPoolExecutor(7) as pool:
            futures = [pool.submit(receive) for _ in range(3)] + [pool.submit(publish, mine) for mine in bodies]
            for future in futures:
                future.result()
        assert not missing

    def test_unacknowledged_comes_again(self, driver: MessageDriver) -> None:
        """A delivered message must be delivered again after ``lease_s``, unless acknowledged."""
        _needs_short_lease(self, driver)
        body = new_body("again")
        publish_all(driver, [Message(0, body)])
        for _ in range(2):
            receive_one(driver, 0, body)
        collect(driver, 0, [body])


class MessageCases(DeliveryCases):
    """The contract of single calls."""

    def test_not_again_before_its_lease_ended(self, driver: MessageDriver) -> None:
        """A delivered message must not be delivered again before ``lease_s`` passed."""
        _needs_short_lease(self, driver)
        body = new_body("lease")
        publish_all(driver, [Message(0, body)])
        before = time.monotonic()
        receive_one(driver, 0, body)
        again = receive_one(driver, 0, body)
        assert time.monotonic() - before >= 0.9 * driver.limits.lease_s
        driver.ack(0, [again.token])

    def test_acknowledged_stays_away(self, driver: MessageDriver) -> None:
        """A message acknowledged within its lease is not delivered again."""
        _needs_short_lease(self, driver)
        lease = driver.limits.lease_s
        for _ in range(10):
            body = new_body("acked")
            publish_all(driver, [Message(0, body)])
            before = time.monotonic()
            delivery = receive_one(driver, 0, body, lease / 4)
            assert not driver.ack(0, [delivery.token])
            if time.monotonic() - before < lease / 2:  # else this machine was too slow: the lease may have ended
                break
        else:
            pytest.skip(f"no message was delivered and acknowledged within half of its lease of {lease:g} s")
        until = time.monotonic() + 2 * lease
        while time.monotonic() < until:
            assert body not in [each.body for each in receive_some(driver, 0, min(0.5, lease))]

    def test_receive_returns_when_one_is_there(self, driver: MessageDriver) -> None:
        """``receive`` must return as soon as one message has arrived."""
        wait = min(20.0, driver.limits.wait_s)
        with ThreadPoolExecutor(1) as pool:
            for _ in range(5):  # a message of an earlier case may end the wait
                drain(driver, 1)
                body, before = new_body("wake"), time.monotonic()
                blocked = pool.submit(driver.receive, 1, driver.limits.receive_messages, wait)
                time.sleep(0.3)
                publish_all(driver, [Message(1, body)])
                deliveries = blocked.result()
                took = time.monotonic() - before
                ack_all(driver, 1, deliveries)
                if body in [delivery.body for delivery in deliveries]:
                    assert took < wait
                    return
        pytest.fail(f"a receive of {wait:g} s did not return what was published 0.3 s after it began, five times")

    def test_receive_is_empty_after_its_wait(self, driver: MessageDriver) -> None:
        """``receive`` must return an empty sequence after ``wait_s`` seconds, and not earlier, if no message is waiting."""
        for _ in range(5):  # a machine that stops for a while makes a wait longer, but not each
            took = drain(driver, 2, wait_s=1.0)
            assert took >= 0.9
            if took < 5.0:
                return
        pytest.fail(f"a receive of 1 s took {took:.1f} s, and each of four before it more than 5 s")

    def test_receive_keeps_to_its_limit(self, driver: MessageDriver) -> None:
        """``receive`` returns at most ``limit`` messages."""
        bodies = [new_body(f"limit {number}") for number in range(6)]
        publish_all(driver, [Message(2, body) for body in bodies])
        missing, retry = set(bodies), new_retry(patience(driver))
        while missing:
            assert time.time() < retry.deadline
            deliveries = driver.receive(2, 2, 1.0)
            assert len(deliveries) <= 2
            ack_all(driver, 2, deliveries)
            missing.difference_update(delivery.body for delivery in deliveries)

    def test_publish_takes_a_full_batch(self, driver: MessageDriver) -> None:
        """One publish takes ``batch_messages`` entries, and one ack takes their tokens."""
        count = driver.limits.batch_messages
        bodies = [new_body(str(number)) for number in range(count)]
        for index in rejected_entries(driver.publish([Message(0, body) for body in bodies]), count):
            publish_all(driver, [Message(0, bodies[index])])
        got: dict[bytes, object] = {}
        retry = new_retry(patience(driver))
        while set(bodies) - got.keys():
            assert time.time() < retry.deadline
            got |= {each.body: each.token for each in receive_some(driver, 0, 1.0)}
        rejected_entries(driver.ack(0, [got[body] for body in bodies]), count)

    def test_refused_entries_are_reported(self, deployed: Deployed) -> None:
        """``publish`` and ``ack`` must return one `Rejected` for each refused entry; the others took effect."""
        with self.refusing(deployed) as found:
            if found is None:
                pytest.skip("the harness cannot make this service refuse a part of a request (Harness.refusing)")
            driver, refuse = self.wrap(found[0]), found[1]
            _needs_short_lease(self, driver)
            bodies = [new_body(f"refused {number}") for number in range(4)]
            refused_ones, _ = refused_entries(driver, refuse, lambda: driver.publish([Message(1, body) for body in bodies]))
            taken, last = {body for number, body in enumerate(bodies) if number not in refused_ones}, new_body("last")
            publish_all(driver, [Message(1, last)])
            got = collect(driver, 1, [*taken, last])
            got.update(each.body for each in receive_some(driver, 1, 0.5))
            assert got.keys() & set(bodies) == taken
            for _ in range(10):
                bodies = [new_body(f"acked {number}") for number in range(4)]
                publish_all(driver, [Message(1, body) for body in bodies])
                before, tokens = time.monotonic(), dict[bytes, object]()
                while not tokens.keys() >= set(bodies):
                    assert time.monotonic() < before + patience(driver)
                    tokens |= {each.body: each.token for each in receive_some(driver, 1, 1.0)}
                refused_ones, whole = refused_entries(driver, refuse, lambda: driver.ack(1, [tokens[body] for body in bodies]))  # noqa: B023
                if time.monotonic() - before < driver.limits.lease_s / 2:  # else a lease may have ended first
                    break
            else:
                pytest.skip(f"no messages were delivered and acknowledged within half of their lease of {driver.limits.lease_s:g} s")
            left = {bodies[number] for number in refused_ones}
            again = collect(driver, 1, [] if whole else [*left])
            while not again.keys() & left:  # the service may have carried out a part of a refused request
                assert time.monotonic() < before + patience(driver)
                again += collect(driver, 1, [])
            again.update(each.body for each in receive_some(driver, 1, driver.limits.lease_s / 2))
            assert again.keys() & set(bodies) <= left

    def test_publish_refuses_one_more(self, driver: MessageDriver) -> None:
        """A publish of more than ``batch_messages`` entries must raise and send nothing."""
        bodies = [new_body(str(number)) for number in range(driver.limits.batch_messages + 1)]
        refused(driver, OVER, lambda: driver.publish([Message(0, body) for body in bodies]))
        sent_none(driver, 0, bodies)

    def test_message_of_the_largest_size(self, driver: MessageDriver) -> None:
        """A body of ``message_bytes`` is accepted; one byte more must raise."""
        size = driver.limits.message_bytes
        body = new_body("largest", size)
        publish_all(driver, [Message(0, body)])
        collect(driver, 0, [body])
        refused(driver, OVER, lambda: driver.publish([Message(0, new_body("larger", size + 1))]))

    def test_batch_of_the_largest_size(self, driver: MessageDriver) -> None:
        """A publish whose bodies and overhead take ``batch_bytes`` is accepted; with one byte more it must raise and send nothing."""
        limits = driver.limits
        count = max(2, -(-(limits.batch_bytes + 1) // (limits.message_bytes + limits.overhead_bytes)))  # the limit is for several messages
        if count > limits.batch_messages:
            pytest.skip("batch_messages messages of the largest size are within batch_bytes")
        room = limits.batch_bytes - count * limits.overhead_bytes
        sizes = [room // count] * (count - 1) + [room - room // count * (count - 1)]
        bodies = [new_body(str(number), size) for number, size in enumerate(sizes)]
        publish_all(driver, [Message(0, body) for body in bodies])
        collect(driver, 0, bodies)
        sizes[0] += 1
        more = [new_body(str(number), size) for number, size in enumerate(sizes)]
        refused(driver, OVER, lambda: driver.publish([Message(0, body) for body in more]))
        sent_none(driver, 0, more)

    def test_ack_twice_is_harmless(self, driver: MessageDriver) -> None:
        """A second ack of the same token must have no effect and raise nothing."""
        first, second = new_body("first"), new_body("second")
        publish_all(driver, [Message(0, first)])
        token = receive_one(driver, 0, first).token
        for _ in range(3):
            driver.ack(0, [token])
        publish_all(driver, [Message(0, second)])
        collect(driver, 0, [second])

    def test_ack_after_the_lease_is_harmless(self, driver: MessageDriver) -> None:
        """An ack of a token whose lease has ended must have no effect, also on another message that waits."""
        _needs_short_lease(self, driver)
        first, second = new_body("first"), new_body("second")
        publish_all(driver, [Message(0, first)])
        stale = receive_one(driver, 0, first).token
        fresh = receive_one(driver, 0, first).token
        publish_all(driver, [Message(0, second)])
        driver.ack(0, [stale])
        driver.ack(0, [fresh])
        collect(driver, 0, [second])

    def test_no_such_queue(self, deployed: Deployed, driver: MessageDriver) -> None:
        """A request to a queue that was never made gives NOT_FOUND: for an unknown rank and for an unknown slot."""
        refused(driver, {Code.NOT_FOUND}, lambda: driver.receive(RANKS + 90, 1, 0.0))
        refused(driver, {Code.NOT_FOUND}, lambda: self.open(deployed, 97).receive(0, 1, 0.0))

    def test_route_is_what_one_publish_reaches(self, deployed: Deployed, driver: MessageDriver) -> None:
        """Messages to several ranks can share a publish if, and only if, the routes of the ranks are equal.

        A route is hashable, and every driver of the slot gives the same one.
        """
        assert isinstance(driver, MessageDriver)
        routes: dict[object, list[int]] = {}
        for rank in range(RANKS):
            routes.setdefault(driver.route(rank), []).append(rank)
        for ranks in routes.values():
            messages = [Message(rank, new_body(f"route {rank}")) for rank in ranks]
            for index in rejected_entries(driver.publish(messages), len(messages)):
                publish_all(driver, [messages[index]])
            for message in messages:
                collect(driver, message.rank, [message.body])
        mixed = [Message(ranks[0], new_body("mixed")) for ranks in routes.values()]
        if len(mixed) > 1:
            refused(driver, {Code.INVALID}, lambda: driver.publish(mixed))
        other = self.open(deployed, 0)
        assert [other.route(rank) for rank in range(RANKS)] == [driver.route(rank) for rank in range(RANKS)]
        other.close()

    def test_drivers_with_direct_and_without_share_their_queues(self, deployed: Deployed) -> None:
        """A driver that was made with ``direct`` and one without must receive what the other publishes."""
        for direct in (False, True):
            with ExitStack() as stack:  # closed: a receiver that is open would take messages of the other way round
                sender, receiver = (
                    stack.enter_context(closing(self.wrap(deployed.provider.messages(deployed.resources, 0, direct=each))))
                    for each in (direct, not direct)
                )
                bodies = [new_body(f"rank {rank}") for rank in range(RANKS)]
                publish_all(sender, [Message(rank, body) for rank, body in enumerate(bodies)])
                for rank, body in enumerate(bodies):
                    collect(receiver, rank, [body])

    def test_limits_have_a_source(self, driver: MessageDriver) -> None:
        """The driver's ``limits`` name their source and its date."""
        limits = driver.limits
        assert limits.source
        assert limits.as_of
        assert min(limits.batch_messages, limits.batch_bytes, limits.message_bytes, limits.receive_messages, limits.billing_bytes) > 0
        assert limits.lease_s > 0
        assert limits.wait_s > 0
        assert limits.body in ("binary", "text")


class DirectMessageCases(MessageCases):
    """Drivers that were made with ``direct``, of a provider with several ways. If it has one, the same driver passes the other groups."""

    def open(self, deployed: Deployed, slot: int) -> MessageDriver:
        """A new driver for one slot."""
        return self.wrap(deployed.provider.messages(deployed.resources, slot, direct=True))

    def refusing(self, deployed: Deployed) -> AbstractContextManager[tuple[MessageDriver, threading.Event] | None]:
        """A driver of slot 0 whose service refuses entries."""
        return self.harness.refusing(deployed.resources, direct=True)

    @pytest.fixture(autouse=True)
    def _several_ways(self, deployed: Deployed) -> None:
        with closing(deployed.provider.messages(deployed.resources, 0)) as plain, closing(self.open(deployed, 0)) as direct:
            if type(direct) is type(plain) and direct.limits == plain.limits:
                pytest.skip("the provider has one way to its queues, and so one kind of driver")


def _small(driver: MessageDriver) -> bool:
    return driver.limits.batch_messages <= 100


def _needs_short_lease(cases: DriverCases, driver: MessageDriver) -> None:
    if driver.limits.lease_s > cases.harness.max_lease_s:
        pytest.skip(f"a lease takes {driver.limits.lease_s:g} s, over the harness's max_lease_s of {cases.harness.max_lease_s:g} s")
