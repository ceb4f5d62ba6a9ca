"""An app on Google Cloud, made and taken away: against Google's Pub/Sub emulator, our Cloud Storage and our Cloud Run."""

from __future__ import annotations

import base64
import http.server
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fsd_conformance import emulators
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.google import Google
from fsd_core.driver import WORKER, Code, Message, Provisioner, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers import probes, requests
from fsd_core.providers.package import Package, zipped
from fsd_gcp import PROVIDER, api, function, invoke, names, package, policy, queues
from fsd_gcp.api import Api
from fsd_gcp.errors import Answered
from fsd_gcp.names import Names
from fsd_gcp.policy import Grant
from fsd_gcp.settings import Settings, parse
from fsd_gcp.variables import RESOURCES
from gcp_calls import recorded
from gcp_server import Rest

pytestmark = pytest.mark.emulator
PROJECT, REGION = "fsd-emulator", "us-central1"
SETTINGS: Mapping[str, object] = {"package": False}
CLEARS = Google.clears


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("gcp")):
        yield


@pytest.fixture
def app() -> Iterator[str]:
    name = f"p{secrets.token_hex(4)}"
    yield name
    provisioner().destroy(name)


@pytest.fixture
def gcp() -> Iterator[Rest]:
    with Rest(PROJECT, REGION) as requests:
        requests.within(120)
        yield requests


def provisioner(**settings: object) -> Provisioner:
    return PROVIDER.provisioner({**SETTINGS, **settings})


def there(app: str) -> Counter[str]:
    """How much of an app is there, by kind."""
    with Rest(PROJECT, REGION) as requests:

        def own(service: str, path: str, items: str, key: str = "name") -> int:
            return sum(f"fsd-{app}-" in f"{each[key]}-" for each in requests.pages(service, path, items))

        buckets = requests.call("storage", "GET", "storage/v1/b", project=PROJECT).get("items", ())
        return +Counter(
            topic=own("pubsub", f"v1/projects/{PROJECT}/topics", "topics"),
            subscription=own("pubsub", f"v1/projects/{PROJECT}/subscriptions", "subscriptions"),
            function=own("cloudfunctions", f"v2/projects/{PROJECT}/locations/{REGION}/functions", "functions"),
            account=own("iam", f"v1/projects/{PROJECT}/serviceAccounts", "accounts"),
            bucket=sum(f"fsd-{app}-" in each["name"] for each in buckets),
        )


ALL_OF_2_BY_1 = Counter(topic=2, subscription=2, function=1, account=1, bucket=1)


def bindings(gcp: Rest, grants: list[Grant]) -> set[tuple[str, str, str]]:
    """Of the resources that ``grants`` name: resource, role, member."""
    found = set()
    for resource in {(each.service, each.resource) for each in grants}:
        service, path = resource
        asked = ("GET", f"{path}/iam") if service == "storage" else ("POST" if service == "iam" else "GET", f"{path}:getIamPolicy")
        for each in gcp.call(service, *asked).get("bindings", ()):
            found |= {(path, each["role"], member) for member in each["members"]}
    return found


