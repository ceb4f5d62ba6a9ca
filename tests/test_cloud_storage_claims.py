"""What the local Cloud Storage claims holds, and whatever else would change an answer is refused by name: the list is walked."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsd_conformance.emulators import cloud_storage_claims as claims
from fsd_conformance.emulators.google import CloudStorage
from fsd_conformance.emulators.process import started

Ask = Callable[..., tuple[int, dict[str, str], bytes]]
REFUSED = b"not implemented by the local Cloud Storage"
MULTIPART = {"Content-Type": "multipart/related; boundary=x"}
# What a refused field holds where it says something. Others are refused with any text in them.
VALUES: dict[str, object] = {
    "autoclass": {"enabled": True},
    "billing": {"requesterPays": True},
    "defaultEventBasedHold": True,
    "encryption": {"defaultKmsKeyName": "projects/p/locations/us/keyRings/r/cryptoKeys/k"},
    "eventBasedHold": True,
    "hierarchicalNamespace": {"enabled": True},
    "retentionPolicy": {"retentionPeriod": "10"},
    "temporaryHold": True,
    "versioning": {"enabled": True},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStorage]:
    """The local Cloud Storage."""
    folder = tmp_path_factory.mktemp("storage")
    server = started(lambda: CloudStorage(folder))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ask(server: CloudStorage) -> Ask:
    """One request on a new connection: status, headers in lower case, body."""

    def call(method: str, path: str, body: Any = b"", headers: Any = (), **query: object) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            connection.request(method, f"{path}?{urlencode(query)}", data, dict(headers))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return call


@pytest.fixture
def bucket(ask: Ask) -> str:
    name = f"t-{secrets.token_hex(6)}"
    assert ask("POST", "/storage/v1/b", {"name": name}, project="mine")[0] == 200
    return name


def put(ask: Ask, bucket: str, name: str, body: bytes = b"fluffy", **query: object) -> dict[str, Any]:
    status, _, told = ask("POST", f"/upload/storage/v1/b/{bucket}/o", body, uploadType="media", name=name, **query)
    assert status == 200
    made: dict[str, Any] = json.loads(told)
    return made


def path(operation: claims.Operation, bucket: str, name: str = "k") -> str:
    """A path of the operation's."""
    return (
        operation.path.replace("(?:/download)?", "")
        .replace("/?", "")
        .replace("([^/]+)", bucket, 1)
        .replace("([^/]+)", quote(name, safe=""), 1)
    )


OPERATIONS = {each.name: each for each in claims.OPERATIONS}


# the list


@pytest.mark.parametrize("operation", claims.OPERATIONS, ids=lambda each: f"{each.method}-{each.name}")
def test_a_parameter_or_a_header_that_an_operation_does_not_claim_is_refused(ask: Ask, bucket: str, operation: claims.Operation) -> None:
    put(ask, bucket, "k")
    known = {name for each in claims.OPERATIONS for name in each.parameters} | claims.PARAMETERS_REFUSED | {"invented"}
    for name in sorted(known - operation.parameters - claims.PARAMETERS_ANYWHERE):
        status, _, said = ask(operation.method, path(operation, bucket), b"", **{name: "1"})
        assert (status, REFUSED in said, name in said.decode()) == (501, True, True), name
    headers = {name for each in claims.OPERATIONS for name in each.headers} | claims.HEADERS_REFUSED | {"x-goog-invented"}
    for name in sorted(filter(claims.controls, headers - operation.headers)):
        status, _, said = ask(operation.method, path(operation, bucket), b"", {name: "1"})
        assert (status, REFUSED in said, name in said.decode()) == (501, True, True), name
    assert ask("GET", f"/storage/v1/b/{bucket}/o/k")[0] == 200  # nothing of it was done


