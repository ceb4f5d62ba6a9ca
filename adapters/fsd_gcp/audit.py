"""What ``fsd audit`` finds on Google Cloud: each property of a deployed app, compared with what `fsd_gcp.provision` makes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.pubsub_v1 import types

from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError
from fsd_core.providers.promises import REPAIR, Promise, exactly, same, shown
from fsd_core.providers.settings import RETENTION
from fsd_core.storage.keys import AUDIT, PASSING
from fsd_core.storage.retry import TRANSIENT
from fsd_gcp import names as naming
from fsd_gcp import policy
from fsd_gcp.api import Api
from fsd_gcp.names import Names
from fsd_gcp.policy import KEPT_DAYS, Grant
from fsd_gcp.queues import RETENTION_S

__all__ = ["promises"]

LOGS_KEPT_DAYS = 30  # Google's default for the bucket _Default, which a deployment does not change
PUBLIC = {"allUsers", "allAuthenticatedUsers"}
KEYS = "keys of Google"
Bindings = dict[str, dict[str, set[str]] | None]  # by resource, the members of each role; `None`: the service has no policies


def promises(api: Api, had: Resources) -> list[Promise]:
    """The promises about the deployed app. Makes four requests for each rank of each slot, and about ten others."""
    names = Names.of(had)
    pairs = [(slot, rank) for slot in range(had.slots) for rank in range(had.ranks)]
    member = f"serviceAccount:{had.names['service_account']}"
    wanted = [*policy.worker(had.names), *policy.queues(names, pairs, member, receives=True)]
    return [
        *_bucket(api, had),
        *_queues(api, had, [names.topic(*pair) for pair in pairs], [names.subscription(*pair) for pair in pairs]),
        *_roles(_bindings(api, had, wanted), wanted, member),
        *_function(api, had),
    ]


def _bucket(api: Api, had: Resources) -> Iterator[Promise]:
    name, key = had.names["bucket"], had.names.get("kms_key") or KEYS
    bucket: Any = api.storage.bucket(name)
    there = api.unless(Code.NOT_FOUND, f"bucket {name}", lambda: bucket.reload(retry=None) or True)
    access = bucket.iam_configuration
    yield same("bucket: encrypted at rest", {name: (bucket.default_kms_key_name or KEYS) if there else None}, key)
    closed = {
        "public access prevention": access.public_access_prevention == "enforced",
        "uniform access": bool(access.uniform_bucket_level_access_enabled),
    }
    yield same("bucket: no public access", closed, True)
    rules = [json.dumps(dict(each), sort_keys=True) for each in bucket.lifecycle_rules] if there else []
    passing = {"action": {"type": "Delete"}, "condition": {"age": KEPT_DAYS, "matchesPrefix": list(PASSING)}}
    entries = {"action": {"type": "Delete"}, "condition": {"age": int(had.names[RETENTION]), "matchesPrefix": [AUDIT]}}
    aborted = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}}
    yield exactly("bucket: life cycle", rules, [json.dumps(each, sort_keys=True) for each in (passing, entries, aborted)], "rule")
    advice = f"{REPAIR} turns both off; then remove old versions: gcloud storage rm --all-versions gs://{name}/OBJECT"
    yield same("bucket: deleted objects are gone", {name: deleted(bucket) if there else None}, "kept for 0 s", advice)
    yield shown("in transit", "fsd uses TLS only; Cloud Storage refuses nothing else: an organisation may, by storage.secureHttpTransport")


def deleted(bucket: Any) -> str:
    """How long a bucket keeps objects that were deleted, as text."""
    if bucket.versioning_enabled:
        return "kept as versions"
    return f"kept for {bucket.soft_delete_policy.retention_duration_seconds or 0} s"


def _queues(api: Api, had: Resources, topics: list[str], subscriptions: list[str]) -> Iterator[Promise]:
    def topic(name: str) -> Any:
        return api.ask(api.pubsub.publisher.get_topic, types.GetTopicRequest.pb()(topic=name), "topic", Code.NOT_FOUND)

    def subscription(name: str) -> Any:
        asked = types.GetSubscriptionRequest.pb()(subscription=name)
        return api.ask(api.pubsub.subscriber.get_subscription, asked, "subscription", Code.NOT_FOUND)

    def short(path: str) -> str:
        return path.rpartition("/")[2]

    found = zip(topics, api.each(topic, topics), strict=True)
    used = {short(name): (each.kms_key_name or KEYS) if each else None for name, each in found}
    yield same("topics: encrypted at rest", used, had.names.get("kms_key") or KEYS)
    listed = zip(subscriptions, api.each(subscription, subscriptions), strict=True)
    kept = {short(name): f"{each.message_retention_duration.seconds} s" if each else None for name, each in listed}
    yield same("subscriptions: retention", kept, f"{RETENTION_S} s")


def _bindings(api: Api, had: Resources, wanted: Iterable[Grant]) -> Bindings:
    """The policies of all resources of the app, and of the project."""
    project = f"v1/projects/{had.names['project']}"
    resources = {(each.service, each.resource) for each in wanted}
    resources.add(("iam", f"{project}/serviceAccounts/{had.names['service_account']}"))

    def read(resource: tuple[str, str]) -> dict[str, set[str]] | None:
        held = api.held(*resource)
        return None if held is None else _held(held)

    found: Bindings = dict(zip((path for _, path in resources), api.each(read, resources), strict=True))
    whole = api.call("cloudresourcemanager", "POST", f"{project}:getIamPolicy", {"options": {"requestedPolicyVersion": 3}})
    return found | {project: _held(whole)}


def _held(found: Mapping[str, Any]) -> dict[str, set[str]]:
    held: dict[str, set[str]] = {}
    for each in found.get("bindings", ()):
        when = f" if {each['condition'].get('expression')}" if each.get("condition") else ""
        held.setdefault(f"{each['role']}{when}", set()).update(each.get("members", ()))
    return held


def _roles(found: Bindings, wanted: Iterable[Grant], member: str) -> Iterator[Promise]:
    lacking = sorted(path for path, roles in found.items() if roles is None)
    held = {path: roles for path, roles in found.items() if roles is not None}
    mine = {f"{role} on {path}" for path, roles in held.items() for role, members in roles.items() if member in members}
    expected = {f"{each.role} on {each.resource}" for each in wanted if each.resource in held}
    advice = f"{REPAIR} gives what is missing; remove a role that is too much: gcloud ... remove-iam-policy-binding"
    yield exactly("account: exactly the roles that workers use", mine, expected, "role", advice)
    public = {f"{role} on {path} to {each}" for path, roles in held.items() for role, members in roles.items() for each in members & PUBLIC}
    yield exactly("roles: no public access", public, (), "public role", "remove each: gcloud ... remove-iam-policy-binding")
    if lacking:
        yield shown("roles: topics and subscriptions", f"not compared: this emulator has no policies ({len(lacking)} resources)")


def _function(api: Api, had: Resources) -> Iterator[Promise]:
    project, name = had.names["project"], had.names["function"]
    path = f"projects/{project}/locations/{had.names['region']}/functions/{name}"
    found = api.call("cloudfunctions", "GET", f"v2/{path}")
    key = had.names.get("kms_key") or KEYS
    yield same("function: encrypted at rest", {name: found.get("kmsKeyName") or KEYS}, key)
    if key != KEYS:
        repository = naming.repository(had.app, project, had.names["region"])
        image = api.find("artifactregistry", f"v1/{repository}")
        used = {repository: (image.get("kmsKeyName") or KEYS) if image else None}
        yield same("function's image: encrypted at rest", used, key)
    yield same(
        "function: runs as the app's account", {name: found["serviceConfig"].get("serviceAccountEmail")}, had.names["service_account"]
    )
    logs = api.call("logging", "GET", f"v2/projects/{project}/locations/global/buckets/_Default")
    days = int(logs.get("retentionDays", 0))
    advice = f"gcloud logging buckets update _Default --location global --retention-days {LOGS_KEPT_DAYS} --project {project}"
    wanted = f"at most {LOGS_KEPT_DAYS} days"
    yield same("logs: retention", {"_Default": wanted if 0 < days <= LOGS_KEPT_DAYS else f"{days} days"}, wanted, advice)
    yield shown("function: last change", f"{found.get('updateTime')}{_who(api, project, path)}")


def _who(api: Api, project: str, path: str) -> str:
    """Who changed the function last, and by which request, from the audit log, which Google keeps for 400 days."""
    log = f'logName="projects/{project}/logs/cloudaudit.googleapis.com%2Factivity"'
    asked = {
        "resourceNames": [f"projects/{project}"],
        "filter": f'{log} AND protoPayload.resourceName="{path}"',
        "orderBy": "timestamp desc",
        "pageSize": 1,
    }
    try:
        entries = api.call("logging", "POST", "v2/entries:list", asked).get("entries", [])
    except DriverError as error:
        if error.code in TRANSIENT:
            raise
        return f"; the audit log does not say by whom: {error.message}"
    if not entries:
        return "; the audit log names nobody for it"
    payload = entries[0].get("protoPayload", {})
    return f" by {payload.get('authenticationInfo', {}).get('principalEmail')} ({payload.get('methodName')})"
