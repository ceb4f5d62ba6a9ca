"""What Google's errors mean, the advice that users get about them; and whose credentials a request carries."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.auth import exceptions as auth
from requests import exceptions as http
from urllib3.exceptions import ProtocolError

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import Code, Refused, Resources
from fsd_gcp import PROVIDER, clients
from fsd_gcp.errors import Answered, advice, classify
from gcp_server import env

NO_QUOTA_PROJECT = {  # 403, as Google's services answer a person whose login names no project
    "code": 403,
    "message": "Your application is authenticating by using local Application Default Credentials. The cloudfunctions.googleapis.com API "
    "requires a quota project, which is not set by default. To learn how to set your quota project, see "
    "https://cloud.google.com/docs/authentication/adc-troubleshooting/user-creds .",
    "status": "PERMISSION_DENIED",
    "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "googleapis.com"}],
}
PUBSUB_OFF = (
    "Cloud Pub/Sub API has not been used in project 123 before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/pubsub.googleapis.com/overview?project=123 then retry."
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refused(Code.TOO_LARGE, "x"), Code.TOO_LARGE),
        (Answered("RESOURCE_EXHAUSTED", "x"), Code.THROTTLED),
        (Answered("DEADLINE_EXCEEDED", "x"), Code.UNAVAILABLE),
        (Answered("ABORTED", "x", 409), Code.UNAVAILABLE),
        (Answered("ALREADY_EXISTS", "x", 409), Code.ALREADY_EXISTS),
        (Answered("SOMETHING_NEW", "x", 503), Code.UNAVAILABLE),
        (Answered("SOMETHING_NEW", "x", 404), Code.NOT_FOUND),
        (Answered("SOMETHING_NEW", "x"), Code.UNKNOWN),
        (auth.DefaultCredentialsError("x"), Code.DENIED),
        (auth.RefreshError("invalid_grant"), Code.DENIED),
        (auth.RefreshError("x", retryable=True), Code.UNAVAILABLE),
        (auth.TransportError("x"), Code.UNAVAILABLE),
        (http.ConnectionError("x"), Code.UNAVAILABLE),
        (http.ReadTimeout("x"), Code.UNAVAILABLE),
        (http.ChunkedEncodingError("x"), Code.UNAVAILABLE),
        (ProtocolError("x"), Code.UNAVAILABLE),
        (http.InvalidURL("x"), Code.INVALID),
        (ConnectionResetError(), Code.UNAVAILABLE),
        (ValueError("x"), Code.UNKNOWN),
        (KeyError("x"), Code.UNKNOWN),
    ],
)
def test_codes(error: Exception, expected: Code) -> None:
    assert classify(error) is expected


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        (b'{"error": {"code": 403, "message": "a\\n b", "status": "PERMISSION_DENIED"}}', "403 PERMISSION_DENIED: a b", Code.DENIED),
        (b'{"error": {"code": 403, "message": "m", "errors": [{"reason": "quotaExceeded"}]}}', "403 quotaExceeded: m", Code.THROTTLED),
        (
            b'{"error": {"status": "PERMISSION_DENIED", "message": "m", "details": [{"reason": "SERVICE_DISABLED"}, 3]}}',
            "403 PERMISSION_DENIED: m (SERVICE_DISABLED)",
            Code.DENIED,
        ),
        (b'{"error": "invalid_grant"}', '403: {"error": "invalid_grant"}', Code.DENIED),
        (b'{"error": {"errors": [{}]}}', '403: {"error": {"errors": [{}]}}', Code.DENIED),
        (b"[1]", "403: [1]", Code.DENIED),
        (b"\xff\n<html>", "403: \ufffd <html>", Code.DENIED),
        (b"", "403: ", Code.DENIED),
    ],
)
def test_answers_of_http_are_one_line(body: bytes, text: str, code: Code) -> None:
    answered = Answered.http(403, body)
    assert str(answered) == text
    assert classify(answered) is code


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (auth.DefaultCredentialsError("Your default credentials were not found."), "gcloud auth application-default login"),
        (auth.RefreshError("invalid_grant: Token has been expired or revoked."), "expired, or were revoked"),
        (auth.RefreshError("invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes)"), "clock"),
        (Answered("PERMISSION_DENIED", PUBSUB_OFF), "gcloud services enable pubsub.googleapis.com'"),
        (Answered("accessNotConfigured", "off", 403), "gcloud services enable pubsub.googleapis.com storage.googleapis.com"),
        (f"DENIED: rank 3: publish to rank 2: Answered: PERMISSION_DENIED: {PUBSUB_OFF}", "services enable pubsub"),
        (
            Answered.http(403, json.dumps({"error": NO_QUOTA_PROJECT}).encode()),
            "gcloud auth application-default set-quota-project",
        ),
        (Answered("NOT_FOUND", "Requested project not found or user does not have access to it (project=p)."), "gcloud projects list"),
        (Answered("UserProjectAccountProblem", "The project to be billed is associated with an absent billing account.", 403), "billing"),
        (Answered("NOT_FOUND", "Resource not found (resource=fsd-a-0-0)."), "fsd deploy --provider gcp"),
        (Answered("notFound", "The specified bucket does not exist.", 404), "fsd deploy --provider gcp"),
        (Answered("PERMISSION_DENIED", "User not authorized to perform this action."), "permission"),
        (Answered("forbidden", "x@y does not have storage.objects.get access to the object.", 403), "permission"),
        (Answered("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric"), "quota"),
        (Answered("FAILED_PRECONDITION", "projects/p/keyRings/r/cryptoKeys/k is not enabled, current state is: DISABLED."), "kms_key"),
        (Answered("PERMISSION_DENIED", "it has not been used in project 1: visit cloudkms.googleapis.com"), "services enable cloudkms"),
        (Answered("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN"), "cannot be reached"),
        (http.ConnectionError("Max retries exceeded with url: / (Caused by NewConnectionError('x'))"), "cannot be reached"),
    ],
)
def test_what_people_are_told(error: Exception | str, says: str) -> None:
    told = PROVIDER.advice(error)
    assert told is not None
    assert says in told
    assert "\n" not in told


@pytest.mark.parametrize("text", ["", "DEADLINE: rank 3, layer 4: nothing came", "Answered: 404 notFound: No such object: b/runs/x"])
def test_nothing_is_said_where_nothing_can_be_done(text: str) -> None:
    assert advice(text) is None


@contextmanager
def metadata() -> Iterator[tuple[str, list[str]]]:
    """A metadata server of Google's, whose tokens last an hour, and the paths that were asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            token = json.dumps({"access_token": f"token-{asked.count(self.path.partition('?')[0])}", "expires_in": 3600})
            content = (token if "token" in self.path else json.dumps({"email": "a@b", "scopes": [], "aliases": ["default"]})).encode()
            self.send_response(200)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_one_token_for_all_threads() -> None:
    with metadata() as (address, asked), pointed(env(GCE_METADATA_HOST=address, GCE_METADATA_IP=address), POINTERS["gcp"]):
        sign = clients.signer()
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda _: sign("https://storage.googleapis.com/x")["authorization"], range(32)))
        assert set(found) == {"Bearer token-1"}
        assert clients.signer()("https://pubsub.googleapis.com/")["authorization"] == "Bearer token-1"
        assert len([path for path in asked if path.endswith("/token")]) == 1


