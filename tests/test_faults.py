"""Injected faults around the drivers of the local provider: what each fault does, and that no message is lost."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.driver import Code, InvokeLimits, Launch, Message, MessageDriver, ObjectDriver, Rejected, Resources
from fsd_core.errors import InputError
from fsd_core.wrappers.around import AroundMessages
from fsd_core.wrappers.faults import Faults, FaultyInvoker, FaultyMessages, FaultyObjects, InjectedError
from fsd_local import PROVIDER


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 3600}).ensure("wrapped", 2, 1)


@pytest.fixture
def messages(resources: Resources) -> MessageDriver:
    """Queues whose leases do not end while a test runs."""
    return PROVIDER.messages(resources, 0)


@pytest.fixture
def brief(resources: Resources) -> MessageDriver:
    """The same queues with short leases."""
    return PROVIDER.messages(evolve(resources, names={**resources.names, "lease_s": "0.3"}), 0)


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


def some(count: int) -> list[Message]:
    return [Message(0, b"%d" % number) for number in range(count)]


def bodies(driver: MessageDriver, count: int) -> list[bytes]:
    """Receive and acknowledge until ``count`` different bodies came. Returns all bodies in the order of arrival."""
    came: list[bytes] = []
    until = time.monotonic() + 60
    while len(set(came)) < count:
        assert time.monotonic() < until, came
        deliveries = driver.receive(0, 10, 0.2)
        came += [delivery.body for delivery in deliveries]
        if deliveries:
            driver.ack(0, [delivery.token for delivery in deliveries])
    return came


def code(raised: pytest.ExceptionInfo[InjectedError]) -> Code:
    return raised.value.code


# The specification

rates = st.floats(0, 1)
at_layer = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 999)), max_size=3).map(tuple)
by_factor = st.lists(st.tuples(st.integers(0, 99), st.floats(1, 100)), max_size=3).map(tuple)
services = (rates, rates, st.floats(0, 60), rates, rates, rates, rates, st.integers(0, 10**18 - 1))


@given(st.builds(Faults, *services, at_layer, at_layer, by_factor))
def test_spec_is_parsed_back(faults: Faults) -> None:
    assert Faults.parse(faults.spec()) == faults


def test_parse() -> None:
    text = "duplicate=.1, reorder=0.2,delay=50ms,reject=5e-2,throttle=1,lost_reply=.02,late=0,seed=7"
    assert Faults.parse(text) == Faults(0.1, 0.2, 0.05, 0.05, 1.0, 0.02, 0.0, 7)
    assert Faults.parse("delay=2s") == Faults(delay=2.0)
    assert Faults.parse("seed=0").spec() == "seed=0"
    workers = Faults.parse("kill=3@70+5@90, hang=0@1,slow=2:1.5")
    assert (workers.kill, workers.hang, workers.slow) == (((3, 70), (5, 90)), ((0, 1),), ((2, 1.5),))


def test_a_rank_that_does_not_exist_is_refused() -> None:
    Faults.parse("kill=2@9,slow=1:2").check(3)
    for text, words in (("kill=1@1+3@70", "kill=3@70"), ("hang=3@1", "hang=3@1"), ("slow=9:1.5", "slow=9:1.5")):
        with pytest.raises(InputError, match=f"faults: {words}: expected a rank from 0 to 2, the last one of 3 workers"):
            Faults.parse(text).check(3)


@pytest.mark.parametrize(
    "text",
    ["", "dup=.1", "duplicate", "duplicate=", "duplicate=x", "duplicate=1.1", "duplicate=-0.1", "duplicate=nan", "duplicate=1e999",
     "delay=1_0ms", "delay=+5ms", "delay= 5 ms", "duplicate=0.1_0", "seed=1_0",
     "delay=50", "delay=ms", "delay=-5ms", "delay=61s", "delay=5m", "seed=1.5", "seed=-1", "seed=", "reject=.1,reject=.1", "reject=.1,",
     "kill=1", "kill=@1", "kill=1@", "kill=1@0", "kill=-1@1", "kill=1@2+", "kill=1@1.5", "hang=1:2",
     "slow=1@2", "slow=1:0.5", "slow=1:nan"],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(InputError, match=r"^faults: .+: expected ") as raised:
        Faults.parse(text)
    assert "\n" not in str(raised.value)


# Messages


def test_the_same_seed_and_salt_make_the_same_decisions(messages: MessageDriver) -> None:
    def decisions(seed: int, salt: object) -> list[tuple[int, ...]]:
        driver = FaultyMessages(messages, Faults(reject=0.5, seed=seed), salt)
        return [tuple(each.index for each in driver.publish(some(8))) for _ in range(6)]

    assert decisions(1, 0) == decisions(1, 0)
    assert decisions(1, 0) != decisions(1, 1)
    assert decisions(1, 0) != decisions(2, 0)


def test_duplicate(messages: MessageDriver) -> None:
    driver = FaultyMessages(messages, Faults(duplicate=1.0), 0)
    assert not driver.publish(some(10))
    came = bodies(messages, 10)
    while deliveries := messages.receive(0, 10, 0.0):
        came += [delivery.body for delivery in deliveries]
    assert Counter(came) == {message.body: 2 for message in some(10)}


def test_reject_names_the_entries_that_were_not_sent(messages: MessageDriver) -> None:
    class Picky(AroundMessages):
        """Refuses even numbers, so that its indices and the wrapper's must be distinguished."""

        def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
            refused = [Rejected(i, Code.INVALID, "even") for i, message in enumerate(messages) if int(message.body) % 2 == 0]
            super().publish([message for message in messages if int(message.body) % 2])
            return refused

    injected = 0
    for salt in range(5):
        driver = FaultyMessages(Picky(messages), Faults(reject=0.4, seed=3), salt)
        refused = {each.index: each.code for each in driver.publish(some(10))}
        assert set(range(0, 10, 2)) <= refused.keys()
        sent = {b"%d" % number for number in set(range(10)) - refused.keys()}
        assert set(bodies(messages, len(sent))) == sent
        assert {each for number, each in refused.items() if number % 2} <= {Code.THROTTLED}
        assert {refused[number] for number in range(0, 10, 2)} <= {Code.INVALID, Code.THROTTLED}
        injected += list(refused.values()).count(Code.THROTTLED)
    assert 0 < injected < 50


