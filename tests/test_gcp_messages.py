"""Pub/Sub against Google's emulator: exact limits, long polls, large pulls, leases, what is missing; and a server that fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from attrs import asdict, evolve

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import Code, Message, Resources
from fsd_core.errors import InputError
from fsd_core.providers.names import generation_of
from fsd_gcp import PROVIDER, names
from fsd_gcp.errors import Answered
from fsd_gcp.messages import GcpMessages
from fsd_gcp.variables import RESOURCES
from gcp_server import PROJECT, app, code_of, env, messages

NOBODY = Resources("a", 3, 1, {"project": PROJECT, "generation": "0" * 8, "lease_s": "10"})


@pytest.fixture(scope="module")
def made() -> Iterator[Resources]:
    with messages():
        yield app()


@pytest.fixture
def queues(made: Resources) -> Iterator[GcpMessages]:
    driver = GcpMessages(made, 0)
    yield driver
    driver.close()


def taken(driver: GcpMessages, rank: int, count: int) -> list[bytes]:
    """Receive and acknowledge ``count`` messages."""
    bodies: list[bytes] = []
    until = time.monotonic() + 60
    while len(bodies) < count:
        assert time.monotonic() < until
        deliveries = driver.receive(rank, 1000, 2)
        assert not deliveries or not driver.ack(rank, [each.token for each in deliveries])
        bodies += [each.body for each in deliveries]
    return bodies


@contextmanager
def answering(answer: Callable[[str, bytes, Any], bytes]) -> Iterator[str]:
    """A server of gRPC in this process: ``answer`` gets the method's name, the request and the call."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(call.method, request, context))

    server = grpc.server(ThreadPoolExecutor(4), handlers=(Handler(),), options=[("grpc.max_receive_message_length", -1)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(30)


def at(address: str) -> GcpMessages:
    with pointed(env(PUBSUB_EMULATOR_HOST=address), POINTERS["gcp"]):
        return GcpMessages(NOBODY, 0)


def test_to_one_rank_of_one_slot(made: Resources, queues: GcpMessages) -> None:
    other = GcpMessages(made, 1)
    for rank in range(3):
        assert not queues.publish([Message(rank, b"to %d" % rank)])
    assert [taken(queues, rank, 1) for rank in range(3)] == [[b"to 0"], [b"to 1"], [b"to 2"]]
    assert [list(driver.receive(rank, 10, 0)) for driver in (queues, other) for rank in range(3)] == [[]] * 6
    other.close()


def test_a_connection_is_opened_without_a_call() -> None:
    asked: list[str] = []
    with answering(lambda method, request, call: asked.append(method) or b"") as address:
        driver = at(address)
        assert driver.connect(1)
        assert asked == []
        driver.publish([Message(1, b"body")])
        assert len(asked) == 1
        driver.close()


def test_any_bytes(queues: GcpMessages) -> None:
    bodies = [bytes(range(256)), b"\0", b"\xff" * 1000]
    queues.publish([Message(1, body) for body in bodies])
    assert sorted(taken(queues, 1, 3)) == sorted(bodies)


def test_exact_limits_and_pulls_over_4_mib(queues: GcpMessages) -> None:
    limits = queues.limits
    assert (limits.batch_messages, limits.billing_bytes, limits.body, limits.lease_s) == (1000, 1000, "binary", 10.0)
    whole = os.urandom(limits.message_bytes)
    queues.publish([Message(0, whole)])
    assert taken(queues, 0, 1) == [whole]
    room = limits.batch_bytes // 1000 - limits.overhead_bytes
    queues.publish([Message(0, b"x" * room)] * 1000)
    assert sum(map(len, taken(queues, 0, 1000))) == 1000 * room


def test_the_largest_request_is_within_10_mb_as_it_is_encoded() -> None:
    sent: list[int] = []

    def measure(method: str, request: bytes, context: Any) -> bytes:
        sent.append(len(request))
        return b""

    longest = evolve(NOBODY, app="a" * 40, names={**NOBODY.names, "project": f"{'organisation.' * 2}example:{'p' * 30}"})
    with answering(measure) as address, pointed(env(PUBSUB_EMULATOR_HOST=address), POINTERS["gcp"]):
        driver = GcpMessages(longest, 123456789)
        limits = driver.limits
        for count in (1, 2, 1000):
            room = limits.batch_bytes // count - limits.overhead_bytes
            driver.publish([Message(123456789, b"x" * room)] * count)
        driver.close()
    assert len(sent) == 3
    assert max(sent) <= 10_000_000


def test_over_a_limit_is_refused_before_the_network() -> None:
    driver = at("127.0.0.1:9")  # nobody listens there: UNAVAILABLE, if it were asked
    limits = driver.limits
    half = [Message(0, b"x" * (limits.batch_bytes // 2))] * 2
    assert code_of(driver, driver.publish, [Message(0, b"x")]) is Code.UNAVAILABLE
    assert code_of(driver, driver.publish, [Message(0, b"x" * (limits.message_bytes + 1))]) is Code.TOO_LARGE
    assert code_of(driver, driver.publish, half) is Code.TOO_LARGE
    assert code_of(driver, driver.publish, [Message(0, b"x")] * 1001) is Code.INVALID
    assert code_of(driver, driver.publish, []) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"")]) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"x"), Message(1, b"x")]) is Code.INVALID
    assert code_of(driver, driver.receive, 0, 1001, 1) is Code.INVALID
    assert code_of(driver, driver.receive, 0, 1, 20.5) is Code.INVALID
    assert code_of(driver, driver.ack, 0, ["t"] * 1001) is Code.INVALID
    assert code_of(driver, driver.ack, 0, []) is Code.INVALID
    driver.close()


