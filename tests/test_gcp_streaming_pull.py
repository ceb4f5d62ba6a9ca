"""Receiving by StreamingPull: on Google's emulator, which ignores flow control, and on a server of ours that enforces it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import grpc
import pytest
from attrs import evolve
from google.pubsub_v1 import types

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.channel import ChannelConfig, QueueChannel, RankIdentity
from fsd_core.channel.frames import Frame, Kind, pack
from fsd_core.driver import Code, Delivery, Message, Resources
from fsd_core.errors import InputError
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.wrappers.metered import MeteredMessages
from fsd_gcp import PROVIDER, pubsub
from fsd_gcp.messages import GcpMessages
from gcp_server import PROJECT, app, code_of, env, messages
from waiting import until

pytestmark = pytest.mark.timeout(180)
RUN = "1234567890abcdef"
KEY = bytes(32)
NOBODY = Resources("a", 3, 1, {"project": PROJECT, "generation": "0" * 8, "lease_s": "600", "receive": "stream"})


@pytest.fixture(scope="module")
def made() -> Iterator[Resources]:
    with messages():
        yield app(ranks=1, slots=8, lease_s="600", receive="stream")  # what comes again within a test was given back


@pytest.fixture
def slot(request: pytest.FixtureRequest) -> int:
    """A new one for each test: no test gets what another left unacknowledged."""
    request.module.SLOTS = getattr(request.module, "SLOTS", -1) + 1
    return int(request.module.SLOTS)


def taken(driver: GcpMessages, count: int) -> list[bytes]:
    """Receive and acknowledge ``count`` messages."""
    found: list[Delivery] = []
    end = time.monotonic() + 90
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count}"
        got = driver.receive(0, 1000, 2.0)
        if got:
            driver.ack(0, [each.token for each in got])
        found += got
    return sorted(each.body for each in found)


def test_what_was_not_taken_is_given_back_at_the_end(made: Resources, slot: int) -> None:
    bodies = sorted(b"%d" % number for number in range(50))
    with closing(GcpMessages(made, slot)) as driver:
        assert driver.receive(0, 10, 0.2) == []
        driver.publish([Message(0, body) for body in bodies])
        (first,) = driver.receive(0, 1, 20.0)
        until(lambda: driver._streams[0]._arrived.qsize() == 49)
        (second,) = driver.receive(0, 1, 0)  # of what came already
        driver.ack(0, [first.token, second.token])
    pulls = evolve(made, names={**made.names, "receive": "pull"})
    with closing(GcpMessages(pulls, slot)) as driver:
        assert taken(driver, 48) == sorted(set(bodies) - {first.body, second.body})


def test_a_package_without_flow_control_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"project": PROJECT, "receive": "stream"}
    monkeypatch.setattr(pubsub, "_FLOW", pubsub._FLOW | {"max_outstanding_thoughts"})
    said = r"\[gcp\] receive = 'stream': google-cloud-pubsub [0-9.]+ has no max_outstanding_thoughts: expected a newer one"
    with pytest.raises(InputError, match=said):
        PROVIDER.provisioner(settings).find("x")


@pytest.mark.parametrize(("emulator", "pings"), [("127.0.0.1:9", []), (None, [30_000])])
def test_only_connections_to_google_are_pinged(monkeypatch: pytest.MonkeyPatch, emulator: str | None, pings: list[int]) -> None:
    """Google's emulator ends a connection for its third ping within 5 minutes, and with it the requests that wait."""
    opened: list[dict[str, Any]] = []
    made, nobody = grpc.insecure_channel, "127.0.0.1:9"
    monkeypatch.setattr(pubsub, "signer", lambda: lambda _: {})
    monkeypatch.setattr(pubsub.grpc, "insecure_channel", lambda at, options: opened.append(dict(options)) or made(nobody))
    monkeypatch.setattr(pubsub.grpc, "secure_channel", lambda at, _, options: opened.append(dict(options)) or made(nobody))
    with pointed({"PUBSUB_EMULATOR_HOST": emulator} if emulator else {}, POINTERS["gcp"]):
        pubsub.Pubsub().close()
    assert [value for options in opened for name, value in options.items() if name == "grpc.keepalive_time_ms"] == pings


