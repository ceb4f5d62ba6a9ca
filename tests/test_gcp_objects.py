"""Cloud Storage against the local one: one winner, ranges, pages, batches, checksums; and a server that fails."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c
import pytest
from attrs import evolve

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


@pytest.fixture
def store(made: Resources) -> Iterator[GcpObjects]:
    driver = GcpObjects(made)
    yield driver
    keys = every(driver)
    for first in range(0, len(keys), 100):
        driver.delete(keys[first : first + 100])
    driver.close()


def every(store: GcpObjects, prefix: str = "") -> list[str]:
    keys: list[str] = []
    page = store.list(prefix)
    while True:
        keys += page.keys
        if page.next is None:
            return keys
        page = store.list(prefix, page.next)


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


def test_put_get_ranges_replace_delete(store: GcpObjects) -> None:
    store.put("a", b"0123456789")
    assert store.get("a") == b"0123456789"
    assert (store.get("a", 3), store.get("a", 3, 5), store.get("a", end=2), store.get("a", 0, 1)) == (b"3456789", b"34", b"01", b"0")
    assert (store.get("a", 8, 99), store.get("a", 10), store.get("a", 50, 60), store.get("a", 4, 4)) == (b"89", b"", b"", b"")
    store.put("a", b"new")
    assert store.get("a") == b"new"
    assert store.delete(["a", "never there", "a"]) == []
    assert code_of(store, store.get, "a") is Code.NOT_FOUND


def test_an_empty_object(store: GcpObjects) -> None:
    store.put("empty", b"")
    assert [store.get("empty", *span) for span in ((None, None), (0, None), (0, 0), (0, 1), (5, 10), (5, None))] == [b""] * 6
    assert code_of(store, store.get, "missing", 0, 0) is Code.NOT_FOUND
    assert code_of(store, store.get, "missing", 7, 7) is Code.NOT_FOUND


def test_buffers(store: GcpObjects) -> None:
    whole = bytearray(range(16))
    for body in (bytes(whole), whole, memoryview(whole), memoryview(whole)[4:8], memoryview(whole).cast("I"), memoryview(whole)[::2]):
        store.put("b", body)
        assert store.get("b") == bytes(body)


def test_checksums_of_large_bodies(store: GcpObjects) -> None:
    body = bytes(range(256)) * 20_000 + b"end"  # more than the pieces in which it is summed
    store.put("large", body)
    assert store.get("large") == body
    assert store.get("large", 5_000_000) == body[5_000_000:]


def test_one_winner_of_16(store: GcpObjects) -> None:
    gate = threading.Barrier(16)

    def claim(rank: int) -> Code | None:
        gate.wait(30)
        try:
            store.put("claim", b"%d" % rank, if_absent=True)
        except Exception as refusal:
            return store.classify(refusal)
        return None

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(claim, range(16)))
    assert sorted(map(str, said)) == sorted(map(str, [None, *[Code.ALREADY_EXISTS] * 15]))
    assert store.get("claim") == b"%d" % said.index(None)


def test_pages(store: GcpObjects) -> None:
    store.limits = evolve(store.limits, page_keys=7)
    keys = sorted(f"{number % 3}/{number:02d}" for number in range(30))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert len(store.list("").keys) == 7
    assert every(store) == keys
    assert every(store, "1/") == [key for key in keys if key.startswith("1/")]
    assert (store.list("nothing").keys, store.list("nothing").next) == ([], None)


def test_keys_of_any_kind(store: GcpObjects) -> None:
    keys = ["a", "a/b", "ab", "a-b", "A/b", "x y", "%41", "+", "a=b&c", "#'<>\"", "..a", "x" * 512, "@:;$,~(a)*!", "a\\b"]
    for key in keys:
        store.put(key, key.encode(), if_absent=True)
    assert every(store) == sorted(keys)
    assert every(store, "a") == sorted(key for key in keys if key.startswith("a"))
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]
    assert store.delete(keys) == []
    assert every(store) == []


def test_a_full_batch_is_one_request(store: GcpObjects) -> None:
    keys = [f"k/{number}" for number in range(100)]
    for key in keys[::10]:
        store.put(key, b"x")
    assert store.delete(keys) == []
    assert every(store) == []


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


def test_no_bucket(made: Resources) -> None:
    gone = GcpObjects(evolve(made, names={**made.names, "bucket": "no-such-bucket"}))
    for request in (lambda: gone.put("k", b""), lambda: gone.get("k"), lambda: gone.list("")):
        assert code_of(gone, request) is Code.NOT_FOUND
    assert gone.delete(["k"]) == []  # what is in no bucket is gone
    gone.close()
    gone.close()


def test_over_a_limit_is_refused_before_the_network() -> None:
    with pointed(env(STORAGE_EMULATOR_HOST="http://127.0.0.1:9"), POINTERS["gcp"]):  # nobody listens there
        store = GcpObjects(NOBODY)
    assert code_of(store, store.put, "k", b"x") is Code.UNAVAILABLE
    assert (store.limits.object_bytes, store.limits.delete_keys, store.limits.page_keys) == (5 << 40, 100, 1000)
    store.limits = evolve(store.limits, object_bytes=10)
    assert code_of(store, store.put, "k", b"x" * 10) is Code.UNAVAILABLE
    assert code_of(store, store.put, "k", b"x" * 11) is Code.TOO_LARGE
    assert code_of(store, store.delete, ["k"] * 100) is Code.UNAVAILABLE
    assert code_of(store, store.delete, ["k"] * 101) is Code.INVALID
    assert code_of(store, store.delete, []) is Code.INVALID
    assert code_of(store, store.get, "k", -1) is Code.INVALID
    assert code_of(store, store.get, "k", 3, 2) is Code.INVALID
    store.close()
