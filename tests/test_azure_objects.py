"""Blob Storage against Azurite: one winner, ranges, pages, batches, keys of any kind; and a server that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from attrs import evolve

from azure_server import app, code_of, env, storage
from fsd_azure import connection_strings, objects
from fsd_azure.errors import advice
from fsd_azure.objects import AzureObjects
from fsd_conformance.emulators.azurite import install
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import Code, Rejected, Resources
from fsd_core.errors import InputError

NOBODY = Resources("a", 1, 1, {"blob_url": "http://127.0.0.1:9/a", "container": "abc"})
ACCOUNT = "AccountName=a;AccountKey=aGVsbG8="


@pytest.fixture(scope="module")
def made() -> Iterator[Resources]:
    with storage():
        yield app(ranks=1, slots=1)


@pytest.fixture
def store(made: Resources) -> Iterator[AzureObjects]:
    driver = AzureObjects(made)
    yield driver
    keys = every(driver)
    for first in range(0, len(keys), 256):
        driver.delete(keys[first : first + 256])
    driver.close()


def every(store: AzureObjects, prefix: str = "") -> list[str]:
    keys: list[str] = []
    page = store.list(prefix)
    while True:
        keys += page.keys
        if page.next is None:
            return keys
        page = store.list(prefix, page.next)


def at(url: str) -> AzureObjects:
    """A driver of an account at ``url``."""
    with pointed(env(**{connection_strings.STORAGE: f"DefaultEndpointsProtocol=http;{ACCOUNT};BlobEndpoint={url}"}), POINTERS["azure"]):
        return AzureObjects(NOBODY)


Answer = tuple[int, str, bytes]  # status, error code of Blob Storage, body


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[AzureObjects, list[str]]]:
    """A driver of a server in this process that answers so, one after the other; and what was asked of it."""
    asked: list[str] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(f"{self.command} {self.path.partition('?')[0]}")
            status, word, body = left.pop(0)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            if word:
                self.send_header("x-ms-error-code", word)
            if body.startswith(b"--"):
                self.send_header("Content-Type", f"multipart/mixed; boundary={body[2:].split(maxsplit=1)[0].decode()}")
            if status == 206:
                self.send_header("Content-Range", f"bytes 0-{2 * len(body) - 1}/{2 * len(body)}")
                self.close_connection = True
            self.send_header("Content-Length", str(len(body) * (2 if status == 206 else 1)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    driver = at(f"http://127.0.0.1:{server.server_port}/a")
    try:
        yield driver, asked
    finally:
        driver.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_put_get_ranges_replace_delete(store: AzureObjects) -> None:
    store.put("a", b"0123456789")
    assert store.get("a") == b"0123456789"
    assert (store.get("a", 3), store.get("a", 3, 5), store.get("a", end=2), store.get("a", 0, 1)) == (b"3456789", b"34", b"01", b"0")
    assert (store.get("a", 8, 99), store.get("a", 10), store.get("a", 50, 60), store.get("a", 4, 4)) == (b"89", b"", b"", b"")
    store.put("a", b"new")
    assert store.get("a") == b"new"
    assert store.delete(["a", "never there", "a"]) == []
    assert code_of(store, store.get, "a") is Code.NOT_FOUND


def test_an_empty_object(store: AzureObjects) -> None:
    store.put("empty", b"")
    assert [store.get("empty", *span) for span in ((None, None), (0, None), (0, 0), (0, 1), (5, 10), (5, None))] == [b""] * 6
    assert code_of(store, store.get, "missing", 0, 0) is Code.NOT_FOUND
    assert code_of(store, store.get, "missing", 7, 7) is Code.NOT_FOUND


def test_buffers(store: AzureObjects) -> None:
    whole = bytearray(range(16))
    for body in (bytes(whole), whole, memoryview(whole), memoryview(whole)[4:8], memoryview(whole).cast("I"), memoryview(whole)[::2]):
        store.put("b", body)
        assert store.get("b") == bytes(body)


def test_what_the_sdk_would_split_is_one_request(store: AzureObjects) -> None:
    size = 65 << 20  # over the 64 MB that it puts, and the 32 MB that it gets, in one
    body = bytes(size)
    store.put("large", body)
    committed, uncommitted = store.native().get_blob_client("large").get_block_list("all")
    assert (committed, uncommitted) == ([], [])
    assert store.get("large") == body
    assert store.get("large", size - 5) == bytes(5)


def test_one_winner_of_16(store: AzureObjects) -> None:
    gate = threading.Barrier(16)

    def claim(rank: int) -> Code | None:
        gate.wait(30)
        try:
            store.put("claim", b"%d" % rank, if_absent=True)
        except Exception as error:
            return store.classify(error)
        return None

    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(claim, range(16)))
    assert sorted(map(str, said)) == sorted(map(str, [None, *[Code.ALREADY_EXISTS] * 15]))
    assert store.get("claim") == b"%d" % said.index(None)


def test_pages(store: AzureObjects) -> None:
    store.limits = evolve(store.limits, page_keys=7)
    keys = sorted(f"{number % 3}/{number:02d}" for number in range(30))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert len(store.list("").keys) == 7
    assert every(store) == keys
    assert every(store, "1/") == [key for key in keys if key.startswith("1/")]
    assert (store.list("nothing").keys, store.list("nothing").next) == ([], None)


def test_keys_of_any_kind(store: AzureObjects) -> None:
    keys = ["a", "a/b", "ab", "a-b", "A/b", "x y", "%41", "+", "a=b&c", "#'<>\"", "..a", "x" * 512, "@:;$,~(a)*!", "a?b=c"]
    for key in keys:
        store.put(key, key.encode(), if_absent=True)
    assert every(store) == sorted(keys)
    assert every(store, "a") == sorted(key for key in keys if key.startswith("a"))
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]
    assert store.delete(keys) == []
    assert every(store) == []


def test_no_container(made: Resources) -> None:
    gone = AzureObjects(evolve(made, names={**made.names, "container": "no-such-container"}))
    for request in (lambda: gone.put("k", b""), lambda: gone.get("k"), lambda: gone.list("")):
        assert code_of(gone, request) is Code.NOT_FOUND
    gone.close()
    gone.close()


@pytest.mark.parametrize(
    ("status", "word", "meaning"),
    [
        (409, "BlobAlreadyExists", Code.ALREADY_EXISTS),
        (412, "ConditionNotMet", Code.ALREADY_EXISTS),
        (409, "ContainerBeingDeleted", Code.UNAVAILABLE),
        (503, "ServerBusy", Code.THROTTLED),
        (500, "OperationTimedOut", Code.UNAVAILABLE),
        (500, "InternalError", Code.UNAVAILABLE),
        (429, "", Code.THROTTLED),
        (403, "AuthenticationFailed", Code.DENIED),
        (403, "AuthorizationPermissionMismatch", Code.DENIED),
        (404, "ContainerNotFound", Code.NOT_FOUND),
        (413, "RequestBodyTooLarge", Code.TOO_LARGE),
        (400, "InvalidUri", Code.INVALID),
        (0, "", Code.UNAVAILABLE),
    ],
)
def test_what_a_put_that_must_create_is_told(status: int, word: str, meaning: Code) -> None:
    with answering((status, word, b"")) as (store, asked):
        assert code_of(store, store.put, "k", b"x", if_absent=True) is meaning
    assert asked == ["PUT /a/abc/k"]  # once: repeating it is for core


def test_what_is_told_of_a_container_that_is_being_deleted() -> None:
    with answering((409, "ContainerBeingDeleted", b"")) as (store, _), pytest.raises(Exception, match="ContainerBeingDeleted") as caught:
        store.list("")
    assert "still being deleted" in (advice(caught.value) or "")


def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    with answering(*[(206, "", b"x" * 50)] * 3) as (store, asked):  # of 100 bytes
        assert code_of(store, store.get, "k") is Code.UNAVAILABLE
    assert len(asked) == 3  # of itself the SDK asks again, which nothing turns off


def part(number: int, status: int, word: str) -> str:
    error = f"x-ms-error-code: {word}\r\n" if word else ""
    return f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status} Said\r\n{error}\r\n\r\n"


def test_refused_keys_do_not_hold_up_the_others() -> None:
    parts = [(202, ""), (403, "AuthorizationPermissionMismatch"), (404, "BlobNotFound"), (503, "ServerBusy"), (202, "")]
    body = "".join(part(number, *each) for number, each in enumerate(parts)) + "--batch--\r\n"
    with answering((202, "", body.encode())) as (store, asked):
        refused = store.delete(list("abcde"))
    assert asked == ["POST /a/abc"]
    assert refused == [
        Rejected(1, Code.DENIED, "b: 403 AuthorizationPermissionMismatch"),
        Rejected(3, Code.THROTTLED, "d: 503 ServerBusy"),
    ]


def test_a_batch_that_is_refused_as_a_whole() -> None:
    with answering((503, "ServerBusy", b"")) as (store, asked):
        assert code_of(store, store.delete, ["a"]) is Code.THROTTLED
    assert len(asked) == 1


def test_over_a_limit_is_refused_before_the_network() -> None:
    store = at("http://127.0.0.1:9/a")  # nobody listens there: UNAVAILABLE, if it were asked
    assert code_of(store, store.put, "k", b"x") is Code.UNAVAILABLE
    assert (store.limits.object_bytes, store.limits.delete_keys, store.limits.page_keys) == (5000 << 20, 256, 1000)
    store.limits = evolve(objects.OBJECTS, object_bytes=10)
    assert code_of(store, store.put, "k", b"x" * 10) is Code.UNAVAILABLE
    assert code_of(store, store.put, "k", b"x" * 11) is Code.TOO_LARGE
    assert code_of(store, store.delete, ["k"] * 256) is Code.UNAVAILABLE
    assert code_of(store, store.delete, ["k"] * 257) is Code.INVALID
    assert code_of(store, store.delete, []) is Code.INVALID
    assert code_of(store, store.get, "k", -1) is Code.INVALID
    assert code_of(store, store.get, "k", 3, 2) is Code.INVALID
    store.close()


@pytest.mark.parametrize(
    ("string", "says"),
    [
        ("AccountKey=aGVsbG8=", "AccountName: missing"),
        ("AccountName=a", "AccountKey: missing"),
        ("AccountName=a;AccountKey=hunter2", "AccountKey: is not base64"),
        ("AccountName=a;hunter2", "part 2: expected NAME=VALUE"),
        (f"{ACCOUNT};DefaultEndpointsProtocol=ftp", "DefaultEndpointsProtocol is 'ftp': expected https"),
        (f"{ACCOUNT};BlobEndpoint=a.blob.core.windows.net?sig=hunter2", "BlobEndpoint is 'a.blob.core.windows.net': expected https://"),
    ],
)
def test_malformed_connection_strings(string: str, says: str) -> None:
    with pointed(env(**{connection_strings.STORAGE: string}), POINTERS["azure"]), pytest.raises(InputError) as caught:
        AzureObjects(NOBODY)
    assert str(caught.value).startswith(f"{connection_strings.STORAGE}: {says}")
    assert "hunter2" not in str(caught.value)


def test_connection_strings_that_are_good() -> None:
    signed = "BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D"
    for good in (f"DefaultEndpointsProtocol=https;{ACCOUNT};EndpointSuffix=core.windows.net", f"{ACCOUNT};", signed):
        with pointed(env(**{connection_strings.STORAGE: good}), POINTERS["azure"]):
            AzureObjects(NOBODY).close()


def test_azurite_without_node_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"azurite needs Node\.js 20 or newer: install it"):
        install(lambda text: None)
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\n")
    node.chmod(0o755)
    with pytest.raises(InputError, match="cannot be installed without npm"):
        install(lambda text: None)
    assert not list((tmp_path / "emulators").glob("azurite-*/installed"))
