"""Cloud Storage against the local one: one winner, ranges, pages, batches, checksums; and a server that fails."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c
import pytest

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import Code, Resources
from fsd_gcp.objects import GcpObjects
from gcp_server import app, code_of, env, storage

NOBODY = Resources("a", 1, 1, {"bucket": "b"})


@pytest.fixture(scope="module")
def made() -> Iterator[Resources]:
    with storage():
        yield app(ranks=1, slots=1)


def every(store: GcpObjects, prefix: str = "") -> list[str]:
    keys: list[str] = []
    page = store.list(prefix)
    while True:
        keys += page.keys
        if page.next is None:
            return keys
        page = store.list(prefix, page.next)


@pytest.fixture
def store(made: Resources) -> Iterator[GcpObjects]:
    driver = GcpObjects(made)
    yield driver
    keys = every(driver)
    for first in range(0, len(keys), 100):
        driver.delete(keys[first : first + 100])
    driver.close()


Answer = tuple[int, dict[str, str], bytes]
Asked = list[tuple[str, str, dict[str, str], bytes]]


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[GcpObjects, Asked]]:
    """A driver of a server in this process that answers so, one after the other; and what was asked of it."""
    asked: Asked = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, dict(self.headers), body))
            status, headers, content = left.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), "Connection": "close", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pointed(env(STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{server.server_port}"), POINTERS["gcp"]):
            driver = GcpObjects(NOBODY)
        yield driver, asked
        driver.close()
    finally:
        server.shutdown()
        server.server_close()


def error(status: int, reason: str, message: str = "m") -> Answer:
    told = {"error": {"code": status, "message": message, "errors": [{"message": message, "domain": "global", "reason": reason}]}}
    return status, {"Content-Type": "application/json"}, json.dumps(told).encode()


def test_checksums_of_large_bodies(store: GcpObjects) -> None:
    body = bytes(range(256)) * 20_000 + b"end"  # more than the pieces in which it is summed
    store.put("large", body)
    assert store.get("large") == body
    assert store.get("large", 5_000_000) == body[5_000_000:]


def batch(*statuses: tuple[int, str]) -> Answer:
    parts = [
        f"--mark\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
        f"HTTP/1.1 {status} Word\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{text}\r\n"
        for number, (status, text) in enumerate(statuses, 1)
    ]
    return 200, {"Content-Type": "multipart/mixed; boundary=mark"}, "".join([*parts, "--mark--"]).encode()


def test_refused_keys_do_not_hold_up_the_others() -> None:
    denied, busy = error(403, "forbidden", "no")[2].decode(), error(503, "backendError", "again")[2].decode()
    limited = error(429, "rateLimitExceeded", "slow")[2].decode()
    with answering(batch((204, ""), (403, denied), (404, "{}"), (503, busy), (429, limited))) as (store, asked):
        refused = store.delete(["a", "b/c", "c", "d", "e"])
    assert [(each.index, each.code, each.reason) for each in refused] == [
        (1, Code.DENIED, "b/c: 403 forbidden: no"),
        (3, Code.UNAVAILABLE, "d: 503 backendError: again"),
        (4, Code.THROTTLED, "e: 429 rateLimitExceeded: slow"),
    ]
    ((method, path, _, body),) = asked
    assert (method, path) == ("POST", "/batch/storage/v1")
    asked_for = [line.partition(b"/storage/")[2] for line in body.splitlines() if line.startswith(b"DELETE")]
    assert asked_for[1] == b"v1/b/b/o/b%2Fc?prettyPrint=false HTTP/1.1"


@pytest.mark.parametrize("answer", [batch((204, "")), (200, {"Content-Type": "text/plain"}, b"all is well"), (200, {}, b"")])
def test_a_batch_of_which_answers_are_missing(answer: Answer) -> None:
    with answering(answer) as (store, _):
        assert code_of(store, store.delete, ["a", "b"]) is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error(412, "conditionNotMet"), Code.ALREADY_EXISTS),
        (error(429, "rateLimitExceeded"), Code.THROTTLED),
        (error(403, "rateLimitExceeded"), Code.THROTTLED),
        (error(403, "forbidden"), Code.DENIED),
        (error(401, "required"), Code.DENIED),
        (error(404, "notFound"), Code.NOT_FOUND),
        (error(413, "uploadTooLarge"), Code.TOO_LARGE),
        (error(400, "invalid", 'Provided CRC32C "AAAAAA==" doesn\'t match calculated CRC32C "BBBBBB==".'), Code.UNAVAILABLE),
        (error(400, "invalid"), Code.INVALID),
        (error(503, "backendError"), Code.UNAVAILABLE),
        ((502, {"Content-Type": "text/html"}, b"<html>Bad\nGateway"), Code.UNAVAILABLE),
        ((307, {"Location": "http://127.0.0.1:9/"}, b""), Code.UNKNOWN),  # nothing redirects; credentials go nowhere else
    ],
)
def test_one_attempt(answer: Answer, code: Code) -> None:
    with answering(answer) as (store, asked):
        assert code_of(store, store.put, "k", b"x", if_absent=True) is code
        assert len(asked) == 1
        assert "ifGenerationMatch=0" in asked[0][1]


def test_each_call_is_one_request_however_much_it_carries_and_however_it_ends() -> None:
    keys, large = [f"k/{number}" for number in range(100)], bytes(9 << 20)  # over the 8 MiB from which Google's `Blob` asks twice
    done = [(200, {}, b"{}"), (200, {}, large), (206, {}, b"b"), (200, {}, b"{}"), batch(*[(204, "")] * 100)]
    busy = [error(503, "backendError")] * 5
    for answers, code in ((done, None), (busy, Code.UNAVAILABLE)):
        with answering(*answers) as (store, asked):
            calls = [
                lambda: store.put("k", large),
                lambda: store.get("k"),
                lambda: store.get("k", 1, 2),
                lambda: store.list("k/"),
                lambda: store.delete(keys),
            ]
            for number, call in enumerate(calls, 1):
                if code is None:
                    call()
                else:
                    assert code_of(store, call) is code
                assert len(asked) == number


def test_what_a_put_tells_of_itself() -> None:
    with answering((200, {}, b"{}")) as (store, asked):
        store.put("a key", b"body")
    ((_, path, headers, body),) = asked
    assert "ifGenerationMatch" not in path
    assert headers["Content-Length"] == str(len(body))
    told = json.loads(next(line for line in body.split(b"\r\n") if line.startswith(b"{")))
    assert told == {"name": "a key", "crc32c": base64.b64encode(google_crc32c.value(b"body").to_bytes(4, "big")).decode()}


def test_what_was_damaged_on_its_way_is_asked_for_again(store: GcpObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((200, {"X-Goog-Hash": "crc32c=AAAAAA==,md5=x"}, b"body"), (200, {"Content-Length": "10"}, b"half")) as (other, _):
        assert code_of(other, other.get, "k") is Code.UNAVAILABLE
        assert code_of(other, other.get, "k") is Code.UNAVAILABLE
    with monkeypatch.context() as patched:
        patched.setattr("google.cloud.storage._media._helpers.prepare_checksum_digest", lambda digest: "AAAAAA==")
        assert code_of(store, store.put, "k", b"body") is Code.UNAVAILABLE
    assert code_of(store, store.get, "k") is Code.NOT_FOUND