@pytest.mark.parametrize("name", sorted(claims.BUCKET_REFUSED | {"invented"}))
def test_a_field_of_a_bucket_that_would_change_something_is_refused(ask: Ask, bucket: str, name: str) -> None:
    value = VALUES.get(name, "x")
    new = f"t-{secrets.token_hex(6)}"
    before = ask("GET", f"/storage/v1/b/{bucket}")[2]
    for answer in (
        ask("POST", "/storage/v1/b", {"name": new, name: value}, project="mine"),
        ask("PATCH", f"/storage/v1/b/{bucket}", {"labels": {"a": "b"}, name: value}),
        ask("PUT", f"/storage/v1/b/{bucket}", {"labels": {"a": "b"}, name: value}),
    ):
        assert (answer[0], REFUSED in answer[2], name in answer[2].decode()) == (501, True, True)
    assert ask("GET", f"/storage/v1/b/{new}")[0] == 404
    assert ask("GET", f"/storage/v1/b/{bucket}")[2] == before
    if isinstance(value, dict):  # what is off is off here too
        assert ask("PATCH", f"/storage/v1/b/{bucket}", {name: dict.fromkeys(value, False)})[0] == 200


@pytest.mark.parametrize("name", sorted(claims.OBJECT_REFUSED | {"invented"}))
def test_a_field_of_an_object_that_would_change_something_is_refused(ask: Ask, bucket: str, name: str) -> None:
    put(ask, bucket, "k")
    asked = json.dumps({"name": "new", name: VALUES.get(name, "x")})
    parts = f"--x\r\n\r\n{asked}\r\n--x\r\n\r\nbody\r\n--x--".encode()
    for answer in (
        ask("POST", f"/upload/storage/v1/b/{bucket}/o", parts, MULTIPART, uploadType="multipart"),
        ask("POST", f"/upload/storage/v1/b/{bucket}/o", asked.encode(), uploadType="resumable"),
        ask("PATCH", f"/storage/v1/b/{bucket}/o/k", asked.encode()),
        ask("PUT", f"/storage/v1/b/{bucket}/o/k", asked.encode()),
    ):
        assert (answer[0], REFUSED in answer[2], name in answer[2].decode()) == (501, True, True)
    assert ask("GET", f"/storage/v1/b/{bucket}/o/new")[0] == 404
    assert json.loads(ask("GET", f"/storage/v1/b/{bucket}/o/k")[2])["metageneration"] == "1"


@pytest.mark.parametrize(("method", "suffix"), claims.PATHS_REFUSED)
def test_an_operation_that_is_not_here_is_refused(ask: Ask, bucket: str, method: str, suffix: str) -> None:
    put(ask, bucket, "k")
    status, _, said = ask(method, suffix.replace("BUCKET", bucket).replace("OBJECT", "k"))
    assert (status, REFUSED in said) == (501, method != "HEAD")  # whose answers have no body


def test_every_claimed_operation_has_its_list_beside_it() -> None:
    text = Path(claims.__file__).read_text()
    assert {each.name for each in claims.OPERATIONS} >= {"upload", "get", "list", "batch"}
    for names in (claims.BUCKET_REFUSED, claims.OBJECT_REFUSED, claims.HEADERS_REFUSED, claims.PARAMETERS_REFUSED):
        assert names
        assert all(name in text for name in names)
    claimed = {name for each in claims.OPERATIONS for name in each.parameters}
    assert not claimed & claims.PARAMETERS_REFUSED - {"generation"}
    assert not claims.BUCKET_FIELDS & claims.BUCKET_REFUSED
    assert not claims.OBJECT_FIELDS & claims.OBJECT_REFUSED


# etags


def test_an_etag_is_a_condition_on_the_resource_and_on_its_media(ask: Ask, bucket: str) -> None:
    where = f"/storage/v1/b/{bucket}/o/k"
    etag = put(ask, bucket, "k")["etag"]
    for query in ({}, {"alt": "media"}):
        for told, expected in (
            ({"If-Match": "kittens"}, 412),
            ({"If-Match": etag}, 200),
            ({"If-Match": f'"other", "{etag}"'}, 200),
            ({"If-Match": "*"}, 200),
            ({"If-None-Match": etag}, 304),
            ({"If-None-Match": "*"}, 304),
            ({"If-None-Match": "kittens"}, 200),
        ):
            assert ask("GET", where, b"", told, **query)[0] == expected, (query, told)
        assert ask("GET", f"{where}-never", b"", {"If-Match": "*"}, **query)[0] == 404
    assert ask("GET", where, alt="media")[1]["etag"].strip('"') == etag
    assert ask("PATCH", where, {"metadata": {"a": "b"}})[0] == 200
    assert ask("GET", where, b"", {"If-Match": etag})[0] == 412
    own = json.loads(ask("GET", f"/storage/v1/b/{bucket}")[2])["etag"]
    assert ask("GET", f"/storage/v1/b/{bucket}", b"", {"If-None-Match": own})[0] == 304
    assert ask("GET", f"/storage/v1/b/{bucket}", b"", {"If-Match": "kittens"})[0] == 412


