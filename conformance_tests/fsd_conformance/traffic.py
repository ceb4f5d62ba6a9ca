"""Helpers of the message cases: they send all messages, receive until the expected messages came, and check refusals."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pytest

from fsd_conformance.base import new_retry
from fsd_core.driver import Code, Delivery, Message, MessageDriver, Rejected
from fsd_core.storage.retry import TRANSIENT

__all__ = [
    "ack_all",
    "collect",
    "drain",
    "new_body",
    "patience",
    "publish_all",
    "receive_one",
    "receive_some",
    "receive_until",
    "refused_entries",
    "rejected_entries",
    "sent_none",
]


def rejected_entries(rejected: Sequence[Rejected], count: int) -> list[int]:
    """The numbers of the refused entries in a request of ``count``. Asserts that each number occurs once, and that not all entries were
    refused.
    """
    numbers = [each.index for each in rejected]
    assert sorted(set(numbers)) == sorted(numbers)
    assert set(numbers) <= set(range(count))
    assert len(numbers) < count, f"all {count} entries were refused: {rejected[0]}"
    return numbers


def refused_entries(driver: MessageDriver, refuse: threading.Event, request: Callable[[], Sequence[Rejected]]) -> tuple[set[int], bool]:
    """Make a request of four entries while the service refuses some: the refused entries, by the driver, and whether it raised."""
    refuse.set()
    code, rejected = None, list[Rejected]()
    try:
        rejected += request()
    except Exception as error:
        code = driver.classify(error)
    refuse.clear()
    if code is not None:
        assert code in {*TRANSIENT, Code.TOO_LARGE}  # a full disk is TOO_LARGE, see `fsd_local.errors`
        return {0, 1, 2, 3}, True
    assert rejected, "the service refused entries, and the driver names none"
    return set(rejected_entries(rejected, 4)), False


def new_body(label: str, size: int | None = None) -> bytes:
    """A new, unique ASCII body, of ``size`` bytes if given."""
    body = f"{secrets.token_hex(8)} {label} ".encode()
    return body if size is None else body[:size].ljust(size, b".")


def publish_all(driver: MessageDriver, messages: Sequence[Message]) -> None:
    """Send all messages, packed by route, count and bytes like fsd_core packs them; repeat refused ones until none is refused."""
    limits, retry = driver.limits, new_retry()
    by_route: dict[object, list[Message]] = {}
    for message in messages:
        by_route.setdefault(driver.route(message.rank), []).append(message)
    for unsent in by_route.values():
        while unsent:
            count, size = 0, 0
            while count < min(len(unsent), limits.batch_messages):
                size += len(unsent[count].body) + limits.overhead_bytes
                if count and size > limits.batch_bytes:
                    break
                count += 1
            retry.entries(driver, "publish", unsent[:count], driver.publish)
            del unsent[:count]


def receive_some(driver: MessageDriver, rank: int, wait_s: float) -> Sequence[Delivery]:
    """One receive, repeated while its error is transient."""
    wait = min(wait_s, driver.limits.wait_s)
    return new_retry().call(driver, "receive", lambda: driver.receive(rank, driver.limits.receive_messages, wait))


def ack_all(driver: MessageDriver, rank: int, deliveries: Iterable[Delivery]) -> None:
    """Acknowledge all deliveries; repeat refused ones until none is refused."""
    tokens, step = [each.token for each in deliveries], driver.limits.batch_messages
    for first in range(0, len(tokens), step):
        new_retry().entries(driver, "ack", tokens[first : first + step], lambda batch: driver.ack(rank, batch))


def patience(driver: MessageDriver) -> float:
    """The seconds within which a message must arrive. They include a lease: if the reply to a receive is lost, the message is delivered
    again after its lease.
    """
    return 60.0 + 5 * min(driver.limits.lease_s, 30.0)


def receive_until(driver: MessageDriver, rank: int, done: Callable[[Sequence[Delivery]], bool], what: object, wait_s: float = 2.0) -> None:
    """Receive until ``done``, called with each batch of deliveries, returns true. ``what`` names the expected messages in the error."""
    until = time.monotonic() + patience(driver)
    while not done(receive_some(driver, rank, wait_s)):
        assert time.monotonic() < until, f"rank {rank}: not delivered: {what!r:.300}"


def collect(driver: MessageDriver, rank: int, bodies: Sequence[bytes]) -> Counter[bytes]:
    """Receive and acknowledge until each of ``bodies`` came. Returns the count of every body, also of those from earlier cases."""
    got: Counter[bytes] = Counter()
    missing = set(bodies)

    def done(deliveries: Sequence[Delivery]) -> bool:
        ack_all(driver, rank, deliveries)
        got.update(each.body for each in deliveries)
        missing.difference_update(got)
        return not missing

    receive_until(driver, rank, done, missing)
    return got


def receive_one(driver: MessageDriver, rank: int, body: bytes, wait_s: float = 2.0) -> Delivery:
    """The next delivery of ``body``, not acknowledged; other messages are acknowledged."""
    found: list[Delivery] = []

    def done(deliveries: Sequence[Delivery]) -> bool:
        found.extend(each for each in deliveries if each.body == body)
        ack_all(driver, rank, [each for each in deliveries if each.body != body])
        return bool(found)

    receive_until(driver, rank, done, body, wait_s)
    return found[0]


def drain(driver: MessageDriver, rank: int, wait_s: float = 1.0) -> float:
    """Acknowledge all waiting messages; returns the seconds that the last, empty receive took."""
    until = time.monotonic() + patience(driver)
    while time.monotonic() < until:
        before = time.monotonic()
        deliveries = driver.receive(rank, driver.limits.receive_messages, wait_s)
        took = time.monotonic() - before
        if not deliveries:
            return took
        ack_all(driver, rank, deliveries)
    pytest.fail(f"rank {rank}: the queue does not become empty")


def sent_none(driver: MessageDriver, rank: int, bodies: Sequence[bytes]) -> None:
    """Assert that none of ``bodies`` arrives before a message that is sent now."""
    last = new_body("last")
    publish_all(driver, [Message(rank, last)])
    assert not collect(driver, rank, [last]).keys() & set(bodies)
