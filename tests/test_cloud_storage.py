"""The local Cloud Storage, asked by Google's own client, and by plain HTTP where the client would not."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import random
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlencode

import pytest
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage.exceptions import InvalidResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fsd_conformance.emulators.cloud_storage_fields import merge
from fsd_conformance.emulators.cloud_storage_store import Listing
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.google import CloudStorage
from fsd_conformance.emulators.process import POINTERS, started

ONCE = {"retry": None, "timeout": 30}
CHUNK = 256 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage")
    server = started(lambda: CloudStorage(folder))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server):
    with pointed({"STORAGE_EMULATOR_HOST": server.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}, POINTERS["gcp"]):
        yield storage.Client(project="mine")


@pytest.fixture
def bucket(client):
    return client.create_bucket(f"t-{secrets.token_hex(6)}", **ONCE)


@pytest.fixture
def ask(server):
    """One request on a new connection: status, headers in lower case, body."""

    def call(method, path, body=b"", headers=(), **query):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", body, dict(headers))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return call


def objects(bucket, name=None):
    return f"/storage/v1/b/{bucket.name}/o" + ("" if name is None else f"/{quote(name, safe='')}")


def put(bucket, name, body=b"x", **conditions):
    blob = bucket.blob(name)
    blob.upload_from_string(body, content_type="application/octet-stream", **ONCE, **conditions)
    return blob


def names(client, bucket, **asked):
    return [blob.name for blob in client.list_blobs(bucket, **ONCE, **asked)]


# buckets


def test_a_bucket_is_kept_as_it_was_made(client):
    name = f"t-{secrets.token_hex(6)}"
    made = client.bucket(name)
    made.labels = {"fsd-app": "mine"}
    made.add_lifecycle_delete_rule(age=7)
    made.iam_configuration.uniform_bucket_level_access_enabled = True
    made.iam_configuration.public_access_prevention = "enforced"
    client.create_bucket(made, location="europe-west4", **ONCE)
    found = client.get_bucket(name, **ONCE)
    assert found.labels == {"fsd-app": "mine"}
    assert [(rule["action"]["type"], rule["condition"]) for rule in found.lifecycle_rules] == [("Delete", {"age": 7})]
    assert found.iam_configuration.uniform_bucket_level_access_enabled
    assert found.iam_configuration.public_access_prevention == "enforced"
    assert (found.location, found.storage_class, found.metageneration) == ("EUROPE-WEST4", "STANDARD", 1)
    found.labels = {**found.labels, "more": "1"}
    found.patch(**ONCE)
    again = client.get_bucket(name, **ONCE)
    assert (again.labels, again.metageneration) == ({"fsd-app": "mine", "more": "1"}, 2)
    assert len(list(again.lifecycle_rules)) == 1
    again.labels = {"more": "2"}
    again.patch(**ONCE)
    assert client.get_bucket(name, **ONCE).labels == {"more": "2"}
    assert name in [each.name for each in client.list_buckets(**ONCE, prefix=name[:4])]


def test_a_bucket_is_made_once_and_goes_empty(client, bucket):
    with pytest.raises(exceptions.Conflict, match="already own it"):
        client.create_bucket(bucket.name, **ONCE)
    with pytest.raises(exceptions.Conflict, match="not available"):
        client.create_bucket(bucket.name, project="another", **ONCE)
    put(bucket, "a")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        bucket.delete(**ONCE)
    bucket.delete_blob("a", **ONCE)
    bucket.delete(**ONCE)
    assert client.lookup_bucket(bucket.name, **ONCE) is None
    for request in (lambda: bucket.delete(**ONCE), lambda: put(bucket, "a"), lambda: names(client, bucket), lambda: bucket.reload(**ONCE)):
        with pytest.raises(exceptions.NotFound):
            request()


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("Upper", {}, 400),
        ("ab", {}, 400),
        ("google-mine", {}, 400),
        ("of.a.domain", {}, 403),
        ("x" * 64, {}, 400),
        ("labels", {"labels": {"Upper": "x"}}, 400),
        ("labels", {"labels": {"a": "Upper"}}, 400),
        ("labels", {"labels": {f"a{n}": "x" for n in range(65)}}, 400),
        ("rules", {"lifecycle": {"rule": [{"action": {"type": "Delete"}}]}}, 400),
        ("versions", {"versioning": {"enabled": True}}, 501),
    ],
)
def test_what_a_bucket_cannot_be(ask, name, fields, status):
    answer = ask("POST", "/storage/v1/b", json.dumps({"name": name, **fields}), project="mine")
    assert answer[0] == status
    assert json.loads(answer[2])["error"]["code"] == status
    assert ask("GET", f"/storage/v1/b/{name}")[0] == 404


def test_policies_are_kept_and_have_one_winner(bucket, ask):
    first, second = (bucket.get_iam_policy(requested_policy_version=3, **ONCE) for _ in range(2))
    first.bindings.append({"role": "roles/storage.objectUser", "members": {"serviceAccount:a@b.iam.gserviceaccount.com"}})
    bucket.set_iam_policy(first, **ONCE)
    assert bucket.get_iam_policy(**ONCE)["roles/storage.objectUser"] == {"serviceAccount:a@b.iam.gserviceaccount.com"}
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.set_iam_policy(second, **ONCE)
    for binding in (
        {"role": "objectUser", "members": []},
        {"role": "roles/x", "members": ["a@b"]},
        {"role": "roles/x", "condition": {"title": "x"}},
    ):
        assert ask("PUT", f"/storage/v1/b/{bucket.name}/iam", json.dumps({"bindings": [binding]}))[0] == 400
    assert bucket.test_iam_permissions(["storage.objects.get"], **ONCE) == ["storage.objects.get"]


# objects


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20])
def test_bodies_and_checksums(bucket, size):
    body = random.Random(size).randbytes(size)
    blob = bucket.blob("a/b c")
    blob.metadata, blob.cache_control = {"k": "v"}, "no-store"
    blob.upload_from_string(body, content_type="text/x", **ONCE)
    for checksum in ("md5", "crc32c"):
        assert bucket.blob("a/b c").download_as_bytes(checksum=checksum, **ONCE) == body
    found = bucket.get_blob("a/b c", **ONCE)
    assert (found.size, found.content_type, found.metadata, found.cache_control) == (size, "text/x", {"k": "v"}, "no-store")
    assert found.generation == blob.generation
    assert found.download_as_bytes(**ONCE) == body  # by its media link
    found.metadata = {"k": "w"}
    found.patch(**ONCE)
    again = bucket.get_blob("a/b c", **ONCE)
    assert (again.metadata, again.metageneration, again.generation) == ({"k": "w"}, 2, blob.generation)


def test_media_upload_and_checksums_that_are_wrong(bucket, ask):
    path = f"/upload{objects(bucket)}"
    right = base64.b64encode(b"\xe3\x06\x92\x83").decode()  # of "123456789", the polynomial's check value
    assert ask("POST", path, b"123456789", uploadType="media", name="a")[0] == 200
    assert ask("POST", path, b"123456789", {"X-Goog-Hash": f"crc32c={right}"}, uploadType="media", name="a")[0] == 200
    for header in ({"X-Goog-Hash": "crc32c=AAAAAA=="}, {"X-Goog-Hash": "md5=AAAA"}, {"Content-MD5": "AAAA"}):
        status, _, body = ask("POST", path, b"other", header, uploadType="media", name="a")
        assert (status, b"doesn't match" in body) == (400, True)
    assert bucket.blob("a").download_as_bytes(**ONCE) == b"123456789"
    assert ask("POST", path, b"x", uploadType="media")[0] == 400
    assert ask("POST", path, b"x", uploadType="other", name="a")[0] == 400
    for body in (b"", b"--x\r\n\r\n{}\r\n--x--", b"--x\r\n\r\n{\r\n--x\r\n\r\nbody\r\n--x--"):
        assert ask("POST", path, body, {"Content-Type": "multipart/related; boundary=x"}, uploadType="multipart", name="a")[0] == 400


@pytest.mark.parametrize("name", ["", ".", "..", "a\nb", "é" * 513, ".well-known/acme-challenge/x"])
def test_names_that_no_object_has(bucket, ask, name):
    assert ask("POST", f"/upload{objects(bucket)}", b"x", uploadType="media", name=name)[0] == 400
    assert names(bucket.client, bucket) == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(0, 50), st.none() | st.integers(0, 50))
def test_ranges(bucket, size, start, end):
    body = bytes(range(size))
    put(bucket, "a", body)
    if end is not None and end < start:
        end = start
    blob = bucket.blob("a")
    if start >= size:
        with pytest.raises(exceptions.RequestRangeNotSatisfiable):
            blob.download_as_bytes(start=start, end=end, **ONCE) if (start, end) != (0, None) else blob.download_as_bytes(
                start=0, end=0, **ONCE
            )
    else:
        assert blob.download_as_bytes(start=start, end=end, **ONCE) == body[start : None if end is None else end + 1]


def test_ranges_as_headers(bucket, ask):
    put(bucket, "a", b"0123456789")
    put(bucket, "empty", b"")

    def get(asked, name="a"):
        status, headers, body = ask("GET", f"/download{objects(bucket, name)}", b"", {"Range": asked}, alt="media")
        return status, headers.get("content-range"), body

    assert get("bytes=2-4") == (206, "bytes 2-4/10", b"234")
    assert get("bytes=8-") == (206, "bytes 8-9/10", b"89")
    assert get("bytes=-3") == (206, "bytes 7-9/10", b"789")
    assert get("bytes=-30") == (206, "bytes 0-9/10", b"0123456789")
    assert get("bytes=0-99") == (206, "bytes 0-9/10", b"0123456789")
    assert get("bytes=10-")[:2] == (416, "bytes */10")
    assert get("bytes=-0")[:2] == (416, "bytes */10")
    assert get("bytes=0-0", "empty")[:2] == (416, "bytes */0")
    for malformed in ("bytes=4-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5"):
        assert get(malformed) == (200, None, b"0123456789")


def test_errors_are_in_googles_form(bucket, ask):
    status, _, body = ask("GET", objects(bucket, "never"))
    told = json.loads(body)["error"]
    assert (status, told["code"], told["errors"][0]["reason"]) == (404, 404, "notFound")
    status, _, body = ask("GET", objects(bucket, "never"), alt="media")
    assert (status, body) == (404, f"No such object: {bucket.name}/never".encode())
    put(bucket, "there")
    assert ask("GET", objects(bucket, "there"), ifGenerationMatch="x")[0] == 400
    assert ask("GET", objects(bucket), maxResults="0")[0] == 400
    assert ask("GET", objects(bucket), pageToken="nonsense")[0] == 400
    for path, query in (
        (objects(bucket), {"softDeleted": "true"}),
        (objects(bucket), {"matchGlob": "*"}),
        (f"{objects(bucket, 'there')}/acl", {}),
    ):
        status, _, body = ask("GET", path, **query)
        assert (status, b"not implemented by the local Cloud Storage" in body) == (501, True)
    assert ask("GET", objects(bucket), softDeleted="false")[0] == 200
    assert [each["name"] for each in json.loads(ask("GET", objects(bucket), versions="true")[2])["items"]] == ["there"]  # no others


# preconditions and generations


def test_preconditions(bucket, ask):
    path = objects(bucket, "a")

    def upload(**conditions):
        return ask("POST", f"/upload{objects(bucket)}", b"x", uploadType="media", name="a", **conditions)[0]

    assert upload(ifGenerationMatch=7) == upload(ifGenerationNotMatch=0) == upload(ifMetagenerationMatch=1) == 412
    assert upload(ifGenerationMatch=0) == 200
    assert upload(ifGenerationMatch=0) == upload(ifGenerationMatch=7) == upload(ifMetagenerationMatch=2) == 412
    first = bucket.get_blob("a", **ONCE).generation
    assert upload(ifGenerationNotMatch=first) == 412
    assert upload(ifGenerationMatch=first, ifMetagenerationMatch=1) == 200
    second = bucket.get_blob("a", **ONCE).generation
    assert second > first
    assert upload(ifGenerationNotMatch=first) == 200
    third = bucket.get_blob("a", **ONCE).generation
    for alt in ("json", "media"):
        assert ask("GET", path, alt=alt, ifGenerationMatch=second)[0] == 412
        assert ask("GET", path, alt=alt, ifGenerationNotMatch=third)[::2] == (304, b"") or alt == "json"
        assert ask("GET", path, alt=alt, ifGenerationNotMatch=third)[0] == 304
        assert ask("GET", path, alt=alt, ifGenerationMatch=third, ifMetagenerationNotMatch=5)[0] == 200
        assert ask("GET", path, alt=alt, generation=second)[0] == 404
        assert ask("GET", path, alt=alt, generation=third)[0] == 200
    assert ask("PATCH", path, b"{}", ifMetagenerationMatch=2)[0] == 412
    assert ask("PATCH", path, b'{"metadata": {"k": "v"}}', ifMetagenerationMatch=1)[0] == 200
    assert ask("DELETE", path, ifMetagenerationMatch=1)[0] == ask("DELETE", path, ifGenerationMatch=second)[0] == 412
    assert ask("DELETE", path, ifGenerationMatch=third, ifMetagenerationMatch=2)[0] == 204
    assert ask("DELETE", path)[0] == ask("DELETE", path, ifGenerationMatch=third)[0] == 404
    assert upload(ifGenerationMatch=0) == 200
    assert bucket.get_blob("a", **ONCE).generation > third


def test_one_of_three_resumable_creates_wins(bucket):
    """Of those that go at once, of sixteen, one wins by the suite."""
    ready = threading.Barrier(3)

    def create(rank):
        body = f"{rank:02}".encode() * (9 << 19)
        ready.wait(30)
        try:
            put(bucket, "claim", body, if_generation_match=0)
        except exceptions.PreconditionFailed:
            return None
        return body

    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            won = [body for body in pool.map(create, range(3)) if body]
        assert len(won) == 1
        assert bucket.blob("claim").download_as_bytes(**ONCE) == won[0]
        bucket.delete_blob("claim", **ONCE)


def test_one_of_sixteen_replacements_wins(bucket):
    before = put(bucket, "a").generation

    def replace(rank):
        try:
            return put(bucket, "a", b"%d" % rank, if_generation_match=before).generation
        except exceptions.PreconditionFailed:
            return None

    with ThreadPoolExecutor(16) as pool:
        won = [generation for generation in pool.map(replace, range(16)) if generation]
    assert len(won) == 1
    assert won[0] > before


class Model(RuleBasedStateMachine):
    """Whatever is asked in whatever order, the store is a mapping whose generations only grow."""

    keys = st.sampled_from(["a", "a/b", "ab", "b", "é", "z"])
    wants = st.sampled_from([None, "absent", "same", "old"])
    bucket = client = None

    @initialize()
    def begin(self):
        self.bucket = self.client.create_bucket(f"t-{secrets.token_hex(6)}", **ONCE)
        self.there, self.newest = {}, 1

    def condition(self, key, want):
        generation = self.there[key][1] if key in self.there else 0
        asked = {None: None, "absent": 0, "same": generation, "old": self.newest + 1 if generation == 0 else generation - 1}[want]
        return ({} if asked is None else {"if_generation_match": asked}), asked in (None, generation)

    @rule(key=keys, body=st.binary(max_size=20), want=wants)
    def put(self, key, body, want):
        conditions, holds = self.condition(key, want)
        try:
            generation = put(self.bucket, key, body, **conditions).generation
        except exceptions.PreconditionFailed:
            assert not holds
        else:
            assert holds
            assert generation > self.newest
            self.there[key], self.newest = (body, generation), generation

    @rule(key=keys, want=wants)
    def delete(self, key, want):
        conditions, holds = self.condition(key, want)
        try:
            self.bucket.delete_blob(key, **ONCE, **conditions)
        except exceptions.PreconditionFailed:
            assert key in self.there
            assert not holds
        except exceptions.NotFound:
            assert key not in self.there
        else:
            assert holds
            del self.there[key]

    @rule(key=keys)
    def get(self, key):
        try:
            body = self.bucket.blob(key).download_as_bytes(**ONCE)
        except exceptions.NotFound:
            assert key not in self.there
        else:
            assert body == self.there[key][0]

    @rule(size=st.integers(1, 4), start=st.sampled_from([None, "a/", "b"]))
    def pages(self, size, start):
        found = names(self.client, self.bucket, page_size=size, start_offset=start)
        assert found == sorted((key for key in self.there if key >= (start or "")), key=str.encode)

    @invariant()
    def listed(self):
        if self.bucket:
            found = {blob.name: blob.generation for blob in self.client.list_blobs(self.bucket, **ONCE)}
            assert found == {key: generation for key, (_, generation) in self.there.items()}


def test_any_order_of_requests(client):
    machine = type("Machine", (Model,), {"client": client})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=15))


# lists


def test_lists_are_in_byte_order_over_pages(client, bucket):
    keys = ["A", "a", "a-b", "a/b", "a0", "aa", "b%2Fc", "é", "ü/x", "\U0001f600", "�"]
    for key in random.Random(1).sample(keys, len(keys)):
        put(bucket, key)
    ordered = sorted(keys, key=str.encode)
    for size in (1, 2, 5, len(keys), 1000):
        pages = [[blob.name for blob in page] for page in client.list_blobs(bucket, page_size=size, **ONCE).pages]
        assert [key for page in pages for key in page] == ordered
        assert [len(page) for page in pages][:-1] == [size] * (len(pages) - 1)
    assert names(client, bucket, prefix="a") == [key for key in ordered if key.startswith("a")]
    assert names(client, bucket, start_offset="a/", end_offset="b") == [key for key in ordered if "a/" <= key < "b"]
    assert names(client, bucket, max_results=3) == ordered[:3]
    assert names(client, bucket, prefix="nothing") == []


def test_a_page_has_a_thousand_at_most_and_what_is_asked_of_it(client, bucket, ask):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: put(bucket, f"{number:04}", b""), range(1003)))
    pages = list(client.list_blobs(bucket, page_size=5000, fields="items(name),nextPageToken", **ONCE).pages)
    assert [page.num_items for page in pages] == [1000, 3]
    status, _, body = ask("GET", objects(bucket), maxResults=2, fields="items(name,size),kind")
    assert (status, json.loads(body)) == (200, {"kind": "storage#objects", "items": [{"name": f"{n:04}", "size": "0"} for n in range(2)]})
    for fields, told in (("items/name", {"items": [{"name": "0000"}]}), ("prefixes", {}), ("kind", {"kind": "storage#objects"})):
        assert json.loads(ask("GET", objects(bucket), maxResults=1, fields=fields)[2]) == told
    for fields in ("items(name", "a)", "!"):
        assert ask("GET", objects(bucket), fields=fields)[0] == 400


@settings(max_examples=300)
@given(
    st.sets(st.text("ab/", min_size=1, max_size=5), max_size=12),
    st.text("ab/", max_size=2),
    st.sampled_from(["", "/"]),
    st.text("ab/", max_size=2),
    st.none() | st.text("ab/", min_size=1, max_size=2),
    st.integers(1, 5),
)
def test_pages_hold_what_one_answer_would(keys, prefix, delimiter, start, end, most):
    there = sorted(keys)
    expected = []
    for key in there:
        if key.startswith(prefix) and key >= start and (end is None or key < end):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            expected.append((key, "item") if cut < 0 else (key[: cut + 1], "prefix"))
    expected = list(dict.fromkeys(expected))
    got, token = [], None
    while True:
        items, prefixes, token = Listing(prefix, delimiter, start, end, token, most).page(there)
        got += sorted([(item, "item") for item in items] + [(each, "prefix") for each in prefixes])
        assert len(items) + len(prefixes) <= most
        if token is None:
            break
        assert len(items) + len(prefixes) == most
    assert got == expected


def test_merge_patch():
    assert merge({"a": 1, "b": {"c": 1, "d": 2}}, {"a": None, "b": {"c": None, "e": 3}, "f": {"g": None}}) == {
        "b": {"d": 2, "e": 3},
        "f": {},
    }


# resumable uploads


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_resumable_uploads_of_the_client(bucket, size):
    body = os.urandom(size)
    for total in (size, None):
        blob = bucket.blob("a", chunk_size=CHUNK)
        blob.upload_from_file(io.BytesIO(body), size=total, **ONCE)
        assert bucket.blob("a").download_as_bytes(**ONCE) == body


def session(ask, bucket, told=b'{"name": "a"}', headers=(), **query):
    status, headers, _ = ask("POST", f"/upload{objects(bucket)}", told, headers, uploadType="resumable", **query)
    assert status == 200
    key = headers["location"].partition("upload_id=")[2]
    path = headers["location"].partition("?")[0]
    assert path.endswith(f"/upload{objects(bucket)}")

    def send(body, asked, method="PUT", **more):
        named = {"Content-Range": asked} if asked else {}
        status, headers, told = ask(method, f"/upload{objects(bucket)}", body, {**named, **more}, uploadType="resumable", upload_id=key)
        return status, headers.get("range"), told

    return send


def test_a_session_takes_chunks_and_says_what_it_has(ask, bucket):
    body = os.urandom(2 * CHUNK + 10)
    send = session(ask, bucket)
    assert send(b"", "bytes */*")[:2] == (308, None)
    assert send(body[: CHUNK + 100], f"bytes 0-{CHUNK + 99}/*")[:2] == (308, f"bytes=0-{CHUNK - 1}")  # whole units only
    assert send(body[CHUNK + 100 :], f"bytes {CHUNK + 100}-{len(body) - 1}/*")[0] == 503  # leaves a gap
    assert send(b"", "bytes */*")[:2] == (308, f"bytes=0-{CHUNK - 1}")
    assert send(body[: 2 * CHUNK], f"bytes 0-{2 * CHUNK - 1}/{len(body)}")[:2] == (308, f"bytes=0-{2 * CHUNK - 1}")  # half of it again
    assert send(b"", f"bytes */{len(body) + 1}")[0] == 400
    assert bucket.get_blob("a", **ONCE) is None
    status, _, told = send(body[2 * CHUNK :], f"bytes {2 * CHUNK}-{len(body) - 1}/{len(body)}")
    assert (status, json.loads(told)["size"]) == (200, str(len(body)))
    assert send(b"", "bytes */*")[2] == told
    assert bucket.blob("a").download_as_bytes(**ONCE) == body


def test_a_session_refuses_what_does_not_fit(ask, bucket):
    send = session(ask, bucket, ifGenerationMatch=0)
    for asked, chunk in (("bytes 0-4/10", b"four"), ("bytes 0-3/2", b"four"), ("bytes */4", b"four"), ("lines 0-3/4", b"four")):
        assert send(chunk, asked)[0] == 400
    assert send(b"four", "bytes 0-3/4", **{"X-Goog-Hash": "crc32c=AAAAAA=="})[0] == 400
    assert bucket.get_blob("a", **ONCE) is None
    other = session(ask, bucket, ifGenerationMatch=0)
    put(bucket, "a", b"first")
    assert send(b"four", None)[0] == 412
    assert other(b"", None, method="DELETE")[0] == 499
    assert other(b"", "bytes */*")[0] == 404
    assert bucket.blob("a").download_as_bytes(**ONCE) == b"first"


def test_the_client_recovers_an_upload(server, client, bucket, ask):
    body = os.urandom(3 * CHUNK)
    assert ask("POST", "/_fsd/faults", b'{"status": 503, "method": "PUT", "path": "^/upload/"}')[0] == 204
    blob = bucket.blob("a", chunk_size=CHUNK)
    blob.upload_from_file(io.BytesIO(body), size=len(body), if_generation_match=0, timeout=30)  # with the client's own retries
    assert bucket.blob("a").download_as_bytes(**ONCE) == body


# batches


def test_a_batch_answers_each(client, bucket):
    for key in ("a", "b", "c"):
        put(bucket, key)
    with client.batch(raise_exception=False) as batch:
        bucket.delete_blob("a")
        bucket.delete_blob("never")
        bucket.delete_blob("b", if_generation_match=1)
        client.bucket("no-such-bucket").delete_blob("a")
        bucket.blob("c").delete()
    assert [response.status_code for response in batch._responses] == [204, 404, 412, 404, 204]
    assert names(client, bucket) == ["b"]
    with pytest.raises(exceptions.NotFound), client.batch():  # noqa: PT012  # it is sent at the end
        bucket.delete_blob("b")
        bucket.delete_blob("never")
    assert names(client, bucket) == []


def test_a_batch_takes_a_hundred(client, bucket):
    for number in range(100):
        put(bucket, f"{number:03}", b"")
    with pytest.raises(exceptions.BadRequest, match="101"), client.batch():  # noqa: PT012
        for number in range(101):
            bucket.delete_blob(f"{number:03}")
    assert len(names(client, bucket)) == 100
    with client.batch():
        for number in range(100):
            bucket.delete_blob(f"{number:03}")
    assert names(client, bucket) == []


def test_what_a_batch_cannot_hold(bucket, ask):
    put(bucket, "a")

    def batch(*calls):
        parts = "".join(f"--x\r\nContent-Type: application/http\r\n\r\n{call} HTTP/1.1\r\n\r\n\r\n" for call in calls)
        return ask("POST", "/batch/storage/v1", f"{parts}--x--", {"Content-Type": "multipart/mixed; boundary=x"})

    for call in (
        f"GET {objects(bucket, 'a')}?alt=media",
        f"PUT /upload{objects(bucket)}?uploadType=media&name=b",
        "POST /batch/storage/v1",
        "",
    ):
        status, _, body = batch(call)
        assert (status, body.count(b"HTTP/1.1 400 ")) == (200, 1), call
    status, _, body = batch(f"GET {objects(bucket, 'a')}", f"GET {objects(bucket, 'b')}")
    assert (status, body.count(b"HTTP/1.1 200 OK"), body.count(b"HTTP/1.1 404 Not Found")) == (200, 1, 1)
    assert ask("POST", "/batch/storage/v1", b"nothing", {"Content-Type": "multipart/mixed; boundary=x"})[0] == 400
    assert ask("POST", "/batch/storage/v1", b"nothing", {"Content-Type": "text/plain"})[0] == 400


# faults and sizes


@pytest.mark.parametrize(("status", "error"), [(429, exceptions.TooManyRequests), (503, exceptions.ServiceUnavailable)])
def test_faults_are_answered_on_request(bucket, ask, status, error):
    fault = {"status": status, "times": 2, "method": "GET", "path": f"/{bucket.name}/"}
    assert ask("POST", "/_fsd/faults", json.dumps(fault))[0] == 204
    put(bucket, "a")
    for _ in range(2):
        with pytest.raises(error):
            bucket.blob("a").download_as_bytes(**ONCE)
    assert bucket.blob("a").download_as_bytes(**ONCE) == b"x"
    ask("POST", "/_fsd/faults", json.dumps(fault))
    assert ask("DELETE", "/_fsd/faults")[0] == 204
    assert names(bucket.client, bucket) == ["a"]


def test_a_fault_within_a_batch(client, bucket, ask):
    put(bucket, "a")
    put(bucket, "b")
    ask("POST", "/_fsd/faults", json.dumps({"status": 503, "method": "DELETE", "path": f"{bucket.name}/o/a"}))
    with client.batch(raise_exception=False) as batch:
        bucket.delete_blob("a")
        bucket.delete_blob("b")
    assert [response.status_code for response in batch._responses] == [503, 204]
    assert names(client, bucket) == ["a"]


def test_sizes_are_refused_before_they_are_read(tmp_path):
    class Small(CloudStorage):
        def command(self):
            return [*super().command(), "--object-mb", "1"]

    small = Small(tmp_path)
    small.start()
    try:
        bucket = storage.Client(project="mine", client_options={"api_endpoint": small.url}, use_auth_w_custom_endpoint=False)
        bucket = bucket.create_bucket("small-one", **ONCE)
        connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=30)
        connection.putrequest("POST", f"/upload{objects(bucket)}?uploadType=media&name=a")
        connection.putheader("Content-Length", str(1 << 50))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
        put(bucket, "a", bytes(1 << 20))
        with pytest.raises(exceptions.GoogleAPICallError, match="413"):
            put(bucket, "b", bytes((1 << 20) + 1))
        blob = bucket.blob("b", chunk_size=CHUNK)
        with pytest.raises((exceptions.GoogleAPICallError, InvalidResponse), match="413"):
            blob.upload_from_file(io.BytesIO(bytes((1 << 20) + 1)), **ONCE)
        with pytest.raises((exceptions.GoogleAPICallError, InvalidResponse), match="413"):
            blob.upload_from_file(io.BytesIO(bytes(2 << 20)), size=None, **ONCE)
        assert names(bucket.client, bucket) == ["a"]
    finally:
        small.stop()
