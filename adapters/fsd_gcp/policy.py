"""Permissions as data: which member gets which role on which resource. No role covers the whole project.

`worker` is for the account that the function runs as. `client` is for a member who runs a deployed app. ``fsd deploy`` gives the roles of
`worker`, and gives the member who deploys those roles of `client` that launches need. `DEPLOYER` are the permissions of ``fsd deploy`` and
``fsd destroy``, for a custom role, `AUDITOR` those of ``fsd audit``. A test compares each list with the requests that fsd makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from fsd_core.providers.probes import Pair
from fsd_gcp.names import Names

__all__ = ["APIS", "APP_LABEL", "AUDITOR", "DEPLOYER", "KEPT_DAYS", "KEY", "Grant", "account", "client", "queues", "worker"]

KEPT_DAYS = 7  # the bucket deletes older objects
APP_LABEL = "fsd-app"  # the label of all resources of an app that can have labels
APIS = ("artifactregistry", "cloudbuild", "cloudfunctions", "iam", "iamcredentials", "logging", "pubsub", "run", "storage")
DEPLOYER = (
    *("cloudfunctions.functions." + verb for verb in ("create", "delete", "get", "update")),
    "cloudfunctions.operations.get",
    *("iam.serviceAccounts." + verb for verb in ("create", "delete", "get", "getIamPolicy", "setIamPolicy")),
    *("pubsub.subscriptions." + verb for verb in ("consume", "create", "delete", "getIamPolicy", "list", "setIamPolicy", "update")),
    *("pubsub.topics." + verb for verb in ("attachSubscription", "create", "delete", "getIamPolicy", "list", "publish", "setIamPolicy")),
    *("run.services." + verb for verb in ("getIamPolicy", "setIamPolicy")),
    "serviceusage.services.get",
    *("storage.buckets." + verb for verb in ("create", "delete", "get", "getIamPolicy", "setIamPolicy", "update")),
    *("storage.objects." + verb for verb in ("create", "delete", "get", "list")),
)
AUDITOR = (  # the permissions of ``fsd audit``, which only reads; with the key of a user also artifactregistry.repositories.get
    *("cloudfunctions.functions.get", "iam.serviceAccounts.getIamPolicy", "logging.buckets.get", "logging.logEntries.list"),
    *("pubsub.subscriptions.get", "pubsub.subscriptions.getIamPolicy", "pubsub.topics.get", "pubsub.topics.getIamPolicy"),
    *("resourcemanager.projects.getIamPolicy", "run.services.getIamPolicy", "storage.buckets.get", "storage.buckets.getIamPolicy"),
)
KEY = (  # the further permissions of ``fsd deploy`` and ``fsd destroy`` where an app has the key of a user
    *("artifactregistry.repositories." + verb for verb in ("create", "delete", "get")),
    *("cloudkms.cryptoKeys.get", "cloudkms.cryptoKeys.getIamPolicy", "cloudkms.keyRings.getIamPolicy"),
    *("resourcemanager.projects.get", "resourcemanager.projects.getIamPolicy"),
)


@attrs.frozen
class Grant:
    """One role on one resource for one member. ``member``: "user:ADDRESS" or "serviceAccount:ADDRESS".

    ``service``: the API of the resource. ``resource``: its path in this API.
    """

    service: str
    resource: str
    role: str
    member: str


def queues(names: Names, pairs: Sequence[Pair], member: str, *, receives: bool) -> Iterator[Grant]:
    """The roles to send to the rank of each pair, and with ``receives`` also to receive the messages of that rank."""
    for pair in pairs:
        yield Grant("pubsub", f"v1/{names.topic(*pair)}", "roles/pubsub.publisher", member)
        if receives:
            yield Grant("pubsub", f"v1/{names.subscription(*pair)}", "roles/pubsub.subscriber", member)


def worker(names: Mapping[str, str]) -> list[Grant]:
    """The roles of the function's account, in addition to `queues`. ``names``: `Resources.names`."""
    member = f"serviceAccount:{names['service_account']}"
    return [
        Grant("storage", f"storage/v1/b/{names['bucket']}", "roles/storage.objectUser", member),
        Grant("run", _service(names), "roles/run.invoker", member),  # a worker launches other workers
    ]


def account(names: Mapping[str, str], member: str) -> list[Grant]:
    """The roles on the function's account for the member who deploys: to let a function run as this account, and to get its ID tokens."""
    own = f"v1/projects/{names['project']}/serviceAccounts/{names['service_account']}"
    grants = [Grant("iam", own, "roles/iam.serviceAccountUser", member)]
    if member.startswith("user:"):  # Google gives a person no ID token for a service
        grants.append(Grant("iam", own, "roles/iam.serviceAccountOpenIdTokenCreator", member))
    return grants


def client(names: Mapping[str, str], member: str) -> list[Grant]:
    """The roles of a member who runs a deployed app, in addition to `queues` with ``receives`` False."""
    function = f"v2/projects/{names['project']}/locations/{names['region']}/functions/{names['function']}"
    return [
        Grant("cloudfunctions", function, "roles/cloudfunctions.viewer", member),
        Grant("storage", f"storage/v1/b/{names['bucket']}", "roles/storage.objectUser", member),
        *(each for each in account(names, member) if each.role != "roles/iam.serviceAccountUser"),
        *([] if member.startswith("user:") else [Grant("run", _service(names), "roles/run.invoker", member)]),
    ]


def _service(names: Mapping[str, str]) -> str:
    return f"v2/projects/{names['project']}/locations/{names['region']}/services/{names['function']}"
