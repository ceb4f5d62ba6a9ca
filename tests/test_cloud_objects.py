"""The clouds' object stores, each against a real server: what the conformance suite leaves open, and what is one cloud's alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import attrs
import pytest
from attrs import evolve
from botocore.stub import ANY, Stubber

import aws_server
import azure_server
import gcp_server
from aws_server import code_of
from canned import CUT, NOBODY, Answer, Request, answering
from fsd_aws.objects import AwsObjects
from fsd_azure import connection_strings
from fsd_azure.errors import advice
from fsd_azure.objects import AzureObjects
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import Code, ObjectDriver, Rejected, Resources
from fsd_gcp.objects import GcpObjects

AZURE_NOBODY = Resources("a", 1, 1, {"blob_url": f"{NOBODY}/a", "container": "abc"})
ODD = ["#'<>\"", "a&b", "@:;$,~(a)*!", "%41", "x y", "..a"]  # that XML, URLs and paths read as something else


@attrs.frozen
class Cloud:
    """One cloud's store; ``most``: bytes of an object, keys of a delete and of a page."""

    store: Callable[[Resources], ObjectDriver]
    server: Callable[[], AbstractContextManager[Any]]
    app: Callable[..., Resources]
    nobody: Resources
    nowhere: Callable[[], dict[str, str]]
    clears: tuple[str, ...]
    most: tuple[int, int, int]
    deletes_in_no_bucket: Code | list[Code]  # what is raised, or the codes of the keys
    bucket: str = "bucket"
    odd: tuple[str, ...] = ()


def azure_env(url: str) -> dict[str, str]:
    string = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=aGVsbG8=;BlobEndpoint={url}/a"
    return dict(azure_server.env(**{connection_strings.STORAGE: string}))


CLOUDS = {
    "aws": Cloud(
        AwsObjects,
        aws_server.moto,
        aws_server.app,
        Resources("a", 1, 1, {"region": aws_server.REGION, "bucket": "b"}),
        lambda: dict(aws_server.env(NOBODY)),
        ("AWS_",),
        (5 << 30, 1000, 1000),
        Code.NOT_FOUND,
    ),
    "azure": Cloud(
        AzureObjects,
        azure_server.storage,
        azure_server.app,
        AZURE_NOBODY,
        lambda: azure_env(NOBODY),
        POINTERS["azure"],
        (5000 << 20, 256, 1000),
        [Code.NOT_FOUND],
        bucket="container",
        odd=("a?b=c",),
    ),
    "gcp": Cloud(
        GcpObjects,
        gcp_server.storage,
        gcp_server.app,
        Resources("a", 1, 1, {"bucket": "b"}),
        lambda: dict(gcp_server.env(STORAGE_EMULATOR_HOST=NOBODY)),
        POINTERS["gcp"],
        (5 << 40, 100, 1000),
        [],
        odd=("a\\b",),
    ),
}


@pytest.fixture(scope="module", params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    return CLOUDS[request.param]


@pytest.fixture(scope="module")
def made(cloud: Cloud) -> Iterator[Resources]:
    with cloud.server():
        yield cloud.app(ranks=1, slots=1)


@pytest.fixture
def store(cloud: Cloud, made: Resources) -> Iterator[Any]:
    with closing(cloud.store(made)) as driver:
        yield driver


def test_a_key_that_is_named_twice_is_deleted(store: ObjectDriver) -> None:
    store.put("a", b"x")
    assert list(store.delete(["a", "never there", "a"])) == []
    assert code_of(store, store.get, "a") is Code.NOT_FOUND


def test_no_bytes_of_what_is_missing_are_not_found(store: ObjectDriver) -> None:
    """HTTP has no empty range: a request for one shows whether the key exists."""
    for at in (0, 7):
        assert code_of(store, store.get, "missing", at, at) is Code.NOT_FOUND


def test_a_view_with_gaps(store: ObjectDriver) -> None:
    store.put("gaps", memoryview(bytearray(range(16)))[::2])
    assert store.get("gaps") == bytes(range(0, 16, 2))


def test_keys_that_are_written_otherwise_on_their_way(cloud: Cloud, store: ObjectDriver) -> None:
    keys = [f"odd/{key}" for key in (*ODD, *cloud.odd)]
    for key in keys:
        store.put(key, key.encode(), if_absent=True)
    assert list(store.list("odd/").keys) == sorted(keys)
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]
    assert list(store.delete(keys)) == []
    assert list(store.list("odd/").keys) == []


