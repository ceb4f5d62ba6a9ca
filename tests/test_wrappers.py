"""Wrappers around the drivers of the local provider. The conformance suite checks that wrappers keep the contract."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from fsd_core.driver import Code, InvokeLimits, Launch, Message, MessageDriver, ObjectDriver, Resources
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.worker.rank import Worker
from fsd_core.wrappers.around import AroundMessages
from fsd_core.wrappers.metered import MeteredInvoker, MeteredMessages, MeteredObjects
from fsd_core.wrappers.prefixed import PrefixedObjects
from fsd_local import PROVIDER, LocalProvider
from waiting import until


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 3600}).ensure("wrapped", 2, 1)


@pytest.fixture
def messages(resources: Resources) -> MessageDriver:
    """Queues whose leases do not end while a test runs."""
    return PROVIDER.messages(resources, 0)


@pytest.fixture
def objects(resources: Resources) -> ObjectDriver:
    return PROVIDER.objects(resources)


class Launched:
    text = ""

    def poll(self) -> Code | None:
        return None


class Platform:
    """Accepts every launch, except of the function "none", and starts no function."""

    service = "a platform"
    limits = InvokeLimits(1000, None, None, None, "this file", "2025-11-01")

    def __init__(self) -> None:
        self.launches: list[tuple[str, bytes]] = []
        self.closed = 0

    def invoke(self, function: str, payload: bytes) -> Launch:
        if function == "none":
            raise LookupError(function)
        self.launches.append((function, payload))
        return Launched()

    def classify(self, error: BaseException) -> Code:
        return Code.NOT_FOUND if isinstance(error, LookupError) else Code.UNKNOWN

    def native(self) -> object:
        return self

    def close(self) -> None:
        self.closed += 1


# Meter


def test_fields_are_the_contract_s_in_its_order() -> None:
    contract = """payload_bytes_sent message_bytes_sent messages_sent messages_received publish_requests publish_units receive_requests
        receive_units ack_requests object_puts object_gets object_lists object_bytes_written object_bytes_read invocations retries
        duplicates_dropped"""
    more = ("direct_units", "direct_bytes_sent", "message_units_sent", "message_units_received", "strays_dropped", "frames_dropped")
    assert [name for name in FIELDS if name not in more] == re.findall(r"\w+", contract)
    assert tuple(Meter().snapshot()) == FIELDS


def test_meter_counts_in_threads_and_refuses_other_names() -> None:
    meter = Meter()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4000):
            pool.submit(meter.add, "retries", 2)
    with pytest.raises(KeyError):
        meter.add_all({"retries": 1, "nonsense": 1})
    assert meter.snapshot() == dict.fromkeys(FIELDS, 0) | {"retries": 8000}


def test_metered_messages(messages: MessageDriver) -> None:
    meter = Meter()
    driver = MeteredMessages(messages, meter)
    unit = driver.limits.billing_bytes
    driver.publish([Message(0, b"x" * unit), Message(0, b"y")])
    driver.publish([Message(1, b"z")])
    with pytest.raises(ValueError):
        driver.publish([])
    came = list(driver.receive(0, 10, 1.0))
    assert not driver.receive(0, 10, 0.0)
    driver.ack(0, [each.token for each in came])
    with pytest.raises(FileNotFoundError):
        driver.receive(99, 1, 0.0)
    assert {name: n for name, n in meter.snapshot().items() if n} == {
        "message_bytes_sent": unit + 2,
        "messages_sent": 3,
        "messages_received": 2,
        "message_units_sent": 3,
        "message_units_received": 2,
        "publish_requests": 3,
        "publish_units": 2 + 1 + 1,
        "receive_requests": 3,
        "receive_units": 2 + 1 + 1,
        "ack_requests": 1,
    }


def test_requests_straight_to_a_queue_are_counted_apart(messages: MessageDriver) -> None:
    class Direct(AroundMessages):
        def __init__(self, driver: MessageDriver) -> None:
            super().__init__(driver)
            self.limits = evolve(driver.limits, direct=True)

    meter = Meter()
    unit = messages.limits.billing_bytes
    MeteredMessages(messages, meter).publish([Message(0, b"x")])
    MeteredMessages(Direct(messages), meter).publish([Message(0, b"x" * unit), Message(0, b"y")])
    counts = meter.snapshot()
    assert (counts["publish_units"], counts["direct_units"]) == (3, 2)
    assert (counts["message_bytes_sent"], counts["direct_bytes_sent"]) == (unit + 2, unit + 1)


def test_metered_messages_count_overhead(messages: MessageDriver) -> None:
    class Heavy(AroundMessages):
        def __init__(self, driver: MessageDriver) -> None:
            super().__init__(driver)
            self.limits = evolve(driver.limits, overhead_bytes=100, billing_bytes=150)

    meter = Meter()
    driver = MeteredMessages(Heavy(messages), meter)
    driver.publish([Message(0, b"12345")] * 3)
    assert meter.snapshot()["message_bytes_sent"] == 315
    assert meter.snapshot()["publish_units"] == 3


def test_metered_objects_and_launches(objects: ObjectDriver) -> None:
    meter = Meter()
    driver = MeteredObjects(objects, meter)
    driver.put("a", memoryview(bytearray(80)).cast("I"))
    with pytest.raises(FileExistsError):
        driver.put("a", b"123", if_absent=True)
    driver.get("a", 0, 7)
    with pytest.raises(FileNotFoundError):
        driver.get("b")
    driver.list("")
    driver.delete(["a"])
    invoker = MeteredInvoker(Platform(), meter)
    invoker.invoke("worker", b"x")
    with pytest.raises(LookupError):
        invoker.invoke("none", b"x")
    assert {name: n for name, n in meter.snapshot().items() if n} == {
        "object_puts": 2,
        "object_gets": 2,
        "object_lists": 1,
        "object_bytes_written": 83,
        "object_bytes_read": 7,
        "invocations": 2,
    }


# Prefixed


def test_objects_with_different_prefixes_are_separate(objects: ObjectDriver) -> None:
    one, two = PrefixedObjects(objects, "one/"), PrefixedObjects(objects, "one")
    one.put("key", b"1")
    assert objects.get("one/key") == two.get("/key") == b"1"
    objects.put("only", b"x")
    assert list(one.list("").keys) == ["key"]
    assert not one.delete(["key", "only"])
    assert list(objects.list("").keys) == ["only"]


def test_a_worker_opens_one_connection_of_each_route_ahead_and_an_error_of_that_costs_nothing(resources: Resources) -> None:
    opened, held = [], Event()

    class Connecting(AroundMessages):
        def route(self, rank: int) -> int:
            return rank // 2

        def connect(self, rank: int) -> bool:
            held.wait(60)  # the worker does not wait for it
            opened.append(rank)
            raise ConnectionError("of the service")

    class Provider(LocalProvider):
        def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
            return Connecting(super().messages(resources, slot, direct=direct))

    launch = LaunchPayload("wrapped", 0, 1, "ab" * 8, 0, 0, time.time() + 60)
    with closing(Worker(launch, Provider(), resources, "nonce", None, 0.0)) as worker:
        config: Any = SimpleNamespace(objective="latency", targets=lambda rank: [1, 2, 3, 4])
        messages = worker._messages(config)
        assert opened == []
        held.set()
        until(lambda: len(opened) == 3)
        assert {rank // 2 for rank in opened} == {0, 1, 2}
        messages.publish([Message(1, b"body")])
        assert [each.body for each in messages.receive(1, 1, 10.0)] == [b"body"]