@pytest.mark.parametrize(("method", "told"), [("GET", {"If-None-Match": "*"}), ("HEAD", {})])
def test_an_answer_without_a_body_leaves_its_connection_clean(server: CloudStorage, ask: Ask, bucket: str, method: str, told: Any) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(
            f"{method} /storage/v1/b/{bucket} HTTP/1.1\r\n{lines}\r\nGET /_health HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
        )
        with connection.makefile("rb") as stream:
            first, second = stream.read().split(b"\r\n\r\n", 1)
    assert first.startswith(b"HTTP/1.1 304" if method == "GET" else b"HTTP/1.1 501")
    assert second.startswith(b"HTTP/1.1 200 OK")


# checksums and uploads


def crc(body: bytes) -> str:
    return base64.b64encode(google_crc32c.value(body).to_bytes(4, "big")).decode()


@pytest.mark.parametrize("wrong", [{"crc32c": "A0tD7w=="}, {"md5Hash": "AAAA"}])
def test_a_checksum_in_the_metadata_counts_beside_one_in_a_header(ask: Ask, bucket: str, wrong: dict[str, str]) -> None:
    body, where = b"hello world", f"/upload/storage/v1/b/{bucket}/o"
    right = {"X-Goog-Hash": f"crc32c={crc(body)}"}

    def upload(told: dict[str, str]) -> list[int]:
        _, headers, _ = ask("POST", where, {"name": "x", **told}, uploadType="resumable")
        key = headers["location"].partition("upload_id=")[2]
        range_ = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
        parts = b"--x\r\n\r\n" + json.dumps({"name": "x", **told}).encode() + b"\r\n--x\r\n\r\n" + body + b"\r\n--x--"
        return [
            ask("PUT", where, body, {**range_, **right}, uploadType="resumable", upload_id=key)[0],
            ask("POST", where, parts, {**MULTIPART, **right}, uploadType="multipart")[0],
        ]

    assert upload(wrong) == [400, 400]
    assert ask("GET", f"/storage/v1/b/{bucket}/o/x")[0] == 404
    assert upload({"crc32c": crc(body)}) == [200, 200]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Goog-Hash": "crc32c=!!!!"},
        {"X-Goog-Hash": "sha256=AAAA"},
        {"X-Goog-Hash": "md5=+QDoX5sC6qOsyTxLFoOhHw==", "Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"X-Goog-Hash": "md5=AAAAAAAAAAAAAAAAAAAAAA==,md5=+QDoX5sC6qOsyTxLFoOhHw=="},
    ],
    ids=["malformed", "unknown", "another header's", "twice"],
)
def test_no_checksum_of_a_header_is_passed_over(ask: Ask, bucket: str, headers: dict[str, str]) -> None:
    assert ask("POST", f"/upload/storage/v1/b/{bucket}/o", b"z", headers, uploadType="media", name="x")[0] == 400
    assert ask("GET", f"/storage/v1/b/{bucket}/o/x")[0] == 404


def test_only_a_flag_that_says_false_says_nothing(ask: Ask, bucket: str) -> None:
    for name in sorted(claims.PARAMETERS_REFUSED):
        status = ask("GET", f"/storage/v1/b/{bucket}/o", **{name: "false"})[0]
        assert status == (200 if name in claims.FLAGS_REFUSED else 501), name


