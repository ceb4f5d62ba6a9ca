"""``[gcp] kms_key``: what a key encrypts, which keys are refused, and that the default uses no key."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from google.pubsub_v1 import types

import fsd_core
from fsd_conformance import emulators
from fsd_conformance.emulators.cloud_run_metadata import PROJECT_NUMBER
from fsd_core import InputError
from fsd_core.driver import Code
from fsd_core.errors import DriverError
from fsd_gcp import function as function_of
from fsd_gcp import images, keys, policy
from fsd_gcp.api import Api
from fsd_gcp.names import Names
from fsd_gcp.policy import Grant
from gcp_calls import recorded

pytestmark = pytest.mark.emulator
PROJECT, REGION = "fsd-emulator", "us-central1"
SETTINGS = {"package": False, "memory_mb": 512}
PLACE = f"projects/{PROJECT}/locations/{REGION}"


@pytest.fixture(scope="module")
def gcp() -> Iterator[Api]:
    with emulators.own(emulators.find("gcp")), Api(PROJECT, REGION) as api:
        api.within(600)
        api.call("cloudkms", "POST", f"v1/{PLACE}/keyRings", {}, keyRingId="ring")
        yield api


def new_key(api: Api, name: str, *users: str) -> str:
    made = api.call("cloudkms", "POST", f"v1/{PLACE}/keyRings/ring/cryptoKeys", {"purpose": "ENCRYPT_DECRYPT"}, cryptoKeyId=name)
    api.grant([Grant("cloudkms", f"v1/{made['name']}", keys.ROLE, each) for each in users])
    return str(made["name"])


def test_a_key_encrypts_topics_bucket_and_function(gcp: Api) -> None:
    key = new_key(gcp, "mine", *keys.users(str(PROJECT_NUMBER)))
    with recorded() as calls:
        made = fsd_core.deploy("gcp", "keyed", {**SETTINGS, "kms_key": key}, workers=1, slots=1)
    needed = {permission for call in calls for permission, _ in call.needs()}
    function, repository = gcp.call("cloudfunctions", "GET", f"v2/{PLACE}/functions/fsd-keyed"), f"{PLACE}/repositories/fsd-keyed"
    assert (function["kmsKeyName"], function["buildConfig"]["dockerRepository"]) == (key, repository)
    assert gcp.call("artifactregistry", "GET", f"v1/{repository}")["kmsKeyName"] == key
    topic = gcp.ask(gcp.pubsub.publisher.get_topic, types.GetTopicRequest.pb()(topic=Names.of(made).topic(0, 0)), "topic")
    assert topic.kms_key_name == key
    assert gcp.storage.get_bucket(made.names["bucket"]).default_kms_key_name == key
    with recorded() as audited:
        promises = fsd_core.audit("gcp", "keyed", SETTINGS)
    assert {each for call in audited for each, _ in call.needs()} - set(policy.AUDITOR) == {"artifactregistry.repositories.get"}
    assert all(each.holds for each in promises)
    assert sum(each.found == key for each in promises) == 4
    bucket = gcp.storage.get_bucket(made.names["bucket"])
    bucket.default_kms_key_name = f"{key}2"
    bucket.patch(retry=None)
    gcp.finished("removing", gcp.call("artifactregistry", "DELETE", f"v1/{repository}"), "artifactregistry", "v1")
    broken = [each.name for each in fsd_core.audit("gcp", "keyed", SETTINGS) if not each.holds]
    assert broken == ["bucket: encrypted at rest", "function's image: encrypted at rest"]
    fsd_core.deploy("gcp", "keyed", SETTINGS, workers=1, slots=1, repair=True)
    assert all(each.holds for each in fsd_core.audit("gcp", "keyed", SETTINGS))
    with pytest.raises(InputError, match=rf"\[gcp\] kms_key: app 'keyed' was made with {key}, not {key}2: expected {key}"):
        fsd_core.deploy("gcp", "keyed", {**SETTINGS, "kms_key": f"{key}2"}, workers=1, slots=1)
    assert fsd_core.deploy("gcp", "keyed", SETTINGS, workers=1, slots=1) == made  # who does not name the key does not remove it
    function_of.remove(gcp, "keyed")  # then the key of the bucket says that there is a repository
    with recorded() as calls:
        assert "repository fsd-keyed" in fsd_core.destroy("gcp", "keyed", SETTINGS)
    needed |= {permission for call in calls for permission, _ in call.needs()}
    assert set(policy.KEY) == {each for each in needed if each.partition(".")[0] in ("artifactregistry", "cloudkms", "resourcemanager")}
    assert gcp.find("artifactregistry", f"v1/{repository}") is None


def test_a_repository_that_is_not_the_apps_is_refused_and_kept(gcp: Api) -> None:
    key = new_key(gcp, "own", *keys.users(str(PROJECT_NUMBER)))
    for short, labels, says in (
        ("fsd-other", {}, "app 'other': a repository fsd-other exists that fsd did not make"),
        ("fsd-old", {policy.APP_LABEL: "old"}, f"repository fsd-old: is encrypted with keys of Google: expected {key}"),
    ):
        wanted = {"format": "DOCKER", "labels": labels}
        gcp.call("artifactregistry", "POST", f"v1/{PLACE}/repositories", wanted, repositoryId=short)
        with pytest.raises(InputError, match=re.escape(says)):
            images.make(gcp, short.removeprefix("fsd-"), key)
        assert images.remove(gcp, short.removeprefix("fsd-")) == ([f"repository {short}"] if labels else [])


@pytest.mark.parametrize("given", ["key", "repository", "another repository"])
def test_the_emulator_takes_a_key_of_a_function_only_with_a_repository_of_this_key(gcp: Api, given: str) -> None:
    images.make(gcp, "elsewhere", new_key(gcp, f"of-{given.replace(' ', '-')}"))
    key, repository = {"kmsKeyName": "mine"}, {"dockerRepository": f"{PLACE}/repositories/fsd-elsewhere"}
    build = {"runtime": "python312", "entryPoint": "handle", "source": {"storageSource": {"bucket": "none", "object": "none"}}}
    wanted = {"buildConfig": build | (repository if given != "key" else {}), **(key if given != "repository" else {})}
    with pytest.raises(DriverError, match=r"expected both or neither|is encrypted with"):
        gcp.call("cloudfunctions", "POST", f"v2/{PLACE}/functions", wanted, functionId="refused")
    images.remove(gcp, "elsewhere")


def test_a_key_in_a_project_whose_policy_is_hidden(gcp: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of the key itself is enough. If it is not, the line says what could not be read."""
    mine, *others = keys.users(str(PROJECT_NUMBER))
    full, half = new_key(gcp, "hidden", mine, *others), new_key(gcp, "hidden-half", *others)
    call = gcp.call

    def hidden(service: str, method: str, path: str, *rest: object, **query: str) -> dict[str, object]:
        if path.endswith(":getIamPolicy"):
            raise DriverError(Code.DENIED, "403 PERMISSION_DENIED")
        return call(service, method, path, *rest, **query)

    monkeypatch.setattr(gcp, "call", hidden)
    keys.check(gcp, full)
    said = (
        f"{mine.partition(':')[2]} may not use .* \\(these credentials may not read the policy of its project\\): expected this permission"
    )
    with pytest.raises(InputError, match=said):
        keys.check(gcp, half)