def test_what_is_made_and_how(app: str, gcp: Rest) -> None:
    made = provisioner(memory_mb=1024, timeout_s=60, concurrency=7, lease_s=20).ensure(app, 2, 2)
    own, told = Names.of(made), made.names
    assert there(app) == Counter(topic=4, subscription=4, function=1, account=1, bucket=1)
    assert all(isinstance(value, str) for value in told.values())

    label = {"fsd-app": app}
    for topic, subscription in own.queues(2, 2):
        assert gcp.call("pubsub", "GET", f"v1/{topic}")["labels"] == label
        found = gcp.call("pubsub", "GET", f"v1/{subscription}")
        assert (found["topic"], found["ackDeadlineSeconds"], found["messageRetentionDuration"]) == (topic, 20, "3600s")
        assert found["expirationPolicy"] == {}  # never
        assert found["labels"] == label
        assert not {"filter", "enableMessageOrdering", "deadLetterPolicy"} & found.keys()

    bucket = gcp.call("storage", "GET", f"storage/v1/b/{told['bucket']}")
    assert bucket["labels"] == label
    assert bucket["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert bucket["softDeletePolicy"]["retentionDurationSeconds"] == "0"
    assert [(rule["action"]["type"], rule["condition"]["age"]) for rule in bucket["lifecycle"]["rule"]] == [
        ("Delete", 7),
        ("AbortIncompleteMultipartUpload", 1),
    ]

    found = gcp.call("cloudfunctions", "GET", f"v2/projects/{PROJECT}/locations/{REGION}/functions/{told['function']}")
    service = found["serviceConfig"]
    assert (service["availableMemory"], service["availableCpu"], service["timeoutSeconds"]) == ("1024Mi", "1", 60)
    assert (service["maxInstanceCount"], service["maxInstanceRequestConcurrency"]) == (7, 1)
    assert service["serviceAccountEmail"] == told["service_account"]
    assert service["uri"] == told["url"]
    assert json.loads(service["environmentVariables"][RESOURCES]) == {"app": app, "ranks": 2, "slots": 2, "names": dict(told)}
    assert found["labels"] == label
    assert (found["buildConfig"]["runtime"], found["buildConfig"]["entryPoint"]) == ("python312", "handle")

    me = "serviceAccount:owner@fsd-emulator.iam.gserviceaccount.com"
    wanted = [*policy.worker(told), *policy.account(told, me), *(each for each in policy.client(told, me) if each.service == "run")]
    assert bindings(gcp, wanted) == {(each.resource, each.role, each.member) for each in wanted}

    assert PROVIDER.objects(made).list("").keys == []  # nothing of the probes is left, nor the function's source
    assert PROVIDER.messages(made, 0).receive(0, 10, 0) == []
    limits = PROVIDER.invoker(made).limits
    assert (limits.concurrency, limits.memory_bytes, limits.timeout_s, limits.failures) == (7, 1024 << 20, 60, "launcher")


def test_what_is_there_costs_one_request(app: str) -> None:
    first = provisioner().ensure(app, 2, 1)
    with recorded() as calls:
        assert provisioner().ensure(app, 2, 1) == first
        assert provisioner().ensure(app, 1, 1) == first
        assert provisioner().find(app) == first
    assert [(call.method, call.path.rpartition("/")[2]) for call in calls] == 3 * [("GET", f"fsd-{app}")]


def test_growing_keeps_what_is_there(app: str) -> None:
    small = provisioner().ensure(app, 1, 1)
    PROVIDER.messages(small, 0).publish([Message(0, b"kept")])
    with recorded() as calls:
        large = provisioner().ensure(app, 2, 2)
    assert (large.ranks, large.slots) == (2, 2)
    assert large.names == small.names
    assert sum(call.method == "Topic" for call in calls) == 3
    assert not [call for call in calls if call.method.upper().startswith("DELETE") and "/o/" not in call.path]
    assert [each.body for each in PROVIDER.messages(large, 0).receive(0, 10, 5)] == [b"kept"]
    assert provisioner().ensure(app, 1, 1) == large


def test_a_changed_setting_is_applied(app: str, gcp: Rest) -> None:
    before = provisioner(concurrency=5).ensure(app, 1, 1)
    after = provisioner(memory_mb=8192, lease_s=30).ensure(app, 1, 1)
    assert {**before.names, "memory_mb": "8192", "lease_s": "30", "concurrency": "100"} == after.names
    path = f"v2/projects/{PROJECT}/locations/{REGION}/functions/{after.names['function']}"
    service = gcp.call("cloudfunctions", "GET", path)["serviceConfig"]
    assert (service["availableMemory"], service["availableCpu"], service["maxInstanceCount"]) == ("8192Mi", "2", 100)
    assert gcp.call("pubsub", "GET", f"v1/{Names.of(after).subscription(0, 0)}")["ackDeadlineSeconds"] == 30
    assert provisioner(memory_mb=8192, lease_s=30).find(app) == after
    with pytest.raises(InputError, match=r"\[gcp\] bucket = 'another-one'.*destroy it first"):
        provisioner(bucket="another-one").ensure(app, 1, 1)


def test_destroy_leaves_nothing(app: str) -> None:
    made = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1
    objects = PROVIDER.objects(made)
    for number in range(3):
        objects.put(f"left/{number}", b"x")
    lines = provisioner().destroy(app)
    assert Counter(line.rpartition(" ")[0] for line in lines) == {
        "function": 1, "topic": 2, "subscription": 2, "bucket": 1, "service account": 1,
    }  # fmt: skip
    assert there(app) == Counter()
    assert provisioner().destroy(app) == []
    assert provisioner().find(app) is None
    anew = provisioner().ensure(app, 2, 1)
    assert anew.names["generation"] != made.names["generation"]
    assert PROVIDER.objects(anew).list("").keys == []


@pytest.mark.parametrize("gone", ["function", "bucket", "account", "queues"])
def test_destroy_of_what_is_half_gone(app: str, gcp: Rest, gone: str) -> None:
    made = provisioner().ensure(app, 2, 1)
    if gone == "function":
        function.remove(gcp, app)
    elif gone == "bucket":
        gcp.delete("storage", f"storage/v1/b/{made.names['bucket']}")
    elif gone == "account":
        function.remove_account(gcp, app)
    else:
        queues.remove(gcp, app)
    assert provisioner().destroy(app)
    assert there(app) == Counter()


def test_apps_whose_names_begin_alike(app: str) -> None:
    longer = f"{app}-b"
    provisioner().ensure(app, 1, 1)
    provisioner().ensure(longer, 2, 1)
    provisioner().destroy(app)
    assert there(longer) == ALL_OF_2_BY_1
    provisioner().destroy(longer)
    assert there(longer) == Counter()


def test_a_long_name_and_a_short_one() -> None:
    for app in ("x", "p" + secrets.token_hex(19) + "z"):
        try:
            made = provisioner().ensure(app, 1, 1)
            account = made.names["service_account"].partition("@")[0]
            assert 6 <= len(account) <= 30
            assert len(made.names["bucket"]) <= 63
        finally:
            provisioner().destroy(app)
            assert there(app) == Counter()


def test_one_that_was_cut_short_is_taken_up(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fsd_gcp.provision.probe_queues", cut)
        with pytest.raises(KeyboardInterrupt):
            provisioner().ensure(app, 2, 1)
    assert provisioner().find(app) is None
    assert there(app) == ALL_OF_2_BY_1
    made = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1  # of one generation
    assert provisioner().find(app) == made


def test_a_build_that_failed_is_told_and_tried_again(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(package, "stub", lambda: Package("installed", zipped({"other.py": b""}), 0))
        with pytest.raises(DriverError, match=rf"building function fsd-{app}: Build failed: .*missing main\.py"):
            provisioner().ensure(app, 1, 1)
    assert provisioner().find(app) is None
    assert provisioner().ensure(app, 1, 1) == provisioner().find(app)


def test_a_destroy_that_was_cut_short_is_finished(app: str, gcp: Rest) -> None:
    first = provisioner().ensure(app, 2, 1)
    function.remove(gcp, app)
    assert provisioner().find(app) is None
    second = provisioner().ensure(app, 2, 1)
    assert second.names["generation"] != first.names["generation"]
    assert there(app) == ALL_OF_2_BY_1


def test_a_sweep_finds_what_nobody_will_take_up(app: str, gcp: Rest) -> None:
    kept = provisioner().ensure(app, 2, 1)
    lost = Names(app, PROJECT, "0123abcd")
    queues.make(gcp, lost, [(0, 0)], 10, f"serviceAccount:{kept.names['service_account']}")
    assert provisioner().sweep(app) == [f"subscription {lost.queue(0, 0)}", f"topic {lost.queue(0, 0)}"]
    assert there(app) == ALL_OF_2_BY_1
    assert provisioner().find(app) == kept


def test_two_at_once_make_one(app: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: provisioner().ensure(app, 2, 1), range(2))
    assert first == second == provisioner().find(app)
    assert there(app) == ALL_OF_2_BY_1


def test_roles_that_others_gave_stay(app: str, gcp: Rest) -> None:
    made = provisioner().ensure(app, 1, 1)
    mate = policy.client(made.names, "user:mate@example.org")
    theirs = [each for each in mate if each.service in ("storage", "iam")]
    gcp.grant(theirs)
    provisioner(concurrency=9).ensure(app, 1, 1)
    assert {(each.resource, each.role, each.member) for each in theirs} <= bindings(gcp, theirs)


def test_conditional_roles_that_others_gave_stay(app: str, gcp: Rest) -> None:
    made = provisioner().ensure(app, 1, 1)
    mate, other = (policy.client(made.names, f"serviceAccount:{who}@elsewhere.iam.gserviceaccount.com") for who in ("mate", "other"))
    mates = [each for each in mate if each.service in ("storage", "iam", "run")]
    condition = {"title": "until 2030", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"}
    assert {each.service for each in mates} >= {"storage", "run"}
    for each in mates:
        bucket = each.service == "storage"
        where = f"{each.resource}/iam" if bucket else f"{each.resource}:setIamPolicy"
        new = {"version": 3, "bindings": [{"role": each.role, "members": [each.member], "condition": condition}]}
        gcp.call(each.service, "PUT" if bucket else "POST", where, new if bucket else {"policy": new})
    gcp.grant([each for each in other if each.service in ("storage", "iam", "run")])
    provisioner(concurrency=9).ensure(app, 1, 1)
    for each in mates:
        found = gcp.policy(each.service, each.resource)
        assert [one["members"] for one in found["bindings"] if one.get("condition") == condition] == [[each.member]]
        plain = [one["members"] for one in found["bindings"] if one["role"] == each.role and "condition" not in one]
        assert each.member.replace("mate@", "other@") in plain[0]
        assert each.member not in plain[0]


def test_an_account_of_ones_own_stays(app: str, gcp: Rest) -> None:
    own = f"own-{app}"
    email = gcp.call("iam", "POST", f"v1/projects/{PROJECT}/serviceAccounts", {"accountId": own})["email"]
    made = provisioner(service_account=email).ensure(app, 1, 1)
    assert made.names["service_account"] == email
    assert there(app)["account"] == 0
    provisioner(service_account=email).destroy(app)
    assert gcp.delete("iam", f"v1/projects/{PROJECT}/serviceAccounts/{email}") is not None


def test_what_is_somebody_elses_is_refused_and_stays(app: str, gcp: Rest) -> None:
    thesis = f"thesis-{app}"
    gcp.call("storage", "POST", "storage/v1/b", {"name": thesis, "location": REGION}, project=PROJECT)
    gcp.storage.bucket(thesis).blob("chapter1").upload_from_string(b"dear", retry=None)
    with pytest.raises(InputError, match=f"bucket {thesis}: holds something"):
        provisioner(bucket=thesis).ensure(app, 1, 1)
    provisioner(bucket=thesis).destroy(app)
    assert gcp.find("storage", f"storage/v1/b/{thesis}/o/chapter1")

    elsewhere = f"far-{app}"
    gcp.call("storage", "POST", "storage/v1/b", {"name": elsewhere, "location": "EU"}, project=PROJECT)
    with pytest.raises(InputError, match=rf"bucket {elsewhere}: is in eu, \[gcp\] region is us-central1"):
        provisioner(bucket=elsewhere).ensure(app, 1, 1)
    provisioner().destroy(app)

    gcp.call("iam", "POST", f"v1/projects/{PROJECT}/serviceAccounts", {"accountId": names.service_account(app)})
    with pytest.raises(InputError, match=r"an account .* is there that fsd did not make"):
        provisioner().ensure(app, 1, 1)
    provisioner().destroy(app)
    assert there(app) == Counter(account=1)
    gcp.delete("iam", f"v1/projects/{PROJECT}/serviceAccounts/{function.account(gcp, app)}")

    made = provisioner().ensure(f"{app}-2", 1, 1)
    foreign = Resources("another", 0, 0, dict(made.names))
    function.update(gcp, foreign, package.stub())  # its environment names another app
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match=f"a function fsd-{app}-2 is there that fsd did not make"):
            call(f"{app}-2")
    function.update(gcp, made, package.stub())
    provisioner().destroy(f"{app}-2")


def test_a_function_that_dies_is_told(app: str) -> None:
    invoker = PROVIDER.invoker(provisioner().ensure(app, 1, 1))
    payload = json.dumps({"app": app, "probe": {"key": "probe/x", "exit": 3}}).encode()
    launch = invoker.invoke(WORKER, payload)
    until = time.monotonic() + 60
    while launch.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert launch.poll() is Code.UNAVAILABLE
    assert invoker.failures(lambda _: False) == []
    (failure,) = invoker.failures(lambda told: json.loads(told)["app"] == app)
    assert (failure.payload, failure.nonce) == (payload, launch.nonce)  # type: ignore[attr-defined]
    assert failure.reason.startswith("the function ended: 503")
    assert invoker.failures(lambda _: True) == []
    invoker.close()


def test_a_function_that_cannot_run_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "ENTRY", "nothing_of_that_name")
    with pytest.raises(DriverError, match=f"building function fsd-{app}: .*"):
        provisioner().ensure(app, 1, 1)
    assert provisioner().find(app) is None


def test_a_function_without_its_roles_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_READY_S", 3.0)
    real = policy.client
    monkeypatch.setattr(policy, "client", lambda *given: [each for each in real(*given) if each.service != "run"])
    monkeypatch.setattr(invoke.IdTokens, "_fetch", lambda _: _token("nobody"))
    with pytest.raises(DriverError, match=rf"did not end well \(denied\): Cloud Logging of service fsd-{app} shows why"):
        provisioner().ensure(app, 1, 1)


def test_a_queue_that_does_not_deliver_is_no_deployment(app: str, gcp: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    real = queues.make

    def to_nowhere(requests: Api, own: Names, pairs: Any, lease_s: int, worker: str) -> None:
        real(requests, own, pairs, lease_s, worker)
        for pair in pairs:
            gcp.delete("pubsub", f"v1/{own.subscription(*pair)}")
            elsewhere = own.topic(9, 9)
            gcp.make("pubsub", "PUT", f"v1/{elsewhere}", {})
            gcp.call("pubsub", "PUT", f"v1/{own.subscription(*pair)}", {"topic": elsewhere})
        requests.within(3.0)

    monkeypatch.setattr(queues, "make", to_nowhere)
    with pytest.raises(DriverError, match="slot 0, ranks 0, 1: a message to each queue: not within"):
        provisioner().ensure(app, 2, 1)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"regoin": "x"}, r"\[gcp\] regoin: unknown key; did you mean region\?"),
        ({"zzz": 1}, r"\[gcp\] zzz: unknown key; known are project, region, bucket"),
        ({"project": "X"}, r"\[gcp\] project = 'X': expected a project's id"),
        ({"region": "Iowa"}, r"\[gcp\] region = 'Iowa': expected a region's name"),
        ({"memory_mb": 128}, r"\[gcp\] memory_mb = 128: expected a whole number from 512 to 32768"),
        ({"memory_mb": True}, r"memory_mb = True"),
        ({"timeout_s": 3601}, r"timeout_s = 3601: expected a whole number of seconds from 1 to 3600"),
        ({"lease_s": 9}, r"lease_s = 9: expected a whole number of seconds from 10 to 600"),
        ({"runtime": "python3.12"}, r"runtime = 'python3.12': expected one of python312"),
        ({"bucket": "My_Bucket"}, r"bucket = 'My_Bucket': expected 3 to 63"),
        ({"service_account": "me@example.org"}, r"service_account = 'me@example.org': expected an address"),
        ({"concurrency": 0}, r"concurrency = 0: expected a whole number from 1 to 1000"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PROVIDER.provisioner(table)


def test_settings_have_defaults_and_take_whole_floats() -> None:
    assert parse({"lease_s": 10.0}) == Settings()
    assert parse({}, {"FSD_GCP_PACKAGE": "0"}).package is False


@pytest.mark.parametrize("app", ["", "Upper", "-x", "x-", "a_b", "x" * 41])
def test_a_wrong_name_is_refused(app: str) -> None:
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match="expected a lower-case letter"):
            call(app)


def test_nothing_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="ranks 0"):
        provisioner().ensure("x", 0, 1)