def test_no_credentials(tmp_path: object) -> None:
    nowhere = env(GCE_METADATA_HOST="127.0.0.1:9", GCE_METADATA_IP="127.0.0.1:9", NO_GCE_CHECK="true", CLOUDSDK_CONFIG=str(tmp_path))
    here = Resources("a", 1, 1, {"project": "p", "generation": "0" * 8, "lease_s": "10", "bucket": "b"})
    with pointed(nowhere, POINTERS["gcp"]):
        queues, store = PROVIDER.messages(here, 0), PROVIDER.objects(here)
        for driver, request in ((queues, lambda: queues.receive(0, 1, 0)), (store, lambda: store.get("k"))):
            with pytest.raises(auth.DefaultCredentialsError) as caught:
                request()
            assert driver.classify(caught.value) is Code.DENIED
            assert "gcloud auth application-default login" in str(PROVIDER.advice(caught.value))
        queues.close()
        store.close()


@pytest.mark.parametrize(
    ("variables", "url", "proxied"),
    [
        ({"https_proxy": "http://127.0.0.1:3128"}, "https://storage.googleapis.com", True),
        ({"https_proxy": "http://127.0.0.1:3128", "no_proxy": "googleapis.com"}, "https://storage.googleapis.com", False),
        ({"http_proxy": "http://127.0.0.1:3128", "no_proxy": "127.0.0.1"}, "http://127.0.0.1:4443", False),
        ({}, "https://storage.googleapis.com", False),
    ],
)
def test_proxies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, proxied: bool) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with clients.Session(url, signed=False) as made:
        assert bool(made.proxies["https"]) == proxied
        adapter = made.get_adapter(url)
        assert adapter._pool_maxsize >= 16
        assert adapter.max_retries.total == 0