def test_what_the_service_takes_of_metadata_sizes_and_rules(ask: Ask, bucket: str) -> None:
    put(ask, bucket, "k")
    at = f"/storage/v1/b/{bucket}"
    assert ask("PATCH", f"{at}/o/k", {"metadata": {"k": "x" * 8191}})[0] == 200
    assert ask("PATCH", f"{at}/o/k", {"metadata": {"k": "x" * 8192}})[0] == 400
    begin = {"uploadType": "resumable", "name": "r"}
    assert ask("POST", f"/upload{at}/o", b"", {"X-Upload-Content-Length": "many"}, **begin)[0] == 400
    for condition, status in (({"age": 1}, 200), ({"age": "x"}, 400), ({"matchesPrefix": ["a"]}, 200), ({"invented": 1}, 501)):
        rule = {"action": {"type": "Delete"}, "condition": condition}
        assert ask("PATCH", at, {"lifecycle": {"rule": [rule]}})[0] == status, condition


def test_a_sessions_precondition_holds_when_the_object_is_made(ask: Ask, bucket: str) -> None:
    where = f"/upload/storage/v1/b/{bucket}/o"

    def begin() -> str:
        status, headers, _ = ask("POST", where, {}, uploadType="resumable", name="k", ifGenerationMatch=0)
        assert status == 200
        return headers["location"].partition("upload_id=")[2]

    def end(key: str) -> int:
        return ask("PUT", where, b"x", {"Content-Range": "bytes 0-0/1"}, uploadType="resumable", upload_id=key)[0]

    put(ask, bucket, "k")
    key = begin()
    assert end(key) == 412
    key = begin()
    assert ask("DELETE", f"/storage/v1/b/{bucket}/o/k")[0] == 204
    assert end(key) == 200
    assert ask("POST", where, {}, uploadType="resumable", name="a\nb")[0] == 400


def test_a_chunk_that_is_too_small_breaks_its_session(ask: Ask, bucket: str) -> None:
    where, unit = f"/upload/storage/v1/b/{bucket}/o", 256 << 10

    def begin() -> str:
        return ask("POST", where, {}, uploadType="resumable", name="k")[1]["location"].partition("upload_id=")[2]

    def send(key: str, size: int, whole: object) -> int:
        told = {"Content-Range": f"bytes 0-{size - 1}/{whole}"}
        return ask("PUT", where, bytes(size), told, uploadType="resumable", upload_id=key)[0]

    for whole in ("*", 2 * unit):
        key = begin()
        assert send(key, 1024, whole) == 400
        assert send(key, unit, whole) == 400
        assert send(begin(), unit + 100, whole) == 308  # larger than a unit, though not some of them
    assert send(begin(), 1024, 1024) == 200


def test_what_is_past_the_end_is_told_in_the_services_words(ask: Ask, bucket: str) -> None:
    put(ask, bucket, "k")
    status, headers, said = ask("GET", f"/storage/v1/b/{bucket}/o/k", b"", {"Range": "bytes=9-"}, alt="media")
    assert (status, headers["content-range"], said) == (416, "bytes */6", b"Request range not satisfiable")


def test_a_session_ends_with_its_bucket(ask: Ask, bucket: str) -> None:
    where = f"/upload/storage/v1/b/{bucket}/o"
    _, headers, _ = ask("POST", where, {}, uploadType="resumable", name="k")
    key = headers["location"].partition("upload_id=")[2]
    assert ask("DELETE", f"/storage/v1/b/{bucket}")[0] == 204
    assert ask("POST", "/storage/v1/b", {"name": bucket}, project="mine")[0] == 200
    assert ask("PUT", where, b"x", {"Content-Range": "bytes 0-0/1"}, uploadType="resumable", upload_id=key)[0] == 404


def test_a_part_that_is_encoded_for_its_way_is_refused(ask: Ask, bucket: str) -> None:
    for header in ("Content-Transfer-Encoding: base64", "Content-Encoding: gzip"):
        parts = f'--x\r\n\r\n{{"name": "k"}}\r\n--x\r\n{header}\r\n\r\nYQ==\r\n--x--'
        status, _, said = ask("POST", f"/upload/storage/v1/b/{bucket}/o", parts, MULTIPART, uploadType="multipart")
        assert (status, REFUSED in said) == (501, True)


