"""Launches as HTTP requests, against real servers that answer in every way that platforms do."""

from __future__ import annotations

import http.server
import json
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fsd_core.driver import WORKER, Code, InvokeDriver, InvokeLimits, Refused
from fsd_core.providers import http_invoke
from fsd_core.providers.http_invoke import NONCE, HttpInvoker


class Platform:
    """A server whose answer to a launch is what the launch asks for: its payload is JSON."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.open = threading.Event()  # set: who waits is answered
        platform = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                platform.seen.append(({**self.headers, "path": self.path}, body))
                order = json.loads(body)
                if order.get("wait"):
                    platform.open.wait(60)
                time.sleep(order.get("sleep_s", 0))
                if order.get("reset"):  # RST, not FIN
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if order.get("reset") or order.get("hang_up"):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR) if order.get("hang_up") else self.connection.close()
                    return
                text = str(order.get("text", '{"code": 0}')).encode()
                self.send_response(order.get("status", 200))
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with suppress(OSError):
                    super().handle()

            def finish(self) -> None:
                with suppress(OSError, ValueError):
                    super().finish()

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/run?app=x"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    platform = Platform()
    yield platform
    platform.stop()


def classify(error: BaseException) -> Code:
    return Code.UNAVAILABLE if isinstance(error, OSError) else Code.UNKNOWN


class Invoker(HttpInvoker):
    service = "a platform"

    def native(self) -> None:
        return None


Make = Callable[..., Invoker]


@pytest.fixture
def make(platform: Platform) -> Iterator[Make]:
    made: list[Invoker] = []

    def build(
        urls: Sequence[str] = (), headers: Callable[[], Mapping[str, str]] = dict, timeout_s: float | None = 60, **more: Any
    ) -> Invoker:
        limits = InvokeLimits(20_000, 10, None, timeout_s, "test", "2025-11-01", failures="launcher")
        made.append(Invoker(urls or [platform.url], headers, limits, classify, **more))
        return made[-1]

    yield build
    platform.open.set()
    for invoker in made:
        invoker.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "fsd-launch" and ended(thread)]


def ended(thread: threading.Thread) -> bool:
    thread.join(10)
    return thread.is_alive()


def order(**what: object) -> bytes:
    return json.dumps(what).encode()


def finished(launch: http_invoke.HttpLaunch) -> Code | None:
    assert launch.ended.wait(30)
    return launch.poll()


def test_it_is_an_invoker(make: Make) -> None:
    assert isinstance(make(), InvokeDriver)


def test_a_launch_returns_at_once_and_ends_well(platform: Platform, make: Make) -> None:
    invoker = make(headers=lambda: {"Authorization": "Bearer t"})
    payload = order(wait=True, text='{"code": 1}')  # a worker that failed and reported it is no failure of the platform
    launch = invoker.invoke(WORKER, payload)
    assert launch.poll() is None
    assert not launch.ended.is_set()
    platform.open.set()
    assert finished(launch) is None
    (headers, body), *others = platform.seen
    assert (body, others) == (payload, [])
    assert headers[NONCE] == launch.nonce
    assert headers["Authorization"] == "Bearer t"
    assert headers["path"] == "/run?app=x"
    assert invoker.failures(lambda _: True).taken == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID),
        (401, Code.DENIED),
        (403, Code.DENIED),
        (404, Code.NOT_FOUND),
        (413, Code.TOO_LARGE),
        (429, Code.THROTTLED),
        (302, Code.INVALID),
    ],
)
def test_a_refused_launch_has_a_code_and_is_no_failure(make: Make, status: int, code: Code) -> None:
    invoker = make()
    launch = invoker.invoke(WORKER, order(status=status, text="<html><title>x</title><h1>No\n such\tthing</h1></html>"))
    assert finished(launch) is code
    assert launch.text.startswith(f"{status} ")
    assert launch.text.endswith(": No such thing")
    assert invoker.failures(lambda _: True).taken == []


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ({"status": 500, "text": "boom " * 2000}, Code.UNAVAILABLE, "500 .*boom boom"),
        ({"status": 503, "text": "The container died"}, Code.UNAVAILABLE, "503 .*: The container died"),
        ({"status": 504}, Code.DEADLINE, "504 "),
        ({"reset": True}, Code.UNAVAILABLE, "no answer: "),
        ({"hang_up": True}, Code.UNAVAILABLE, "no answer: "),
    ],
)
def test_a_function_that_died_is_told_once(make: Make, what: dict[str, object], code: Code, says: str) -> None:
    invoker = make()
    mine, other = (invoker.invoke(WORKER, order(**what, run=run)) for run in ("mine", "other"))
    assert (finished(mine), finished(other)) == (code, code)
    (failure,) = invoker.failures(lambda payload: json.loads(payload)["run"] == "mine").taken
    assert failure.payload == mine.payload
    assert failure.nonce == mine.nonce
    assert failure.reason.startswith("the function ended: ")
    assert len(failure.reason) < 400
    assert re.search(says, failure.reason)
    assert [each.nonce for each in invoker.failures(lambda _: True).taken] == [other.nonce]
    assert invoker.failures(lambda _: True).taken == []


def test_several_addresses_take_turns(platform: Platform, make: Make) -> None:
    other = Platform()
    try:
        invoker = make([platform.url, other.url])
        launches = [invoker.invoke(WORKER, order(status=503, number=number)) for number in range(6)]
        assert [finished(launch) for launch in launches] == [Code.UNAVAILABLE] * 6
        shares = [sorted(json.loads(body)["number"] % 2 for _, body in each.seen) for each in (platform, other)]
        assert sorted(shares) == [[0, 0, 0], [1, 1, 1]]
        assert len(invoker.failures(lambda _: True).taken) == 6
    finally:
        other.stop()


def test_what_was_never_sent_is_lost_but_nobody_died(make: Make) -> None:
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        invoker = make([f"http://127.0.0.1:{taken.getsockname()[1]}/"])
        assert finished(invoker.invoke(WORKER, b"{}")) is Code.UNAVAILABLE
        assert invoker.failures(lambda _: True).taken == []


def test_an_answer_that_never_comes_ends_at_the_time_limit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_invoke, "_LATE_S", 0.1)
    invoker = make(timeout_s=0.2)
    assert finished(invoker.invoke(WORKER, order(wait=True))) is Code.DEADLINE
    (failure,) = invoker.failures(lambda _: True).taken
    assert "no answer: " in failure.reason


def test_where_the_front_end_cuts_answers_a_cut_says_nothing(make: Make) -> None:
    hasty, patient = make(cut_s=0.2), make(cut_s=60.0)
    cut = hasty.invoke(WORKER, order(sleep_s=0.5, status=504))
    lost = hasty.invoke(WORKER, order(sleep_s=0.5, reset=True))
    early = patient.invoke(WORKER, order(status=503))
    assert [finished(each) for each in (cut, lost, early)] == [None, None, Code.UNAVAILABLE]
    assert hasty.failures(lambda _: True).taken == []
    assert [each.nonce for each in patient.failures(lambda _: True).taken] == [early.nonce]


def test_a_platform_may_know_better(make: Make) -> None:
    def code_of(status: int, text: str) -> Code | None:
        return Code.THROTTLED if "no available instance" in text else http_invoke.code_of(status, text)

    invoker = make(code_of=code_of)
    assert finished(invoker.invoke(WORKER, order(status=500, text="there was no available instance"))) is Code.THROTTLED
    assert invoker.failures(lambda _: True).taken == []  # nothing ran


def test_headers_are_fresh_and_their_error_is_raised(platform: Platform, make: Make) -> None:
    tokens = iter(["one", "two"])

    def headers() -> dict[str, str]:
        try:
            return {"Authorization": next(tokens)}
        except StopIteration:
            raise PermissionError("no token") from None

    invoker = make(headers=headers)
    for _ in range(2):
        finished(invoker.invoke(WORKER, b"{}"))
    with pytest.raises(PermissionError):
        invoker.invoke(WORKER, b"{}")
    assert [seen["Authorization"] for seen, _ in platform.seen] == ["one", "two"]


def test_nothing_is_sent_that_is_over_a_limit(platform: Platform, make: Make) -> None:
    invoker = make()
    for function, payload, code in (("other", b"{}", Code.NOT_FOUND), (WORKER, b"x" * 20_001, Code.TOO_LARGE)):
        with pytest.raises(Refused) as caught:
            invoker.invoke(function, payload)
        assert invoker.classify(caught.value) is code
    assert platform.seen == []
    assert invoker.classify(KeyError()) is Code.UNKNOWN


def test_many_at_once_and_no_more(platform: Platform, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_invoke, "MAX_OPEN", 40)
    invoker = make()
    with ThreadPoolExecutor(8) as pool:
        launches = list(pool.map(lambda n: invoker.invoke(WORKER, order(wait=True, n=n)), range(40)))
    with pytest.raises(Refused) as caught:
        invoker.invoke(WORKER, b"{}")
    assert invoker.classify(caught.value) is Code.THROTTLED
    until = time.monotonic() + 30
    while len(platform.seen) < 40:
        assert time.monotonic() < until
        time.sleep(0.01)
    platform.open.set()
    assert {finished(each) for each in launches} == {None}
    assert len({headers[NONCE] for headers, _ in platform.seen}) == 40
    assert finished(invoker.invoke(WORKER, b"{}")) is None


def test_close_waits_for_an_answer_that_comes_soon(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_invoke, "CLOSE_S", 60.0)
    invoker = make()
    launch = invoker.invoke(WORKER, order(sleep_s=0.3, status=503))
    invoker.close()
    assert launch.poll() is Code.UNAVAILABLE
    assert len(invoker.failures(lambda _: True).taken) == 1


def test_close_hangs_up_on_one_that_does_not(platform: Platform, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_invoke, "CLOSE_S", 0.2)
    invoker = make()
    launches = [invoker.invoke(WORKER, order(wait=True)) for _ in range(3)]
    began = time.monotonic()
    invoker.close()
    assert time.monotonic() - began < 50  # a launch that is waited for would be answered after 60 s
    assert all(finished(each) is None for each in launches)  # what became of them is not known
    assert invoker.failures(lambda _: True).taken == []
    invoker.close()
    platform.open.set()
    assert finished(invoker.invoke(WORKER, b"{}")) is None  # a closed invoker opens again


def test_a_certificate_that_nobody_vouches_for_is_sent_nothing(make: Make, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run(
        [*openssl, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(pem), "-out", f"{pem}.crt"], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", pem)
    secure = Platform()
    secure.server.socket = context.wrap_socket(secure.server.socket, server_side=True)
    url = secure.url.replace("http:", "https:")
    try:
        invoker = make([url])
        launch = invoker.invoke(WORKER, b"{}")
        assert finished(launch) is Code.UNAVAILABLE
        assert "certificate" in launch.text
        assert secure.seen == []
        trusting = make([url])
        trusting._tls.load_verify_locations(f"{pem}.crt")
        assert finished(trusting.invoke(WORKER, b"{}")) is None
        assert len(secure.seen) == 1
    finally:
        secure.stop()


def test_by_way_of_a_proxy(platform: Platform, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment is asked for a tunnel, with its user's name."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def serve() -> None:
            client, _ = proxy.accept()
            with client:
                asked.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.getsockname()[1]}")
        invoker = make(["https://worker.invalid/"])
        assert finished(invoker.invoke(WORKER, b"{}")) is Code.UNAVAILABLE
    assert asked[0].startswith(b"CONNECT worker.invalid:443 ")
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in asked[0]
    assert invoker.failures(lambda _: True).taken == []