def test_a_wait_of_0_is_a_pull(made: Resources, slot: int) -> None:
    with closing(GcpMessages(made, slot)) as driver:
        driver.publish([Message(0, b"x")])
        until(lambda: bool(driver.receive(0, 10, 0)))
        assert driver._streams == {}


@pytest.mark.slow
def test_after_a_kill_the_next_reader_has_everything(made: Resources) -> None:
    lease_s, bodies = 10, sorted(b"%d" % number for number in range(50))
    brief = app(ranks=1, slots=1, lease_s=str(lease_s), receive="stream")
    program = (
        "import json, sys, time\n"
        "from fsd_core.driver import Resources\n"
        "from fsd_gcp.messages import GcpMessages\n"
        "driver = GcpMessages(Resources('x', 1, 1, json.loads(sys.argv[1])), 0)\n"
        "driver._names = driver._names.__class__(*json.loads(sys.argv[2]))\n"
        "print(len(driver.receive(0, 1, 20.0)), flush=True)\n"
        "time.sleep(600)\n"
    )
    with closing(GcpMessages(brief, 0)) as driver:
        driver.publish([Message(0, body) for body in bodies])
        names = driver._names
        told = [json.dumps(dict(brief.names)), json.dumps([names.app, names.project, names.generation])]
        with subprocess.Popen([sys.executable, "-c", program, *told], stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"1\n"
            os.kill(reader.pid, signal.SIGKILL)
        assert taken(driver, 50) == bodies  # `benchmarks/pubsub_pull.py --killed` prints after how many leases


class Server:
    """Of one subscription, in this process: sends ``left`` while less than the stream's limits is outstanding."""

    def __init__(self, left: list[bytes]) -> None:
        self.left, self.outstanding = left, {}
        self.streams, self.most, self.half_closed, self.beats = 0, 0, threading.Event(), 0
        self.changed = threading.Condition()
        self.fails: list[grpc.StatusCode] = []

    def pull(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.streams += 1
        first = types.StreamingPullRequest.pb().FromString(next(requests))
        assert first.stream_ack_deadline_seconds == 600
        if self.fails:
            context.abort(self.fails.pop(), "first\n second")
        over = threading.Event()

        def listen() -> None:
            for _ in requests:
                self.beats += 1
            self.half_closed.set()
            with self.changed:
                over.set()
                self.changed.notify_all()

        threading.Thread(target=listen, daemon=True).start()
        while not over.is_set():
            with self.changed:
                size = sum(map(len, self.outstanding.values()))
                room = first.max_outstanding_messages - len(self.outstanding)
                if not (self.left and room > 0 and size < first.max_outstanding_bytes):
                    self.changed.wait(1.0)
                    continue
                token, body = f"t{len(self.left)}", self.left.pop()
                self.outstanding[token] = body
                self.most = max(self.most, len(self.outstanding))
            received = types.ReceivedMessage.pb()(ack_id=token, message={"data": body})
            yield types.StreamingPullResponse.pb()(received_messages=[received]).SerializeToString()

    def acknowledge(self, request: bytes, context: Any) -> bytes:
        with self.changed:
            for token in types.AcknowledgeRequest.pb().FromString(request).ack_ids:
                self.outstanding.pop(token, None)
            self.changed.notify_all()
        return b""

    @contextmanager
    def driver(self) -> Iterator[GcpMessages]:
        """A driver of this server."""

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(handler, call: Any) -> Any:
                if call.method.endswith("/StreamingPull"):
                    return grpc.stream_stream_rpc_method_handler(self.pull)
                return grpc.unary_unary_rpc_method_handler(self.acknowledge)

        served = grpc.server(ThreadPoolExecutor(8), handlers=(Handler(),))
        port = served.add_insecure_port("127.0.0.1:0")
        served.start()
        try:
            with pointed(env(PUBSUB_EMULATOR_HOST=f"127.0.0.1:{port}"), POINTERS["gcp"]):
                driver = GcpMessages(NOBODY, 0)
            with closing(driver):
                yield driver
        finally:
            served.stop(None).wait(30)


@pytest.mark.parametrize(("pieces", "size"), [(250, 10), (60, 100_000)], ids=["messages", "bytes"])
def test_flow_control_never_holds_up_a_receiver(pieces: int, size: int) -> None:
    """Half of the lease is 300 s, and 1,000 tokens fill a request: no earlier acknowledged, the server would stop at either limit."""
    frames = [pack(Frame(Kind.PAYLOAD, RUN, 5, 0, 1, number, pieces, b"x" * size), 0, KEY) for number in range(pieces)]
    server, meter = Server(frames), Meter()
    with server.driver() as driver, ThreadPoolExecutor(4) as pool:
        assert (driver.limits.outstanding_messages, driver.limits.outstanding_bytes) == (1000, 64 << 20)
        driver.limits = evolve(driver.limits, outstanding_messages=100, outstanding_bytes=1 << 20)
        me = RankIdentity(RUN, 5, 0, 2, time.time() + 60, key=KEY)
        channel = QueueChannel(MeteredMessages(driver, meter), ChannelConfig(me, {0: [1]}, Retry(me.deadline, meter), pool))
        ((source, payload),) = channel.receive(0)
        channel.finish()
        assert (source, len(payload)) == (1, pieces * size)
        assert server.outstanding == {}
        channel.close()
    assert 0 < server.most <= 100
    assert meter.snapshot()["receive_requests"] <= pieces  # calls of the driver, whatever the transport


def test_a_receive_is_open_before_a_step_wants_it() -> None:
    server = Server([pack(Frame(Kind.PAYLOAD, RUN, 5, 0, 1, 0, 1, b"early"), 0, KEY)])
    with server.driver() as driver, ThreadPoolExecutor(4) as pool:
        me = RankIdentity(RUN, 5, 0, 2, time.time() + 60, key=KEY)
        channel = QueueChannel(driver, ChannelConfig(me, {0: [1]}, Retry(me.deadline, Meter()), pool))
        until(lambda: server.outstanding == {} and server.left == [])  # and was acknowledged, though nobody asked for the step
        assert list(channel.receive(0)) == [(1, b"early")]
        channel.close()


def test_a_stream_that_ended_is_told_and_opened_anew() -> None:
    server = Server([b"x"])
    server.fails = [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE]
    with server.driver() as driver:
        assert code_of(driver, driver.receive, 0, 1, 20.0) is Code.UNAVAILABLE
        assert code_of(driver, driver.receive, 0, 1, 20.0) is Code.NOT_FOUND
        assert [each.body for each in driver.receive(0, 1, 20.0)] == [b"x"]
    assert server.streams == 3


def test_a_stream_is_kept_alive_and_ends_by_a_half_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "_BEAT_S", 0.05)
    server = Server([])
    with server.driver() as driver:
        assert driver.receive(0, 1, 0.2) == []
        until(lambda: server.beats > 1)
        assert not server.half_closed.is_set()
        began = time.monotonic()
    assert server.half_closed.is_set()
    assert time.monotonic() - began < 30


def test_a_server_that_does_not_end_the_stream_is_left_after_2_s() -> None:
    server = Server([])

    def deaf(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        while context.is_active():
            time.sleep(0.1)
            yield b""

    server.pull = deaf  # type: ignore[method-assign]
    with server.driver() as driver:
        driver._stream(0, "projects/p/subscriptions/s")
        began = time.monotonic()
        driver.close()
        assert pubsub.CLOSE_S <= time.monotonic() - began < 30