def test_what_the_service_would_unzip_is_refused(ask: Ask, bucket: str) -> None:
    put(ask, bucket, "k", b"zipped")
    where = f"/storage/v1/b/{bucket}/o/k"
    assert ask("PATCH", where, {"contentEncoding": "gzip"})[0] == 200
    status, _, said = ask("GET", where, alt="media")
    assert (status, REFUSED in said) == (501, True)
    status, headers, body = ask("GET", where, b"", {"Accept-Encoding": "gzip, deflate"}, alt="media")
    assert (status, headers["content-encoding"], body) == (200, "gzip", b"zipped")
    assert ask("PATCH", where, {"cacheControl": "no-transform"})[0] == 200
    assert ask("GET", where, alt="media")[2] == b"zipped"


# fields


def test_a_bucket_that_is_replaced_keeps_its_place(ask: Ask) -> None:
    name = f"t-{secrets.token_hex(6)}"
    ask("POST", "/storage/v1/b", {"name": name, "location": "us-east1", "labels": {"a": "b"}}, project="mine")
    status, _, said = ask("PUT", f"/storage/v1/b/{name}", {"labels": {"c": "d"}})
    told = json.loads(said)
    assert (status, told["location"], told["labels"], told["storageClass"]) == (200, "US-EAST1", {"c": "d"}, "STANDARD")
    assert ask("PUT", f"/storage/v1/b/{name}", {"location": "US-EAST1"})[0] == 200
    assert ask("PATCH", f"/storage/v1/b/{name}", {"location": None, "storageClass": None})[0] == 200
    assert ask("PATCH", f"/storage/v1/b/{name}", {"location": "EU"})[0] == 400
    assert json.loads(ask("GET", f"/storage/v1/b/{name}")[2])["location"] == "US-EAST1"


@pytest.mark.parametrize("kind", ["text/plain\r\nX-Other: 1", "é", "\U0001f600"])
def test_what_is_told_as_a_header_can_be_one(ask: Ask, bucket: str, kind: str) -> None:
    put(ask, bucket, "k")
    for name in ("contentType", "contentEncoding", "cacheControl"):
        assert ask("PATCH", f"/storage/v1/b/{bucket}/o/k", {name: kind})[0] == 400
    assert ask("GET", f"/storage/v1/b/{bucket}/o/k", alt="media")[0] == 200


def test_nothing_that_is_deleted_is_kept(ask: Ask, bucket: str) -> None:
    where = f"/storage/v1/b/{bucket}"
    assert ask("PATCH", where, {"softDeletePolicy": {"retentionDurationSeconds": "0"}})[0] == 200
    status, _, said = ask("PATCH", where, {"softDeletePolicy": {"retentionDurationSeconds": "604800"}})
    assert (status, REFUSED in said) == (501, True)
    assert ask("PATCH", where, {"softDeletePolicy": {"retentionDurationSeconds": "5"}})[0] == 400


@pytest.mark.parametrize(("place", "kind"), [("eu", "multi-region"), ("nam4", "dual-region"), ("us-east1", "region")])
def test_a_place_is_told_with_its_kind(ask: Ask, place: str, kind: str) -> None:
    new = {"name": f"t-{secrets.token_hex(6)}", "location": place}
    status, _, said = ask("POST", "/storage/v1/b/", new, project="mine")  # the service takes it with and without the last slash
    told = json.loads(said)
    assert (status, told["location"], told["locationType"], told.get("rpo")) == (
        *(200, place.upper(), kind),
        None if kind == "region" else "DEFAULT",
    )


def test_storage_classes_and_times(ask: Ask, bucket: str) -> None:
    where = f"/storage/v1/b/{bucket}"
    assert ask("PATCH", where, {"storageClass": "NEARLINE"})[0] == 200
    assert ask("PATCH", where, {"storageClass": "FAST"})[0] == 400
    put(ask, bucket, "k")
    told = json.loads(ask("GET", f"{where}/o/k")[2])
    assert told["storageClass"] == "NEARLINE"
    assert ask("PATCH", f"{where}/o/k", {"storageClass": "NEARLINE"})[0] == 200
    status, _, said = ask("PATCH", f"{where}/o/k", {"storageClass": "COLDLINE"})
    assert (status, REFUSED in said) == (501, True)
    assert ask("PATCH", f"{where}/o/k", {"customTime": "2026-01-02T00:00:00Z"})[0] == 200
    for wrong in ("yesterday", "2026-01-01T00:00:00Z", None):
        assert ask("PATCH", f"{where}/o/k", {"customTime": wrong})[0] == 400, wrong
    assert ask("PATCH", f"{where}/o/k", {"customTime": "2026-01-02T00:00:01.5Z"})[0] == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "rule", "action", "enabled"]), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(claims.BUCKET_FIELDS | claims.BUCKET_REFUSED)), JSON, st.sampled_from(["PUT", "PATCH"]))
