"""An app on Google Cloud, made and taken away: against Google's Pub/Sub emulator, our Cloud Storage and our Cloud Run."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fsd_conformance import emulators
from fsd_conformance.emulators.google import Google
from fsd_core.driver import Code, Provisioner, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers import probes
from fsd_core.providers.package import Package, stub, zipped
from fsd_core.storage.keys import AUDIT, PASSING
from fsd_gcp import PROVIDER, RESOURCES, api, function, invoke, names, policy, queues
from fsd_gcp.names import Names
from fsd_gcp.policy import Grant
from gcp_calls import recorded
from gcp_server import Rest
from provision_cases import Cloud, ProvisionCases

pytestmark = pytest.mark.emulator
PROJECT, REGION = "fsd-emulator", "us-central1"


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("gcp")):
        yield


@pytest.fixture
def gcp() -> Iterator[Rest]:
    with Rest(PROJECT, REGION) as requests:
        requests.within(120)
        yield requests


def provisioner(**settings: object) -> Provisioner:
    return GCP.provisioner(**settings)


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


def bindings(gcp: Rest, grants: list[Grant]) -> set[tuple[str, str, str]]:
    """Of the resources that ``grants`` name: resource, role, member."""
    found = set()
    for resource in {(each.service, each.resource) for each in grants}:
        service, path = resource
        asked = ("GET", f"{path}/iam") if service == "storage" else ("POST" if service == "iam" else "GET", f"{path}:getIamPolicy")
        for each in gcp.call(service, *asked).get("bindings", ()):
            found |= {(path, each["role"], member) for member in each["members"]}
    return found


def with_api(remove: Callable[[Rest, Resources], object]) -> Callable[[Resources], None]:
    """``remove`` as what removes a part of an app."""

    def removes(made: Resources) -> None:
        with Rest(PROJECT, REGION) as requests:
            requests.within(120)
            remove(requests, made)

    return removes


def lose(kept: Resources) -> list[str]:
    lost = Names(kept.app, PROJECT, "0123abcd")
    make = with_api(lambda requests, made: queues.make(requests, lost, [(0, 0)], 10, f"serviceAccount:{made.names['service_account']}"))
    make(kept)
    return [f"subscription {lost.queue(0, 0)}", f"topic {lost.queue(0, 0)}"]


def fits(made: Resources) -> bool:
    return 6 <= len(made.names["service_account"].partition("@")[0]) <= 30 and len(made.names["bucket"]) <= 63


GCP = Cloud(
    provider=PROVIDER,
    settings={"package": False},
    there=there,
    whole=Counter(topic=2, subscription=2, function=1, account=1, bucket=1),
    lines={"function": 1, "topic": 2, "subscription": 2, "bucket": 1, "service account": 1},
    recorded=recorded,
    look=lambda call, made: (call.method, call.path.rpartition("/")[2]) == ("GET", made.names["function"]),
    makes_queue=lambda call: call.method == "Topic",
    parts={
        "function": with_api(lambda requests, made: function.remove(requests, made.app)),
        "bucket": with_api(lambda requests, made: requests.delete("storage", f"storage/v1/b/{made.names['bucket']}")),
        "account": with_api(lambda requests, made: function.remove_account(requests, made.app)),
        "queues": with_api(lambda requests, made: queues.remove(requests, made.app)),
    },
    lose=lose,
    endpoint=api.ENDPOINT,
    fits=fits,
    idle=lambda patch: patch.setattr(function, "ENTRY", "nothing_of_that_name"),
    idle_says="building function fsd-{app}: .*",
    died="the function ended: 503",
)


class TestShared(ProvisionCases):
    cloud = GCP


@pytest.fixture
def app() -> Iterator[str]:
    yield from GCP.app()


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
    assert [(rule["action"]["type"], rule["condition"]) for rule in bucket["lifecycle"]["rule"]] == [
        ("Delete", {"age": 7, "matchesPrefix": list(PASSING)}),
        ("Delete", {"age": 365, "matchesPrefix": [AUDIT]}),
        ("AbortIncompleteMultipartUpload", {"age": 1}),
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


def test_a_changed_setting_is_applied(app: str, gcp: Rest) -> None:
    before = provisioner(concurrency=5).ensure(app, 1, 1)
    after = provisioner(memory_mb=8192, lease_s=30).ensure(app, 1, 1)
    assert {**before.names, "memory_mb": "8192", "lease_s": "30", "concurrency": "100"} == after.names
    path = f"v2/projects/{PROJECT}/locations/{REGION}/functions/{after.names['function']}"
    service = gcp.call("cloudfunctions", "GET", path)["serviceConfig"]
    assert (service["availableMemory"], service["availableCpu"], service["maxInstanceCount"]) == ("8192Mi", "2", 100)
    assert gcp.call("pubsub", "GET", f"v1/{Names.of(after).subscription(0, 0)}")["ackDeadlineSeconds"] == 30
    assert provisioner(memory_mb=8192, lease_s=30).find(app) == after
    with pytest.raises(InputError, match=r"\[gcp\] bucket: .* not another-one.*or destroy the app first"):
        provisioner(bucket="another-one").ensure(app, 1, 1)


def test_a_build_that_failed_is_told_and_tried_again(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("fsd_core.providers.provisioning.stub", lambda _: Package("installed", zipped({"other.py": b""}), 0))
        with pytest.raises(DriverError, match=rf"building function fsd-{app}: Build failed: .*missing main\.py"):
            provisioner().ensure(app, 1, 1)
    assert provisioner().find(app) is None
    assert provisioner().ensure(app, 1, 1) == provisioner().find(app)


def test_roles_that_others_gave_stay(app: str, gcp: Rest) -> None:
    made = provisioner().ensure(app, 1, 1)
    mate = policy.client(made.names, "user:mate@example.org")
    theirs = [each for each in mate if each.service in ("storage", "iam")]
    gcp.grant(theirs)
    provisioner(concurrency=9).ensure(app, 1, 1)
    assert {(each.resource, each.role, each.member) for each in theirs} <= bindings(gcp, theirs)


def test_labels_that_others_gave_a_bucket_stay(app: str, gcp: Rest) -> None:
    provisioner().ensure(app, 1, 1)
    bucket = gcp.storage.get_bucket(names.bucket(app, PROJECT), retry=None)
    bucket.labels = {**bucket.labels, "team": "research"}
    bucket.patch(retry=None)
    provisioner(concurrency=9).ensure(app, 1, 1)
    assert gcp.storage.get_bucket(bucket.name, retry=None).labels == {policy.APP_LABEL: app, "team": "research"}


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
    with pytest.raises(InputError, match=rf"bucket {elsewhere}: is in eu: expected one in us-central1"):
        provisioner(bucket=elsewhere).ensure(app, 1, 1)
    provisioner().destroy(app)

    gcp.call("iam", "POST", f"v1/projects/{PROJECT}/serviceAccounts", {"accountId": names.service_account(app)})
    with pytest.raises(InputError, match=r"an account .* exists that fsd did not make"):
        provisioner().ensure(app, 1, 1)
    provisioner().destroy(app)
    assert there(app) == Counter(account=1)
    gcp.delete("iam", f"v1/projects/{PROJECT}/serviceAccounts/{function.account(gcp, app)}")

    made = provisioner().ensure(f"{app}-2", 1, 1)
    foreign = Resources("another", 0, 0, dict(made.names))
    function.update(gcp, foreign, stub("gcp"))  # its environment names another app
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match=f"a function fsd-{app}-2 exists that fsd did not make"):
            call(f"{app}-2")
    function.update(gcp, made, stub("gcp"))
    provisioner().destroy(f"{app}-2")


def test_a_function_without_its_roles_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_READY_S", 3.0)
    real = policy.client
    monkeypatch.setattr(policy, "client", lambda *given: [each for each in real(*given) if each.service != "run"])
    monkeypatch.setattr(invoke.IdTokens, "_fetch", lambda _: _token("nobody"))
    with pytest.raises(DriverError, match=rf"started and failed \(denied\): Cloud Logging of service fsd-{app} shows why"):
        provisioner().ensure(app, 1, 1)


def test_a_queue_that_does_not_deliver_is_no_deployment(app: str, gcp: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    real = queues.make

    def to_nowhere(requests: Any, own: Names, pairs: Any, *more: Any) -> None:
        real(requests, own, pairs, *more)
        for pair in pairs:
            gcp.delete("pubsub", f"v1/{own.subscription(*pair)}")
            elsewhere = own.topic(9, 9)
            gcp.make("pubsub", "PUT", f"v1/{elsewhere}", {})
            gcp.call("pubsub", "PUT", f"v1/{own.subscription(*pair)}", {"topic": elsewhere})
        requests.within(3.0)

    monkeypatch.setattr(queues, "make", to_nowhere)
    with pytest.raises(DriverError, match="slot 0, ranks 0, 1: a message to each queue: took longer"):
        provisioner().ensure(app, 2, 1)


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
                f"project fsd-emulator: APIs are off: expected them on: run 'gcloud services enable {off} --project fsd-emulator', "
                "and wait a minute"
            )


def _token(email: str, exp: float | None = None) -> str:
    claims = {"email": email, "exp": int(exp or time.time() + 3600), "aud": "x"}
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{part}.c2ln"
