"""What a deployment asks of Google Cloud, and what our stand-ins answer, against the discovery documents that the vendor publishes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import unquote

import pytest

from fsd_conformance import emulators
from fsd_conformance.emulators import cloud_run_api, cloud_storage_claims
from fsd_core.errors import DriverError
from fsd_gcp import PROVIDER
from fsd_gcp.errors import Answered
from gcp_server import Rest
from schemas import Api, Exchange, google, problems, recording, wheels
from schemas.planting import Mistake, answer, body, first, status, target

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
APP, PROJECT, REGION = "schemas", "fsd-emulator", "us-central1"
# Of Cloud Storage: what its document does not describe, and updates for which it wants the ACL that uniform access does without.
UNDESCRIBED = {("PUT", "resume"), ("DELETE", "cancel"), ("POST", "batch"), ("PUT", "update_bucket"), ("PUT", "update")}


@pytest.fixture(scope="module")
def apis() -> Mapping[str, Api]:
    return google.read(wheels.folder())


@pytest.fixture(scope="module")
def exchanges(apis: Mapping[str, Api]) -> Iterator[list[Exchange]]:
    """Of a deployment, a second one, and what else the stand-ins know."""
    with emulators.own(emulators.find("gcp")), recording.gcp() as seen:
        for slots in (1, 2):
            provisioner = PROVIDER.provisioner({"package": False, "memory_mb": 512 * slots})
            provisioner.ensure(APP, 2, slots)
        assert provisioner.find(APP)
        with Rest(PROJECT, REGION) as requests:
            requests.within(120)
            _functions(requests)
            _project(requests)
            _keys_and_logs(requests)
            _storage(requests)
        assert provisioner.destroy(APP)
        yield seen


def _functions(requests: Rest) -> None:
    """Lists, and a function that cannot be built."""
    functions = f"v2/projects/{PROJECT}/locations/{REGION}/functions"
    assert len(list(requests.pages("cloudfunctions", functions, "functions"))) == 1
    source = {"storageSource": {"bucket": "none", "object": "none"}}
    wanted = {
        "buildConfig": {"runtime": "python312", "entryPoint": "handle", "source": source},
        "serviceConfig": {"availableMemory": "512Mi", "maxInstanceCount": 1},
    }
    with pytest.raises(DriverError):
        requests.finished("building", requests.call("cloudfunctions", "POST", functions, wanted, functionId="broken"))
    assert requests.call("cloudfunctions", "GET", f"{functions}/broken")["state"] == "FAILED"
    requests.finished("removing", requests.call("cloudfunctions", "DELETE", f"{functions}/broken"))
    assert requests.find("cloudfunctions", f"{functions}/broken") is None


def _project(requests: Rest) -> None:
    """The project's policy, its accounts, and which APIs are on."""
    project = f"v1/projects/{PROJECT}"
    assert requests.call("cloudresourcemanager", "GET", project)["projectId"] == PROJECT
    policy = requests.call("cloudresourcemanager", "POST", f"{project}:getIamPolicy", {})
    requests.call("cloudresourcemanager", "POST", f"{project}:setIamPolicy", {"policy": policy})
    assert len(list(requests.pages("iam", f"{project}/serviceAccounts", "accounts"))) >= 1
    for verb in ("disable", "enable"):
        begun = requests.call("serviceusage", "POST", f"{project}/services/translate.googleapis.com:{verb}", {})
        assert requests.call("serviceusage", "GET", f"v1/{begun['name']}")["done"]
        assert requests.call("serviceusage", "GET", f"{project}/services/translate.googleapis.com")["state"] == f"{verb.upper()}D"


def _keys_and_logs(requests: Rest) -> None:
    """A key ring, a key, their policies, a repository, and the log bucket."""
    place = f"v1/projects/{PROJECT}/locations/{REGION}"
    ring = requests.call("cloudkms", "POST", f"{place}/keyRings", {}, keyRingId="ring")["name"]
    key = requests.call("cloudkms", "POST", f"v1/{ring}/cryptoKeys", {"purpose": "ENCRYPT_DECRYPT"}, cryptoKeyId="key")["name"]
    for name in (ring, key):
        policy = requests.call("cloudkms", "GET", f"v1/{name}:getIamPolicy")
        requests.call("cloudkms", "POST", f"v1/{name}:setIamPolicy", {"policy": policy})
    requests.call("cloudkms", "PATCH", f"v1/{key}/cryptoKeyVersions/1", {"state": "DISABLED"}, updateMask="state")
    assert requests.call("cloudkms", "GET", f"v1/{key}")["primary"]["state"] == "DISABLED"
    repository = {"format": "DOCKER", "kmsKeyName": key, "labels": {"a": "b"}}
    requests.make("artifactregistry", "POST", f"{place}/repositories", repository, repositoryId="images")
    assert requests.call("artifactregistry", "GET", f"{place}/repositories/images")["kmsKeyName"] == key
    begun = requests.call("artifactregistry", "DELETE", f"{place}/repositories/images")
    assert requests.call("artifactregistry", "GET", f"v1/{begun['name']}")["done"]
    logs = f"v2/projects/{PROJECT}/locations/global/buckets/_Default"
    days = requests.call("logging", "GET", logs)["retentionDays"]
    requests.call("logging", "PATCH", logs, {"retentionDays": days}, updateMask="retentionDays")
    assert requests.call("logging", "POST", "v2/entries:list", {"resourceNames": [f"projects/{PROJECT}"]}) == {}


