"""What is Service Bus's own, against the stand-in: exact limits, locks, what ends links; and a peer that says nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from attrs import evolve
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import ServiceBusServerBusyError

from azure_server import Relay, app, code_of, env, queues, service_bus, string
from fsd_azure import PROVIDER, clients, connection_strings, limits, links, names
from fsd_azure.errors import advice
from fsd_azure.messages import AzureMessages
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_conformance.emulators.service_bus.server import ServiceBusServer
from fsd_core.channel.frames import fill
from fsd_core.driver import Code, Delivery, Message, Refused, Resources
from fsd_core.errors import InputError
from fsd_core.providers.names import generation_of, new_generation
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry


@pytest.fixture(scope="module")
def server() -> Iterator[ServiceBusServer]:
    with service_bus() as server:
        yield server


@pytest.fixture
def made(server: ServiceBusServer) -> Resources:
    return app()


@pytest.fixture
def driver(made: Resources) -> Iterator[AzureMessages]:
    driver = AzureMessages(made, 0)
    yield driver
    driver.close()


def telling(resources: Resources, **settings: str) -> Resources:
    return evolve(resources, names={**resources.names, **settings})


def nobody(**settings: str) -> Resources:
    return Resources("a", 3, 1, {"generation": "0" * 8, "namespaces": "one", "tier": "standard", "lease_s": "5", **settings})


def at(port: int) -> AzureMessages:
    """A driver of a namespace at ``port``, whatever is there."""
    with pointed(env(**{connection_strings.SERVICE_BUS: string(port)}), POINTERS["azure"]):
        return AzureMessages(nobody(), 0)


def got(driver: AzureMessages, rank: int, count: int) -> list[Delivery]:
    """Receive ``count`` messages."""
    found: list[Delivery] = []
    until = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < until
        found += driver.receive(rank, driver.limits.receive_messages, 2)
    return found


def taken(driver: AzureMessages, rank: int, count: int) -> list[bytes]:
    """Receive and acknowledge ``count`` messages."""
    found = got(driver, rank, count)
    for first in range(0, count, 100):
        assert driver.ack(rank, [each.token for each in found[first : first + 100]]) == ()
    return [each.body for each in found]


def repeatedly(driver: AzureMessages, times: int) -> None:
    for _ in range(times):
        driver.publish([Message(0, b"x")] * 8)


def again(driver: AzureMessages, request: Callable[[], object]) -> object:
    """As core does it."""
    return Retry(time.time() + 60, Meter()).call(driver, "request", request)


def test_ranks_are_sharded_over_namespaces(made: Resources, driver: AzureMessages) -> None:
    driver.publish([Message(1, b"x")])
    hosts = names.Names.of(made).namespaces
    queue = names.Names.of(made).queue(0, 1)
    counts = []
    for number in range(2):
        with clients.administration(hosts, number) as admin:
            found = {each.name: each.active_message_count for each in admin.list_queues_runtime_properties()}
            counts.append(found.get(queue))
    assert counts == [None, 1]
    assert taken(driver, 1, 1) == [b"x"]


def test_a_link_that_is_opened_ahead_carries_the_first_publish(made: Resources, driver: AzureMessages) -> None:
    assert driver.connect(1)
    [link] = driver._senders.values()
    driver.publish([Message(1, b"body")])
    assert list(driver._senders.values()) == [link]
    assert taken(driver, 1, 1) == [b"body"]


def test_exact_limits(driver: AzureMessages) -> None:
    most = driver.limits
    assert (most.batch_messages, most.billing_bytes, most.body, most.lease_s) == (100, 64 << 10, "binary", 60.0)
    for count in (1, 2, 100):
        room = min(most.message_bytes, most.batch_bytes // count - most.overhead_bytes)
        driver.publish([Message(0, os.urandom(room))] * count)
        assert sum(map(len, taken(driver, 0, count))) == count * room
    assert most.message_bytes > 0.99 * (256 << 10)


def test_over_a_limit_is_refused_before_the_network() -> None:
    driver = at(9)  # nobody listens there: UNAVAILABLE, if it were asked
    most = driver.limits
    assert code_of(driver, driver.publish, [Message(0, b"x")]) is Code.UNAVAILABLE
    assert code_of(driver, driver.receive, 0, 1, 1) is Code.UNAVAILABLE
    assert code_of(driver, driver.publish, [Message(0, b"x" * (most.message_bytes + 1))]) is Code.TOO_LARGE
    assert code_of(driver, driver.publish, [Message(0, b"x" * (most.batch_bytes // 2))] * 2) is Code.TOO_LARGE
    assert code_of(driver, driver.publish, [Message(0, b"x")] * 101) is Code.INVALID
    assert code_of(driver, driver.publish, []) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"")]) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"x"), Message(1, b"x")]) is Code.INVALID
    assert code_of(driver, driver.receive, 0, most.receive_messages + 1, 1) is Code.INVALID
    assert code_of(driver, driver.receive, 0, 1, 20.5) is Code.INVALID
    assert code_of(driver, driver.ack, 0, ["t"] * 101) is Code.INVALID
    assert code_of(driver, driver.ack, 0, []) is Code.INVALID
    assert code_of(driver, driver.ack, 0, ["no token"]) is Code.INVALID
    driver.close()


def test_a_tier_that_is_too_small_says_so(made: Resources) -> None:
    driver = AzureMessages(telling(made, tier="premium"), 0)  # the namespace does not know: it takes 256 KB
    assert driver.limits.message_bytes > 1_000_000
    for body in (b"x" * 300_000, b"y"):  # the link says so before anything is sent
        with pytest.raises(Refused, match=r"0-0: accepts batches of 262144 bytes: expected 1048064") as caught:
            driver.publish([Message(0, body)])
        assert driver.classify(caught.value) is Code.TOO_LARGE
    driver.close()


def test_a_premium_namespace_takes_a_large_message() -> None:
    with service_bus("--tier", "premium", namespaces=["one"]):
        driver = AzureMessages(app(1, 1, namespaces="one", tier="premium"), 0)
        body = os.urandom(driver.limits.message_bytes)
        driver.publish([Message(0, body)])
        driver.publish([Message(0, body[:500_000]), Message(0, body[500_000:1_000_000])])
        assert taken(driver, 0, 3) == [body, body[:500_000], body[500_000:1_000_000]]
        driver.close()
    own = limits.messages("premium", 5, 102_400)
    assert (own.message_bytes > 104_000_000, own.receive_messages) == (True, 1)


def test_an_ack_does_not_wait_for_a_long_poll_nor_one_poll_for_another(driver: AzureMessages) -> None:
    driver.receive(2, 1, 0)
    driver.publish([Message(2, b"held")])
    (held,) = got(driver, 2, 1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(driver.receive, 2, 1, 15) for _ in range(2)]
        before = time.monotonic()
        driver.ack(2, [held.token])
        assert time.monotonic() - before < 14
        assert not any(each.done() for each in waiting)
        driver.publish([Message(2, b"1")])
        driver.publish([Message(2, b"2")])
        found = [each.result() for each in waiting]
        assert time.monotonic() - before < 14
    found.append(driver.receive(2, 10, 1) if sum(map(len, found)) < 2 else [])
    assert {each.body for some in found for each in some} == {b"1", b"2"}  # a slow machine may get one twice
    driver.ack(2, [each.token for some in found for each in some])


def test_what_nobody_takes_is_not_read_without_end(driver: AzureMessages) -> None:
    most = driver.limits.receive_messages
    for _ in range(4):
        driver.publish([Message(0, b"%d" % number) for number in range(most)])
    driver.receive(0, 1, 1)
    time.sleep(0.5)
    assert len(driver._receivers[0]._found) <= most
    assert len(got(driver, 0, 4 * most - 1)) == 4 * most - 1
    driver.close()


def test_what_a_receiver_held_is_there_for_others_at_once() -> None:
    with service_bus(namespaces=["one"]):
        made = app(1, 1, namespaces="one", lease_s="120")  # longer than this test waits
        first, second = AzureMessages(made, 0), AzureMessages(made, 0)
        first.publish([Message(0, b"one")])
        (one,) = got(first, 0, 1)
        link, gate = first._receivers[0], threading.Event()
        for action in (gate.wait, lambda: link._complete([one.token])):  # the SDK reads what came before the outcome
            link._orders.put((Future(), action))
        first.publish([Message(0, b"%d" % number) for number in range(19)])
        link.close()
        gate.set()
        first.close()
        assert sorted(taken(second, 0, 19)) == sorted(b"%d" % number for number in range(19))
        second.close()


def test_somebody_elses_message(made: Resources, driver: AzureMessages) -> None:
    queue = names.Names.of(made).queue(0, 0)
    with driver.native()[0].get_queue_sender(queue) as sender:
        for message in ({"value_body": {"a": 1}}, {"sequence_body": [[1, 2]]}, {"data_body": [b"two ", b"parts"]}):
            sender.send_messages(AmqpAnnotatedMessage(**message))
    assert taken(driver, 0, 3) == [b"no data", b"no data", b"two parts"]


def test_a_publish_where_no_queue_is(made: Resources, driver: AzureMessages) -> None:
    """Of one message and of a batch; a receive is a case of the suite."""
    for messages in ([Message(99, b"x")], [Message(99, b"x")] * 2):
        assert code_of(driver, driver.publish, messages) is Code.NOT_FOUND


def test_a_throttled_namespace() -> None:
    with service_bus("--throttle", "20", namespaces=["one"]):
        driver = AzureMessages(app(1, 1, namespaces="one"), 0)
        with pytest.raises(Exception, match="wait 2 seconds") as caught:
            [driver.publish([Message(0, b"x")] * 20) for _ in range(100)]
        assert driver.classify(caught.value) is Code.THROTTLED
        assert "namespaces" in (advice(caught.value) or "")
        until = time.monotonic() + 60
        again(driver, lambda: driver.publish([Message(0, b"last")]))
        bodies: list[bytes] = []
        while b"last" not in bodies:
            assert time.monotonic() < until
            found: Sequence[Delivery] = again(driver, lambda: driver.receive(0, 32, 1))  # type: ignore[assignment]
            bodies += [each.body for each in found]
        driver.close()


def test_a_namespace_that_begins_anew() -> None:
    with service_bus() as server:
        made = app()
        driver = AzureMessages(made, 0)
        driver.publish([Message(0, b"lost")])
        assert driver.receive(1, 1, 0) == []
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(driver.receive, 1, 1, 20)
            time.sleep(0.2)
            server.stop()
            assert code_of(driver, waiting.result) is Code.UNAVAILABLE
        assert code_of(driver, driver.publish, [Message(0, b"x")]) is Code.UNAVAILABLE
        server.start()
        assert {code_of(driver, lambda: again(driver, lambda: driver.publish([Message(0, b"x")])))} <= {Code.NOT_FOUND, Code.UNKNOWN}
        queues(made)
        again(driver, lambda: driver.publish([Message(1, b"new")]))
        found: Sequence[Delivery] = again(driver, lambda: driver.receive(1, 1, 20))  # type: ignore[assignment]
        assert [each.body for each in found] == [b"new"]
        driver.close()


def test_connections_that_are_cut() -> None:
    with service_bus("--drop-after", "45", namespaces=["one"]):  # more than a receiver may be sent at once
        driver = AzureMessages(app(1, 1, namespaces="one", lease_s="2"), 0)
        sent = [b"%d" % number for number in range(100)]
        for body in sent:
            again(driver, lambda body=body: driver.publish([Message(0, body)]))  # type: ignore[misc]
        left, until = set(sent), time.monotonic() + 60
        while left:
            assert time.monotonic() < until
            found: Sequence[Delivery] = again(driver, lambda: driver.receive(0, 32, 1))  # type: ignore[assignment]
            left -= {each.body for each in found}
            if found:
                again(driver, lambda found=found: driver.ack(0, [each.token for each in found]))  # type: ignore[misc]
        driver.close()


def test_a_lock_outlives_its_connection() -> None:
    with service_bus(namespaces=["one"]) as server:
        relay = Relay(server.ports["one"][0])
        made = app(1, 1, namespaces="one", lease_s="120")
        with pointed({**os.environ, connection_strings.SERVICE_BUS: string(relay.port)}, ()):
            driver = AzureMessages(made, 0)
        driver.publish([Message(0, b"one"), Message(0, b"two")])
        found = got(driver, 0, 2)
        relay.cut()
        again(driver, lambda: driver.ack(0, [each.token for each in found]))
        with clients.administration(("one",), 0) as admin:
            assert admin.get_queue_runtime_properties(names.Names.of(made).queue(0, 0)).total_message_count == 0
        again(driver, lambda: driver.publish([Message(0, b"three")]))
        driver.close()
        relay.close()


def test_a_connection_that_was_idle_too_long() -> None:
    with service_bus("--idle-s", "0.5", "--unused-s", "0.5", namespaces=["one"]):
        driver = AzureMessages(app(1, 1, namespaces="one"), 0)
        for body in (b"first", b"second"):
            again(driver, lambda body=body: driver.publish([Message(0, body)]))  # type: ignore[misc]
            found: Sequence[Delivery] = again(driver, lambda: driver.receive(0, 1, 20))  # type: ignore[assignment]
            assert [each.body for each in found] == [body]
            again(driver, lambda found=found: driver.ack(0, [each.token for each in found]))  # type: ignore[misc]
            time.sleep(2)
        driver.close()


def test_a_peer_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "OPEN_S", 0.5)
    monkeypatch.setattr(links, "_SLACK_S", 0.5)
    monkeypatch.setattr(links, "CLOSE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        driver = at(mute.getsockname()[1])
        with pytest.raises(TimeoutError, match="queue fsd-a-00000000-0-0: Service Bus did not answer within 1 s") as caught:
            driver.publish([Message(0, b"x")])
        assert driver.classify(caught.value) is Code.UNAVAILABLE
        assert code_of(driver, driver.receive, 0, 1, 0) is Code.UNAVAILABLE
        before = time.monotonic()
        driver.close()
        assert time.monotonic() - before < 30
        driver.close()


def test_a_link_that_was_given_up_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with service_bus(namespaces=["one"]) as server:
        relay = Relay(server.ports["one"][0])
        made = app(1, 1, namespaces="one")
        with pointed({**os.environ, connection_strings.SERVICE_BUS: string(relay.port)}, ()):
            driver = AzureMessages(made, 0)
        with relay.held(), monkeypatch.context() as patched:
            patched.setattr(links, "OPEN_S", 0.3)
            patched.setattr(links, "_SLACK_S", 0.0)
            assert code_of(driver, driver.receive, 0, 1, 0) is Code.UNAVAILABLE
            given_up = driver._receivers[0]
        driver.publish([Message(0, b"%d" % number) for number in range(50)])
        assert len(taken(driver, 0, 50)) == 50  # within its lock's minute: the other, which opens at last, has none of them
        given_up.join(60)
        assert not given_up._thread.is_alive()
        driver.close()
        relay.close()


def test_an_order_to_a_link_that_ended_is_refused_at_once(driver: AzureMessages) -> None:
    assert driver.receive(0, 1, 0) == []
    link = driver._receivers[0]
    link.close()
    link.join(60)
    with pytest.raises(ConnectionError, match="the link was closed"):
        link.order(lambda: None, 1e6)


def test_nothing_is_opened_after_the_end(made: Resources) -> None:
    driver = AzureMessages(made, 0)
    driver.close()
    before = threading.active_count()
    for request in (lambda: driver.receive(0, 1, 0), lambda: driver.publish([Message(1, b"x")])):
        assert code_of(driver, request) is Code.UNAVAILABLE
    assert threading.active_count() == before


def test_large_messages_of_the_premium_tier_go_alone() -> None:
    with service_bus("--tier", "premium", namespaces=["one"]):
        made = app(1, 1, namespaces="one", tier="premium", message_kb="4096")
        driver = AzureMessages(made, 0)
        bodies = [b"a" * 3_000_000, b"b" * 700_000, b"c" * 700_000, b"d" * 300_000]
        assert code_of(driver, driver.publish, [Message(0, body) for body in bodies[1:3]]) is Code.TOO_LARGE
        sizes = [len(body) + driver.limits.overhead_bytes for body in bodies]
        batches = fill(sizes, driver.limits.batch_messages, driver.limits.batch_bytes)
        assert sorted(map(sorted, batches)) == [[0], [1, 3], [2]]
        for batch in batches:
            driver.publish([Message(0, bodies[index]) for index in batch])
        assert sorted(taken(driver, 0, 4)) == bodies
        driver.close()


def test_who_is_throttled_is_told_how_long() -> None:
    with service_bus("--throttle", "10", namespaces=["one"]):
        driver = AzureMessages(app(1, 1, namespaces="one"), 0)
        with pytest.raises(ServiceBusServerBusyError) as caught:
            repeatedly(driver, 100)  # each may take another second
        assert driver.classify(caught.value) is Code.THROTTLED
        assert caught.value.retry_after_s == 2.0
        driver.close()


def test_links_are_opened_for_who_is_used_and_closed_at_once(made: Resources) -> None:
    def its_links() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith(f"link fsd-{made.app}-")]

    driver = AzureMessages(made, 0)
    assert its_links() == []
    driver.publish([Message(0, b"x")])
    assert taken(driver, 0, 1) == [b"x"]
    assert len(its_links()) == 2
    driver.close()
    for each in its_links():  # what takes longer to close than `links.CLOSE_S`
        each.join(60)
    assert its_links() == []
    driver.close()


def test_more_connections_than_a_namespace_takes() -> None:
    PROVIDER.admit(nobody(), 70)
    with pytest.raises(InputError, match=r"namespaces = 2, or use --channel object") as caught:
        PROVIDER.admit(nobody(), 71)
    assert "5041 connections to one namespace: expected at most 5000" in str(caught.value)
    limits.check_connections("standard", 71, 2)
    limits.check_connections("standard", 1000, 200)
    with pytest.raises(InputError, match="object"):
        limits.check_connections("standard", 6000, 100)


@pytest.mark.parametrize(
    ("imported", "without"),
    [
        ("fsd_azure.names, fsd_azure.limits, fsd_azure.clients", ("azure.", "requests")),
        ("fsd_azure.objects, azure.storage.blob", ("azure.servicebus", "azure.identity")),  # a worker of the object channel
        ("fsd_azure.messages, azure.servicebus", ("azure.storage", "azure.identity")),
    ],
)
def test_what_is_imported(imported: str, without: tuple[str, ...]) -> None:
    check = f"import sys; before = set(sys.modules); import {imported}; "
    check += f"print([name for name in set(sys.modules) - before if name.startswith({without})])"
    assert subprocess.run([sys.executable, "-P", "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_names_fit_and_are_known_again() -> None:
    made = names.Names("a" * 40, new_generation(), ("one", "two", "three"))
    assert len(made.queue(99, 99_999)) <= 260
    assert generation_of("a" * 40, made.queue(99, 99_999)) == made.generation
    inner = names.Names("a-b", "01234567", ("one",))
    assert generation_of("a", inner.queue(0, 1)) is None
    assert [made.shard(rank) for rank in range(4)] == [0, 1, 2, 0]
    assert list(evolve(inner, namespaces=("x", "y")).queues(3, 1)) == [
        (0, "fsd-a-b-01234567-0-0"),
        (1, "fsd-a-b-01234567-0-1"),
        (0, "fsd-a-b-01234567-0-2"),
    ]
    apps = ["a", "a-b", "ab", "a" * 40, "a" * 39 + "b", "a" * 37 + "-sb"]
    for kind, most in ((names.function, 60), (names.storage_account, 24)):
        found = [kind(app, "SUB", "group") for app in apps] + [kind("a", "other", "group"), kind("a", "SUB", "other")]
        assert len(set(found)) == len(found)
        assert max(map(len, found)) <= most
        assert kind("a", "sub", "Group") == found[0]
    assert all(name.isalnum() and name.islower() for name in (names.storage_account(app, "s", "g") for app in apps))
    spaces = {names.namespace(app, "s", "g", number) for app in apps for number in (0, 1, 124)}
    assert len(spaces) == 3 * len(apps)
    assert max(map(len, spaces)) <= 50
    assert not any(name.endswith(("-sb", "-mgmt")) for name in spaces)