def test_no_field_of_a_bucket_makes_it_fail(ask: Ask, bucket: str, name: str, value: object, method: str) -> None:
    assert ask(method, f"/storage/v1/b/{bucket}", {name: value})[0] in (200, 400, 501)
    assert ask("GET", f"/storage/v1/b/{bucket}")[0] == 200


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(claims.OBJECT_FIELDS | claims.OBJECT_REFUSED | {"crc32c"})), JSON, st.sampled_from(["PUT", "PATCH", "POST"]))
def test_no_field_of_an_object_makes_it_fail(ask: Ask, bucket: str, name: str, value: object, method: str) -> None:
    put(ask, bucket, "k")
    if method == "POST":
        parts = f"--x\r\n\r\n{json.dumps({'name': 'k', name: value})}\r\n--x\r\n\r\nbody\r\n--x--"
        answer = ask("POST", f"/upload/storage/v1/b/{bucket}/o", parts, MULTIPART, uploadType="multipart")
    else:
        answer = ask(method, f"/storage/v1/b/{bucket}/o/k", {name: value})
    assert answer[0] in (200, 400, 501)
    assert ask("GET", f"/storage/v1/b/{bucket}/o")[0] == 200
    assert ask("GET", f"/storage/v1/b/{bucket}/o/k", b"", {"Accept-Encoding": "gzip"}, alt="media")[0] == 200


# policies


def test_a_reader_of_an_older_version_does_not_see_conditions(ask: Ask, bucket: str) -> None:
    where = f"/storage/v1/b/{bucket}/iam"
    member = "user:a@b.example"
    condition = {"title": "t", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"}
    bindings = [{"role": "roles/storage.objectUser", "members": [member], "condition": condition}]
    assert ask("PUT", where, {"version": 3, "bindings": bindings})[0] == 400  # of a bucket whose objects may have lists of their own
    assert ask("PATCH", f"/storage/v1/b/{bucket}", {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}})[0] == 200
    assert ask("PUT", where, {"version": 1, "bindings": bindings})[0] == 400
    assert ask("PUT", where, {"version": 3, "bindings": bindings})[0] == 200
    for asked in ({}, {"optionsRequestedPolicyVersion": 1}, {"optionsRequestedPolicyVersion": 0}):
        old = json.loads(ask("GET", where, **asked)[2])
        assert old["version"] == 1
        ((role, members),) = [(each["role"], each["members"]) for each in old["bindings"]]
        assert role.startswith("roles/storage.objectUser_withcond_")
        assert members == [member]
        assert "condition" not in old["bindings"][0]
        assert ask("PUT", where, old)[0] == 400  # would lose the condition
    new = json.loads(ask("GET", where, optionsRequestedPolicyVersion=3)[2])
    assert (new["version"], new["bindings"]) == (3, bindings)
    assert ask("GET", where, optionsRequestedPolicyVersion=2)[0] == 400
    assert ask("PUT", where, {**new, "version": 1, "bindings": []})[0] == 400  # also to remove one, with the policy's etag
    plain = [{"role": "roles/storage.objectViewer", "members": [member]}]
    assert ask("PUT", where, {**new, "bindings": [*bindings, *plain]})[0] == 200
    assert ask("PUT", where, {"bindings": plain})[0] == 200  # no etag: overwritten, conditions and all
    told = json.loads(ask("GET", where, optionsRequestedPolicyVersion=3)[2])
    assert (told["version"], told["bindings"]) == (1, plain)