def test_a_long_poll_wakes(queues: GcpMessages) -> None:
    with ThreadPoolExecutor(1) as pool:
        before = time.monotonic()
        waiting = pool.submit(queues.receive, 2, 10, 20)
        time.sleep(0.5)
        assert not waiting.done()
        queues.publish([Message(2, b"wake")])
        (delivery,) = waiting.result()
        assert time.monotonic() - before < 19
        assert (delivery.body, list(queues.ack(2, [delivery.token]))) == (b"wake", [])


def test_a_poll_of_nothing_lasts_as_long_as_it_was_told(queues: GcpMessages) -> None:
    for wait_s in (0.0, 0.3, 1.5):
        before = time.monotonic()
        assert not queues.receive(1, 10, wait_s)
        assert time.monotonic() - before >= 0.9 * wait_s


def test_unacknowledged_comes_again_and_an_old_token_is_harmless(queues: GcpMessages) -> None:
    queues.publish([Message(0, b"again")])
    (first,) = queues.receive(0, 10, 20)
    (second,) = queues.receive(0, 10, 20) or queues.receive(0, 10, 20)
    assert (first.body, second.body) == (b"again", b"again")
    for tokens in ([first.token], [second.token], [second.token, first.token]):
        assert not queues.ack(0, tokens)


def test_what_is_missing(made: Resources, queues: GcpMessages) -> None:
    gone = GcpMessages(evolve(made, names={**made.names, "generation": "00000000"}), 0)
    assert code_of(gone, gone.receive, 0, 1, 0) is Code.NOT_FOUND
    assert code_of(gone, gone.receive, 0, 1, 5) is Code.NOT_FOUND
    assert code_of(gone, gone.publish, [Message(0, b"x")]) is Code.NOT_FOUND
    assert code_of(gone, gone.ack, 0, ["x"]) is Code.NOT_FOUND
    assert code_of(queues, queues.receive, 99, 1, 0) is Code.NOT_FOUND
    gone.close()
    gone.close()


