"""S3 against a real server: one winner, 412 and 409 told apart, ranges, pages, keys of any kind, what is missing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve
from botocore.stub import ANY, Stubber

from aws_server import app, code_of, env, moto
from fsd_aws import objects
from fsd_aws.objects import AwsObjects
from fsd_conformance.emulators.emulator import pointed
from fsd_core.driver import Code, Rejected, Resources


@pytest.fixture(scope="module")
def made() -> Iterator[Resources]:
    with moto():
        yield app(ranks=1, slots=1)


@pytest.fixture
def store(made: Resources) -> Iterator[AwsObjects]:
    driver = AwsObjects(made)
    yield driver
    driver.delete(every(driver) or ["nothing"])
    driver.close()


def every(store: AwsObjects, prefix: str = "") -> list[str]:
    keys: list[str] = []
    page = store.list(prefix)
    while True:
        keys += page.keys
        if page.next is None:
            return keys
        page = store.list(prefix, page.next)


def test_put_get_ranges_replace_delete(store: AwsObjects) -> None:
    store.put("a", b"0123456789")
    assert store.get("a") == b"0123456789"
    assert (store.get("a", 3), store.get("a", 3, 5), store.get("a", end=2), store.get("a", 0, 1)) == (b"3456789", b"34", b"01", b"0")
    assert (store.get("a", 8, 99), store.get("a", 10), store.get("a", 50, 60), store.get("a", 4, 4)) == (b"89", b"", b"", b"")
    store.put("a", b"new")
    assert store.get("a") == b"new"
    assert store.delete(["a", "never there", "a"]) == []
    assert code_of(store, store.get, "a") is Code.NOT_FOUND


def test_an_empty_object(store: AwsObjects) -> None:
    store.put("empty", b"")
    assert [store.get("empty", *span) for span in ((None, None), (0, None), (0, 0), (0, 1), (5, 10), (5, None))] == [b""] * 6
    assert code_of(store, store.get, "missing", 0, 0) is Code.NOT_FOUND
    assert code_of(store, store.get, "missing", 7, 7) is Code.NOT_FOUND


def test_buffers(store: AwsObjects) -> None:
    whole = bytearray(range(16))
    for body in (bytes(whole), whole, memoryview(whole), memoryview(whole)[4:8], memoryview(whole).cast("I"), memoryview(whole)[::2]):
        store.put("b", body)
        assert store.get("b") == bytes(body)


def test_one_winner_of_16(store: AwsObjects) -> None:
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


def test_lost_and_try_again_are_told_apart(store: AwsObjects) -> None:
    expected = {"Bucket": ANY, "Key": "k", "Body": b"x", "IfNoneMatch": "*"}
    with Stubber(store.native()) as s3:
        for code, status, meaning in [
            ("PreconditionFailed", 412, Code.ALREADY_EXISTS),
            ("ConditionalRequestConflict", 409, Code.UNAVAILABLE),
            ("SlowDown", 503, Code.THROTTLED),
            ("ServiceUnavailable", 503, Code.UNAVAILABLE),
            ("InternalError", 500, Code.UNAVAILABLE),
        ]:
            s3.add_client_error("put_object", code, http_status_code=status, expected_params=expected)
            assert code_of(store, store.put, "k", b"x", if_absent=True) is meaning
        s3.add_response("put_object", {}, {"Bucket": ANY, "Key": "k", "Body": b"x"})
        store.put("k", b"x")


def test_pages(store: AwsObjects) -> None:
    store.limits = evolve(store.limits, page_keys=7)
    keys = sorted(f"{number % 3}/{number:02d}" for number in range(30))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert len(store.list("").keys) == 7
    assert every(store) == keys
    assert every(store, "1/") == [key for key in keys if key.startswith("1/")]
    assert (store.list("nothing").keys, store.list("nothing").next) == ([], None)


def test_keys_of_any_kind(store: AwsObjects) -> None:
    keys = ["a", "a/b", "ab", "a-b", "A/b", "x y", "%41", "+", "a=b&c", "#'<>\"", "..a", "x" * 512, "@:;$,~(a)*!"]
    for key in keys:
        store.put(key, key.encode(), if_absent=True)
    assert every(store) == sorted(keys)
    assert every(store, "a") == ["a", "a-b", "a/b", "a=b&c", "ab"]
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]
    assert store.delete(keys) == []
    assert every(store) == []


def test_refused_keys_do_not_hold_up_the_others(store: AwsObjects) -> None:
    errors = [{"Key": "b", "Code": "AccessDenied", "Message": "no"}, {"Key": "c", "Code": "InternalError", "Message": "again"}]
    asked = {"Bucket": ANY, "Delete": {"Objects": [{"Key": key} for key in "abcb"], "Quiet": True}}
    with Stubber(store.native()) as s3:
        s3.add_response("delete_objects", {"Errors": errors}, asked)
        refused = store.delete(list("abcb"))
    assert refused == [
        Rejected(1, Code.DENIED, "b: AccessDenied: no"),
        Rejected(3, Code.DENIED, "b: AccessDenied: no"),
        Rejected(2, Code.UNAVAILABLE, "c: InternalError: again"),
    ]


def test_no_bucket(made: Resources) -> None:
    gone = AwsObjects(evolve(made, names={**made.names, "bucket": "no-such-bucket"}))
    for request in (lambda: gone.put("k", b""), lambda: gone.get("k"), lambda: gone.list(""), lambda: gone.delete(["k"])):
        assert code_of(gone, request) is Code.NOT_FOUND
    gone.close()
    gone.close()


def test_over_a_limit_is_refused_before_the_network(made: Resources) -> None:
    with pointed(env("http://127.0.0.1:9"), ("AWS_",)):  # nobody listens there: UNAVAILABLE, if it were asked
        store = AwsObjects(made)
    assert code_of(store, store.put, "k", b"x") is Code.UNAVAILABLE
    assert (store.limits.object_bytes, store.limits.delete_keys, store.limits.page_keys) == (5 << 30, 1000, 1000)
    store.limits = evolve(objects.OBJECTS, object_bytes=10)
    assert code_of(store, store.put, "k", b"x" * 10) is Code.UNAVAILABLE
    assert code_of(store, store.put, "k", b"x" * 11) is Code.TOO_LARGE
    assert code_of(store, store.delete, ["k"] * 1000) is Code.UNAVAILABLE
    assert code_of(store, store.delete, ["k"] * 1001) is Code.INVALID
    assert code_of(store, store.delete, []) is Code.INVALID
    assert code_of(store, store.get, "k", -1) is Code.INVALID
    assert code_of(store, store.get, "k", 3, 2) is Code.INVALID