NOBODY = {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "/nonexistent", "PATH": "/nonexistent"}  # without gcloud, which knows a project


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"GOOGLE_CLOUD_PROJECT": PROJECT}, "no Google Cloud credentials are found: run 'gcloud auth application-default login'"),
        ({}, "no Google Cloud credentials are found"),
        (
            {"GOOGLE_CLOUD_PROJECT": PROJECT, "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/key.json"},
            "File /nonexistent/key.json was not found",
        ),
    ],
)
def test_missing_credentials_say_what_helps(environment: dict[str, str], says: str) -> None:
    with pointed({**NOBODY, **environment}, (*CLEARS, "GCE_", "GOOGLE_")), pytest.raises(InputError, match=says) as raised:
        provisioner().find("x")
    assert "\n" not in str(raised.value)


def test_an_expired_login_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    with _google(lambda path, body: (400, gone)) as url, _person(tmp_path, url, monkeypatch):
        with pytest.raises(DriverError, match="expired, or were revoked: run 'gcloud auth") as raised:
            provisioner().find("x")
        assert raised.value.code is Code.DENIED


def test_a_wrong_project_says_so() -> None:
    with pytest.raises(DriverError, match="nobody-has-this") as raised:
        provisioner(project="nobody-has-this").find("x")
    assert raised.value.code is Code.DENIED