def test_a_key_that_may_not_be_used_is_refused_before_anything_is_made(gcp: Api) -> None:
    storage, pubsub, *others = keys.users(str(PROJECT_NUMBER))
    disabled = new_key(gcp, "disabled", storage, pubsub, *others)
    gcp.call("cloudkms", "PATCH", f"v1/{disabled}/cryptoKeyVersions/1", {"state": "DISABLED"}, updateMask="state")
    for key, says in (
        (new_key(gcp, "half", storage, *others), f"{pubsub.partition(':')[2]} may not use cloudkms.cryptoKeyVersions.useToEncrypt, "),
        (disabled, "has purpose ENCRYPT_DECRYPT, state DISABLED: expected ENCRYPT_DECRYPT, ENABLED"),
        (f"{PLACE}/keyRings/ring/cryptoKeys/nothing", "Cloud KMS has no such key"),
        (disabled.replace(REGION, "europe-west1"), f"is in europe-west1: expected a key in {REGION}"),
        ("mine", "expected the name of a key"),
    ):
        with recorded() as calls, pytest.raises(InputError) as raised:
            fsd_core.deploy("gcp", "refused", {**SETTINGS, "kms_key": key}, workers=1, slots=1)
        assert says in str(raised.value)
        assert not [call for call in calls if call.method in ("PUT", "PATCH") or (call.method == "POST" and "Policy" not in call.path)]
