"""Who may do what: which member gets which role on which resource, as data. No role is given on the whole project.

`worker` is for the account that the function runs as, `client` for whoever runs a deployed app; ``fsd deploy`` gives both. `DEPLOYER`
is what ``fsd deploy`` and ``fsd destroy`` need themselves: permissions for a role of your own. A test holds each against the calls
that are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from fsd_core.providers.probes import Pair
from fsd_gcp.names import Names

__all__ = ["APIS", "APP_LABEL", "DEPLOYER", "Grant", "account", "client", "queues", "worker"]

APP_LABEL = "fsd-app"  # on everything that an app is made of and that takes labels
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


@attrs.frozen
class Grant:
    """A role of a member ("user:ADDRESS", "serviceAccount:ADDRESS") on a resource: its service, and its path in that service's API."""

    service: str
    resource: str
    role: str
    member: str


def queues(names: Names, pairs: Sequence[Pair], member: str, *, receives: bool) -> Iterator[Grant]:
    """To send to each rank, and to receive what it was sent."""
    for pair in pairs:
        yield Grant("pubsub", f"v1/{names.topic(*pair)}", "roles/pubsub.publisher", member)
        if receives:
            yield Grant("pubsub", f"v1/{names.subscription(*pair)}", "roles/pubsub.subscriber", member)


def worker(names: Mapping[str, str]) -> list[Grant]:
    """Of the function, besides `queues`. ``names``: of the app's `Resources`."""
    member = f"serviceAccount:{names['service_account']}"
    return [
        Grant("storage", f"storage/v1/b/{names['bucket']}", "roles/storage.objectUser", member),
        Grant("run", _service(names), "roles/run.invoker", member),  # a worker launches others
    ]


def account(names: Mapping[str, str], member: str) -> list[Grant]:
    """What whoever deploys needs of the function's account: to say that a function runs as it, and see `client`."""
    own = f"v1/projects/{names['project']}/serviceAccounts/{names['service_account']}"
    grants = [Grant("iam", own, "roles/iam.serviceAccountUser", member)]
    if member.startswith("user:"):  # Google gives no person a token for one service, but lets them have the account's
        grants.append(Grant("iam", own, "roles/iam.serviceAccountOpenIdTokenCreator", member))
    return grants


def client(names: Mapping[str, str], member: str) -> list[Grant]:
    """Of whoever runs a deployed app, besides `queues` without receiving."""
    function = f"v2/projects/{names['project']}/locations/{names['region']}/functions/{names['function']}"
    return [
        Grant("cloudfunctions", function, "roles/cloudfunctions.viewer", member),
        Grant("storage", f"storage/v1/b/{names['bucket']}", "roles/storage.objectUser", member),
        *(each for each in account(names, member) if each.role != "roles/iam.serviceAccountUser"),
        *([] if member.startswith("user:") else [Grant("run", _service(names), "roles/run.invoker", member)]),
    ]


def _service(names: Mapping[str, str]) -> str:
    return f"v2/projects/{names['project']}/locations/{names['region']}/services/{names['function']}"