def test_apis_that_are_off_are_named_all_at_once() -> None:
    class Off(Google):
        functions = ("--disabled", "run,cloudfunctions,cloudbuild")

    with emulators.own(Off):
        for call in (lambda: provisioner().find("x"), lambda: provisioner().ensure("x", 1, 1)):
            with pytest.raises(InputError) as raised:
                call()
            off = "cloudbuild.googleapis.com cloudfunctions.googleapis.com run.googleapis.com"
            assert str(raised.value) == (
                f"project fsd-emulator: APIs are off: 'gcloud services enable {off} --project fsd-emulator', wait a minute"
            )


def test_a_service_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_FIRST_S", 0.5)
    monkeypatch.setenv(api.ENDPOINT, "http://127.0.0.1:9")
    with pytest.raises(DriverError, match="cannot be reached") as raised:
        provisioner().find("x")
    assert raised.value.code is Code.UNAVAILABLE


def test_names_are_enough_for_every_driver(app: str) -> None:
    made = provisioner().ensure(app, 1, 1)
    with recorded() as calls:
        for driver in (PROVIDER.messages(made, 0), PROVIDER.objects(made), PROVIDER.invoker(made)):
            driver.close()
    assert not calls
    assert Resources(**json.loads(json.dumps({"app": made.app, "ranks": 1, "slots": 1, "names": dict(made.names)}))) == made