def _storage(requests: Rest) -> None:
    """Buckets and objects."""
    bucket = {"name": "schemas-bucket", "location": REGION, "labels": {"a": "b"}}
    at = "storage/v1/b/schemas-bucket"
    upload = f"upload/{at}/o"
    requests.call("storage", "POST", "storage/v1/b", bucket, project=PROJECT)
    assert requests.make("storage", "POST", "storage/v1/b", bucket, project=PROJECT) is None
    for name in ("one", "two"):
        requests.service("storage").request(
            "POST", f"/{upload}?uploadType=media&name={name}", data=b"text", headers={"Content-Type": "text/plain"}
        )
    for query in ({}, {"maxResults": "1"}, {"prefix": "o", "delimiter": "/"}, {"delimiter": "n"}):
        requests.call("storage", "GET", f"{at}/o", **query)
    requests.service("storage").request("GET", f"/download/{at}/o/one?alt=media")
    requests.service("storage").request("POST", f"/{upload}?uploadType=resumable&name=three", data=b"{}")
    requests.call("storage", "GET", f"{at}/o/one")
    requests.call("storage", "PATCH", f"{at}/o/one", {"metadata": {"a": "b"}, "contentType": "text/plain"})
    requests.call("storage", "PATCH", at, {"labels": {"a": "c"}})
    requests.call("storage", "GET", "storage/v1/b", project=PROJECT)
    requests.call("storage", "GET", at)
    policy = requests.call("storage", "GET", f"{at}/iam")
    requests.call("storage", "PUT", f"{at}/iam", policy)
    requests.call("storage", "GET", f"{at}/iam/testPermissions", permissions="storage.objects.get")
    for name in ("one", "two"):
        requests.call("storage", "DELETE", f"{at}/o/{name}")
    requests.call("storage", "DELETE", at)
    with pytest.raises(Answered):
        requests.request("storage", "GET", at)


def test_no_request_and_no_answer_breaks_the_documents(apis: Mapping[str, Api], exchanges: list[Exchange]) -> None:
    assert {each.service for each in exchanges} == set(google.DOCUMENTS)
    found = "\n".join(each for exchange in exchanges for each in problems(apis[exchange.service], exchange))
    assert not found, found


def test_every_operation_of_the_stand_ins_was_asked_for(exchanges: list[Exchange]) -> None:
    routes = [(method, path, name) for method, path, _, name in cloud_run_api._ROUTES]
    routes += [(each.method, each.path, each.name) for each in cloud_storage_claims.OPERATIONS]
    missing = [
        name
        for method, path, name in routes
        if not any(each.method == method and re.fullmatch(path, unquote(each.path.replace("%2F", "-"))) for each in exchanges)
        and (method, name) not in UNDESCRIBED
    ]
    assert missing == []


FUNCTION, ACCOUNT, BUCKET = "POST /functions", "POST /serviceAccounts", "POST /storage/v1/b"


@pytest.mark.parametrize(
    ("of", "mistake", "says"),
    [
        (FUNCTION, body(lambda told: told["serviceConfig"].update(memory="1Gi")), "request.serviceConfig.memory: there is no such field"),
        (FUNCTION, body(lambda told: told["serviceConfig"].update(ingressSettings="ANY")), "is 'ANY', expected one of ALLOW_ALL"),
        (ACCOUNT, body(lambda told: told.pop("accountId")), "request.accountId: is missing"),
        (FUNCTION, target("$", "&validate=true"), "query validate: there is no such parameter"),
        (FUNCTION, body(lambda told: told["serviceConfig"].update(uri="http://a")), "serviceConfig.uri: is for the service alone to say"),
        (FUNCTION, body(lambda told: told["serviceConfig"].update(timeoutSeconds="60")), 'timeoutSeconds: is "60", expected integer'),
        (BUCKET, body(lambda told: told["softDeletePolicy"].update(retentionDurationSeconds=0)), "is 0, expected string"),
        (BUCKET, target("project=[^&]+", ""), "query project: is missing"),
        (FUNCTION, target("/locations/[^/]+", ""), "there is no such operation"),
        (ACCOUNT, lambda exchange: replace(exchange, method="PUT"), "there is no such operation"),
        (FUNCTION, lambda exchange: replace(exchange, body=b""), "request: has no body"),
        (FUNCTION, status(201), "answer 201: expected 200"),
        (FUNCTION, answer(lambda told: told.update(mood="good")), "answer 200.mood: there is no such field"),
        (BUCKET, answer(lambda told: told.update(metageneration=1)), "answer 200.metageneration: is 1, expected string"),
    ],
)
def test_a_planted_mistake_is_found(apis: Mapping[str, Api], exchanges: list[Exchange], of: str, mistake: Mistake, says: str) -> None:
    right = first(exchanges, of)
    assert problems(apis[right.service], right) == []
    (found,) = problems(apis[right.service], mistake(right))
    assert says in found
