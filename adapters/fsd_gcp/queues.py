"""Topics and subscriptions of an app, one of each for every rank of every slot: making them, and removing them."""

from __future__ import annotations

from collections.abc import Sequence

from fsd_core.providers.probes import Pair
from fsd_gcp import policy
from fsd_gcp.api import Api
from fsd_gcp.names import Names, generation_of

__all__ = ["RETENTION_S", "make", "remove"]

RETENTION_S = 3600  # no run is longer


def make(api: Api, names: Names, pairs: Sequence[Pair], lease_s: int, worker: str) -> None:
    """Make what the pairs need where it is missing; ``worker``, a member, may send and receive."""
    labels = {policy.APP_LABEL: names.app}

    def one(pair: Pair) -> None:
        topic, subscription = names.topic(*pair), names.subscription(*pair)
        settings = {
            "topic": topic,
            "ackDeadlineSeconds": lease_s,
            "messageRetentionDuration": f"{RETENTION_S}s",
            "expirationPolicy": {},  # never: the default is after 31 idle days
            "labels": labels,
        }
        api.make("pubsub", "PUT", f"v1/{topic}", {"labels": labels})
        if api.make("pubsub", "PUT", f"v1/{subscription}", settings) is None:
            changed = {"name": subscription, "ackDeadlineSeconds": lease_s}
            api.call("pubsub", "PATCH", f"v1/{subscription}", {"subscription": changed, "updateMask": "ackDeadlineSeconds"})

    api.each(one, pairs)
    api.grant(policy.queues(names, pairs, worker, receives=True))


def remove(api: Api, app: str, keep: str | None = None) -> list[str]:
    """Remove the topics and subscriptions of an app but those of generation ``keep``; a line for each."""
    removed = []
    for kind in ("subscriptions", "topics"):
        named = [each["name"] for each in api.pages("pubsub", f"v1/projects/{api.project}/{kind}", kind)]
        old = [name for name in named if generation_of(app, name) not in (None, keep)]
        gone = api.each(lambda name: api.delete("pubsub", f"v1/{name}"), old)  # a listing may name what is deleted already
        done = [name for name, answer in zip(old, gone, strict=True) if answer is not None]
        removed += sorted(f"{kind.removesuffix('s')} {name.rpartition('/')[2]}" for name in done)
    return removed