# --- who asks


def _token(email: str, exp: float | None = None) -> str:
    claims = {"email": email, "exp": int(exp or time.time() + 3600), "aud": "x"}
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.c2ln"


@contextmanager
def _google(answer: Any) -> Iterator[str]:
    """Google's servers for tokens and persons: ``answer`` says status and JSON, of a path and a body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, told = answer(self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _person(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block this process is somebody who signed in with gcloud, at a Google that is at ``url``."""
    login = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (folder / "login.json").write_text(json.dumps(login))
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{url}/token")
    monkeypatch.setattr(invoke, "TOKENS", url)
    monkeypatch.setattr(api, "_USERINFO", url)
    own = {"GOOGLE_APPLICATION_CREDENTIALS": str(folder / "login.json"), "NO_GCE_CHECK": "true", "NO_PROXY": "127.0.0.1"}
    with pointed({**own, "GOOGLE_CLOUD_PROJECT": PROJECT, api.ENDPOINT: url}, CLEARS):
        yield


def test_a_person_launches_with_a_token_of_the_apps_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minted: list[object] = []

    def answer(path: str, body: str) -> tuple[int, dict[str, object]]:
        if path == "/token":
            return 200, {"access_token": "person", "expires_in": 3600, "token_type": "Bearer"}
        if path == "/v1/userinfo":
            return 200, {"email": "me@example.org"}
        assert path == "/v1/projects/-/serviceAccounts/fsd-x-run@p.iam.gserviceaccount.com:generateIdToken"
        minted.append(json.loads(body))
        return 200, {"token": _token("app", time.time() + (200 if len(minted) == 1 else 3600))}  # the first is too old to be kept

    with _google(answer) as url, _person(tmp_path, url, monkeypatch):
        tokens = invoke.IdTokens("https://service", "fsd-x-run@p.iam.gserviceaccount.com")
        first = tokens.headers()
        second = tokens.headers()
        assert tokens.headers() == second
        assert first != second
        with Api(PROJECT, REGION) as requests:
            assert requests.member() == "user:me@example.org"
    assert minted == 2 * [{"audience": "https://service", "includeEmail": True}]