def test_a_delete_where_no_bucket_is(cloud: Cloud, made: Resources) -> None:
    """The request fails, or each key, or what is in no bucket counts as deleted; other verbs' NOT_FOUND is a case of the suite."""
    told: object
    with closing(cloud.store(evolve(made, names={**made.names, cloud.bucket: "no-such-bucket"}))) as gone:
        try:
            told = [each.code for each in gone.delete(["k"])]
        except Exception as error:
            told = gone.classify(error)
    assert told == cloud.deletes_in_no_bucket


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)
def test_over_a_limit_is_refused_before_the_network(cloud: Cloud) -> None:
    with pointed(cloud.nowhere(), cloud.clears):  # nobody listens there: UNAVAILABLE, if it were asked
        driver: Any = cloud.store(cloud.nobody)
    with closing(driver):
        assert code_of(driver, driver.put, "k", b"x") is Code.UNAVAILABLE
        max_keys = driver.limits.delete_keys
        assert (driver.limits.object_bytes, max_keys, driver.limits.page_keys) == cloud.most
        driver.limits = evolve(driver.limits, object_bytes=10)
        assert code_of(driver, driver.put, "k", b"x" * 10) is Code.UNAVAILABLE
        assert code_of(driver, driver.put, "k", b"x" * 11) is Code.TOO_LARGE
        assert code_of(driver, driver.delete, ["k"] * max_keys) is Code.UNAVAILABLE
        for wrong in (["k"] * (max_keys + 1), []):
            assert code_of(driver, driver.delete, wrong) is Code.INVALID
        for start, end in ((-1, None), (3, 2)):
            assert code_of(driver, driver.get, "k", start, end) is Code.INVALID


# S3's own


@pytest.fixture
def s3() -> Iterator[tuple[AwsObjects, Stubber]]:
    """A driver whose client answers what is put in."""
    with pointed(aws_server.env(NOBODY), ("AWS_",)):
        driver = AwsObjects(CLOUDS["aws"].nobody)
    with closing(driver), Stubber(driver.native()) as stub:
        yield driver, stub


@pytest.mark.parametrize(
    ("code", "status", "meaning"),
    [
        ("PreconditionFailed", 412, Code.ALREADY_EXISTS),
        ("ConditionalRequestConflict", 409, Code.UNAVAILABLE),
        ("SlowDown", 503, Code.THROTTLED),
        ("ServiceUnavailable", 503, Code.UNAVAILABLE),
        ("InternalError", 500, Code.UNAVAILABLE),
    ],
)
def test_lost_and_try_again_are_told_apart(s3: tuple[AwsObjects, Stubber], code: str, status: int, meaning: Code) -> None:
    driver, stub = s3
    expected = {"Bucket": ANY, "Key": "k", "Body": b"x"}
    stub.add_client_error("put_object", code, http_status_code=status, expected_params={**expected, "IfNoneMatch": "*"})
    assert code_of(driver, driver.put, "k", b"x", if_absent=True) is meaning
    stub.add_response("put_object", {}, expected)
    driver.put("k", b"x")


def test_keys_that_s3_refuses_do_not_hold_up_the_others(s3: tuple[AwsObjects, Stubber]) -> None:
    driver, stub = s3
    errors = [{"Key": "b", "Code": "AccessDenied", "Message": "no"}, {"Key": "c", "Code": "InternalError", "Message": "again"}]
    asked = {"Bucket": ANY, "Delete": {"Objects": [{"Key": key} for key in "abcb"], "Quiet": True}}
    stub.add_response("delete_objects", {"Errors": errors}, asked)
    assert driver.delete(list("abcb")) == [
        Rejected(1, Code.DENIED, "b: AccessDenied: no"),
        Rejected(3, Code.DENIED, "b: AccessDenied: no"),
        Rejected(2, Code.UNAVAILABLE, "c: InternalError: again"),
    ]


# Blob Storage's own