def test_a_deadline_that_passed_is_an_empty_receive_and_a_failed_publish() -> None:
    over = threading.Event()

    def silent(method: str, request: bytes, context: Any) -> bytes:
        if method.endswith("/Pull"):
            over.wait(60)
            return b""
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")
        raise AssertionError("abort raises")

    with answering(silent) as address:
        driver = at(address)
        before = time.monotonic()
        assert not driver.receive(0, 10, 0.2)
        assert 0.2 <= time.monotonic() - before < 30
        assert code_of(driver, driver.publish, [Message(0, b"x")]) is Code.UNAVAILABLE
        assert code_of(driver, driver.ack, 0, ["x"]) is Code.UNAVAILABLE
        over.set()
        driver.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("RESOURCE_EXHAUSTED", Code.THROTTLED),
        ("UNAVAILABLE", Code.UNAVAILABLE),
        ("INTERNAL", Code.UNAVAILABLE),
        ("ABORTED", Code.UNAVAILABLE),
        ("PERMISSION_DENIED", Code.DENIED),
        ("UNAUTHENTICATED", Code.DENIED),
        ("NOT_FOUND", Code.NOT_FOUND),
        ("INVALID_ARGUMENT", Code.INVALID),
        ("FAILED_PRECONDITION", Code.PRECONDITION),
    ],
)
def test_one_attempt_whose_error_is_one_line(status: str, code: Code) -> None:
    asked: list[str] = []

    def fail(method: str, request: bytes, context: Any) -> bytes:
        asked.append(method)
        context.abort(grpc.StatusCode[status], "first\n second")
        raise AssertionError("abort raises")

    with answering(fail) as address:
        driver = at(address)
        for request in (lambda: driver.publish([Message(0, b"x")]), lambda: driver.receive(0, 1, 1.0), lambda: driver.ack(0, ["x"])):
            with pytest.raises(Answered, match=rf"^{status}: first second$") as caught:
                request()
            assert driver.classify(caught.value) is code
            assert isinstance(caught.value.__cause__, grpc.RpcError)
        driver.close()
    assert asked == [f"/google.pubsub.v1.{name}" for name in ("Publisher/Publish", "Subscriber/Pull", "Subscriber/Acknowledge")]


def test_a_server_that_speaks_no_grpc() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                try:
                    connection, _ = listener.accept()
                except OSError:  # the test is over
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        driver = at(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert code_of(driver, driver.receive, 0, 1, 20.0) is Code.UNAVAILABLE
        driver.close()


def test_attach_reads_the_functions_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RESOURCES, json.dumps(asdict(NOBODY)))
    assert PROVIDER.attach("a") == NOBODY
    for text in ("{}", "no JSON", json.dumps(asdict(NOBODY) | {"app": "other"}), "[1]"):
        monkeypatch.setenv(RESOURCES, text)
        with pytest.raises(InputError, match="'a'"):
            PROVIDER.attach("a")


def test_importing_imports_no_sdk() -> None:
    sdks = "('google.', 'grpc', 'proto', 'urllib3', 'requests')"
    check = (  # packages of namespaces may be made by the interpreter's start
        f"import sys; before = set(sys.modules); import fsd_gcp.names, fsd_gcp.limits; "
        f"print([m for m in sys.modules if m.startswith({sdks}) and m not in before])"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_names() -> None:
    here = names.Names("an-app", "p", "0123abcd")
    assert here.topic(3, 14) == "projects/p/topics/fsd-an-app-0123abcd-3-14"
    assert here.subscription(3, 14) == "projects/p/subscriptions/fsd-an-app-0123abcd-3-14"
    assert list(here.queues(2, 2))[2] == (here.topic(1, 0), here.subscription(1, 0))
    for name in (here.queue(0, 0), here.topic(0, 0), here.subscription(1, 2)):
        assert generation_of("an-app", name) == "0123abcd"
        assert generation_of("an", name) is None
    assert generation_of("an", "fsd-an-xyz") is None
    longest = "a" * 40
    for app_name in ("a", "an-app", longest, "a" * 39 + "b"):
        assert 3 <= len(names.bucket(app_name, "example.com:p" + "r" * 29)) <= 63
        assert 6 <= len(names.service_account(app_name)) <= 30
        assert len(names.function(app_name)) <= 49  # of a service of Cloud Run
        assert names.bucket(app_name, "p" * 30).replace("-", "").isalnum()
    assert names.bucket("a" * 40, "p" * 30) != names.bucket("a" * 39 + "b", "p" * 30)
    assert names.service_account("a" * 40) != names.service_account("a" * 39 + "b")