def test_a_person_without_the_role_hears_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Permission 'iam.serviceAccounts.getOpenIdToken' denied on resource (or it may not exist)."

    def answer(path: str, body: str) -> tuple[int, dict[str, object]]:
        if path == "/token":
            return 200, {"access_token": "person", "expires_in": 3600, "token_type": "Bearer"}
        return 403, {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": said}}

    with _google(answer) as url, _person(tmp_path, url, monkeypatch):
        invoker = invoke.GcpInvoker(Resources("x", 1, 1, {**NAMES, "url": f"{url}/run"}))
        with pytest.raises(Answered) as raised:
            invoker.invoke(WORKER, b"{}")
        invoker.close()
    assert invoker.classify(raised.value) is Code.DENIED
    assert "roles/iam.serviceAccountOpenIdTokenCreator" in str(PROVIDER.advice(raised.value))


NAMES = {"service_account": "a@p.iam.gserviceaccount.com", "concurrency": "1", "memory_mb": "512", "timeout_s": "60"}


def test_no_room_is_throttled_whatever_the_status() -> None:
    assert invoke._code_of(500, "The request was aborted because there was no available instance.") is Code.THROTTLED
    assert invoke._code_of(429, "Rate exceeded.") is Code.THROTTLED
    assert invoke._code_of(500, "boom") is Code.UNAVAILABLE
    assert invoke._code_of(200, "{}") is None