def test_reject_of_all_sends_nothing(brief: MessageDriver) -> None:
    driver = FaultyMessages(brief, Faults(reject=1.0), 0)
    assert [(each.index, each.code) for each in driver.publish(some(3))] == [(i, Code.THROTTLED) for i in range(3)]
    assert not brief.receive(0, 10, 0.0)
    brief.publish(some(2))
    tokens = [delivery.token for delivery in brief.receive(0, 10, 1.0)]
    assert len(driver.ack(0, tokens)) == len(tokens) > 0
    assert set(bodies(brief, 2)) == {b"0", b"1"}


def test_throttle_has_no_effect(messages: MessageDriver) -> None:
    driver = FaultyMessages(messages, Faults(throttle=1.0), 0)
    for request in (lambda: driver.publish(some(1)), lambda: driver.receive(0, 1, 0.0), lambda: driver.ack(0, ["x"])):
        with pytest.raises(InjectedError) as raised:
            request()
        assert driver.classify(raised.value) is code(raised) is Code.THROTTLED
    assert not messages.receive(0, 10, 0.0)


def test_lost_reply_has_its_effect(brief: MessageDriver) -> None:
    driver = FaultyMessages(brief, Faults(lost_reply=1.0), 0)
    with pytest.raises(InjectedError) as raised:
        driver.publish(some(2))
    assert driver.classify(raised.value) is Code.UNAVAILABLE
    with pytest.raises(InjectedError):
        driver.receive(0, 10, 1.0)
    assert set(bodies(brief, 2)) == {b"0", b"1"}  # again, once the lease that the lost receive took has ended


def test_lost_reply_of_an_ack_acknowledges(messages: MessageDriver) -> None:
    leased = cast(Path, messages.native())
    messages.publish(some(1))
    (delivery,) = messages.receive(0, 10, 1.0)
    assert any(leased.rglob("leased/*"))
    with pytest.raises(InjectedError):
        FaultyMessages(messages, Faults(lost_reply=1.0), 0).ack(0, [delivery.token])
    assert not any(leased.rglob("leased/*"))


def test_classify_leaves_other_errors_to_the_driver(messages: MessageDriver) -> None:
    assert FaultyMessages(messages, Faults(), 0).classify(FileNotFoundError(2, "x")) is Code.NOT_FOUND


def test_reorder_and_delay_lose_nothing_and_keep_to_the_limit(messages: MessageDriver) -> None:
    for faults in (Faults(reorder=0.7, seed=1), Faults(delay=0.05, seed=1), Faults(reorder=0.5, delay=0.02, seed=1)):
        driver = FaultyMessages(messages, faults, 0)
        for first in range(0, 40, 10):
            driver.publish(some(40)[first : first + 10])
        came: list[bytes] = []
        until = time.monotonic() + 60
        while len(set(came)) < 40:
            assert time.monotonic() < until
            deliveries = driver.receive(0, 7, 0.5)
            assert len(deliveries) <= 7
            came += [delivery.body for delivery in deliveries]
            if deliveries:
                driver.ack(0, [delivery.token for delivery in deliveries])
        assert came != sorted(came, key=int)