@contextmanager
def blobs(*answers: Answer | None) -> Iterator[tuple[AzureObjects, list[Request]]]:
    """A driver of a Blob Storage that answers so."""
    with answering(*answers) as (url, asked):
        with pointed(azure_env(url), POINTERS["azure"]):
            driver = AzureObjects(AZURE_NOBODY)
        with closing(driver):
            yield driver, asked


def word(status: int, code: str, body: bytes = b"") -> Answer:
    """An answer with a word of Blob Storage's."""
    return Answer(status, body, {"x-ms-error-code": code} if code else {})


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (word(409, "BlobAlreadyExists"), Code.ALREADY_EXISTS),
        (word(412, "ConditionNotMet"), Code.ALREADY_EXISTS),
        (word(409, "ContainerBeingDeleted"), Code.UNAVAILABLE),
        (word(503, "ServerBusy"), Code.THROTTLED),
        (word(500, "OperationTimedOut"), Code.UNAVAILABLE),
        (word(500, "InternalError"), Code.UNAVAILABLE),
        (word(429, ""), Code.THROTTLED),
        (word(403, "AuthenticationFailed"), Code.DENIED),
        (word(403, "AuthorizationPermissionMismatch"), Code.DENIED),
        (word(404, "ContainerNotFound"), Code.NOT_FOUND),
        (word(413, "RequestBodyTooLarge"), Code.TOO_LARGE),
        (word(400, "InvalidUri"), Code.INVALID),
        (CUT, Code.UNAVAILABLE),
    ],
)
def test_what_a_put_that_must_create_is_told(answer: Answer | None, meaning: Code) -> None:
    with blobs(answer) as (store, asked):
        assert code_of(store, store.put, "k", b"x", if_absent=True) is meaning
    assert [(each.method, each.path) for each in asked] == [("PUT", "/a/abc/k")]  # once: repeating it is for core


def test_what_is_told_of_a_container_that_is_being_deleted() -> None:
    with blobs(word(409, "ContainerBeingDeleted")) as (store, _), pytest.raises(Exception, match="ContainerBeingDeleted") as caught:
        store.list("")
    assert "still being deleted" in (advice(caught.value) or "")


def test_a_body_that_breaks_off_is_not_taken_for_whole() -> None:
    half = Answer(206, b"x" * 50, {"Content-Range": "bytes 0-99/100", "Content-Length": "100", "Connection": "close"})
    with blobs(half, half, half) as (store, asked):
        assert code_of(store, store.get, "k") is Code.UNAVAILABLE
    assert len(asked) == 3  # of itself the SDK asks again, which nothing turns off


def test_keys_that_blob_storage_refuses_do_not_hold_up_the_others() -> None:
    def part(number: int, status: int, code: str) -> str:
        error = f"x-ms-error-code: {code}\r\n" if code else ""
        return f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status} Said\r\n{error}\r\n\r\n"

    parts = [(202, ""), (403, "AuthorizationPermissionMismatch"), (404, "BlobNotFound"), (503, "ServerBusy"), (202, "")]
    body = "".join(part(number, *each) for number, each in enumerate(parts)) + "--batch--\r\n"
    with blobs(Answer(202, body.encode(), {"Content-Type": "multipart/mixed; boundary=batch"})) as (store, asked):
        refused = store.delete(list("abcde"))
    assert [re.sub(r"\?.*", "", f"{each.method} {each.path}") for each in asked] == ["POST /a/abc"]
    assert refused == [
        Rejected(1, Code.DENIED, "b: 403 AuthorizationPermissionMismatch"),
        Rejected(3, Code.THROTTLED, "d: 503 ServerBusy"),
    ]


def test_a_batch_that_is_refused_as_a_whole() -> None:
    with blobs(word(503, "ServerBusy")) as (store, asked):
        assert code_of(store, store.delete, ["a"]) is Code.THROTTLED
    assert len(asked) == 1


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
def test_what_the_sdk_would_split_is_one_request(store: AzureObjects) -> None:
    size = 65 << 20  # over the 64 MB that it puts, and the 32 MB that it gets, in one
    body = bytes(size)
    store.put("large", body)
    committed, uncommitted = store.native().get_blob_client("large").get_block_list("all")
    assert (committed, uncommitted) == ([], [])
    assert store.get("large") == body
    assert store.get("large", size - 5) == bytes(5)