def test_receive_waits_for_what_is_not_due_yet(messages: MessageDriver) -> None:
    driver = FaultyMessages(messages, Faults(delay=0.2, seed=4), 0)
    driver.publish(some(1))
    began = time.monotonic()
    until = began + 60
    while not driver.receive(0, 10, 20.0):
        assert time.monotonic() < until
    assert time.monotonic() - began < 20.0


def test_held_deliveries_reach_other_threads(messages: MessageDriver) -> None:
    driver = FaultyMessages(messages, Faults(reorder=0.6, delay=0.03, seed=2), 0)
    missing, until = {message.body for message in some(60)}, time.monotonic() + 60

    def receive() -> None:
        while missing and time.monotonic() < until:
            for delivery in driver.receive(0, 10, 0.5):
                driver.ack(0, [delivery.token])
                missing.discard(delivery.body)

    with ThreadPoolExecutor(4) as pool:
        receivers = [pool.submit(receive) for _ in range(3)]
        for first in range(0, 60, 10):
            driver.publish(some(60)[first : first + 10])
        for receiver in receivers:
            receiver.result()
    assert not missing


# Objects


def test_objects_throttle_and_lose_replies(objects: ObjectDriver) -> None:
    def codes(faults: Faults) -> list[Code]:
        driver = FaultyObjects(objects, faults, 0)
        requests: list[Callable[[], object]] = [
            lambda: driver.put("new", b"x", if_absent=True),
            lambda: driver.get("there"),
            lambda: driver.list(""),
            lambda: driver.delete(["there"]),
        ]
        found = []
        for request in requests:
            with pytest.raises(InjectedError) as raised:
                request()
            found.append(driver.classify(raised.value))
        return found

    objects.put("there", b"x")
    assert codes(Faults(throttle=1.0)) == [Code.THROTTLED] * 4
    assert list(objects.list("").keys) == ["there"]
    assert codes(Faults(lost_reply=1.0)) == [Code.UNAVAILABLE] * 4
    assert list(objects.list("").keys) == ["new"]
    with pytest.raises(FileExistsError):  # an error of the service's own is no reply to lose
        FaultyObjects(objects, Faults(lost_reply=1.0), 0).put("new", b"y", if_absent=True)


def test_delete_rejects_keys(objects: ObjectDriver) -> None:
    driver = FaultyObjects(objects, Faults(reject=0.5, seed=5), 0)
    keys = [f"{number:02d}" for number in range(20)]
    for key in keys:
        objects.put(key, b"")
    refused = [keys[each.index] for each in driver.delete(keys)]
    assert 0 < len(refused) < 20
    assert list(objects.list("").keys) == refused


# Launches


def test_launches_twice_throttled_lost() -> None:
    platform = Platform()
    assert FaultyInvoker(platform, Faults(duplicate=1.0), 0).invoke("worker", b"a").poll() is None
    assert platform.launches == [("worker", b"a")] * 2
    with pytest.raises(InjectedError) as raised:
        FaultyInvoker(platform, Faults(throttle=1.0), 0).invoke("worker", b"b")
    assert code(raised) is Code.THROTTLED
    with pytest.raises(InjectedError) as raised:
        FaultyInvoker(platform, Faults(lost_reply=1.0), 0).invoke("worker", b"c")
    assert code(raised) is Code.UNAVAILABLE
    assert platform.launches[2:] == [("worker", b"c")]


def test_late_launches() -> None:
    platform = Platform()
    driver = FaultyInvoker(platform, Faults(late=1.0), 0)
    fine, none = driver.invoke("worker", b"a"), driver.invoke("none", b"b")
    assert fine.poll() is None
    until = time.monotonic() + 60
    while not platform.launches or none.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert platform.launches == [("worker", b"a")]
    assert (fine.poll(), none.poll()) == (None, Code.NOT_FOUND)


def test_close_cancels_late_launches() -> None:
    platform = Platform()
    driver = FaultyInvoker(platform, Faults(late=1.0), 0)
    before = set(threading.enumerate())
    for _ in range(3):
        driver.invoke("worker", b"a")
    timers = set(threading.enumerate()) - before
    driver.close()
    made = len(platform.launches)
    for timer in timers:
        timer.join(60)
    assert len(platform.launches) == made
    assert platform.closed == 1
