"""Makes and removes an app's topics and subscriptions, one of each for every rank of every slot."""

from __future__ import annotations

from collections.abc import Sequence

from google.pubsub_v1 import types

from fsd_core.driver import Code
from fsd_core.providers.names import outdated
from fsd_core.providers.probes import Pair
from fsd_gcp import policy
from fsd_gcp.api import Api
from fsd_gcp.names import Names

__all__ = ["RETENTION_S", "make", "remove"]

RETENTION_S = 3600  # longer than any run


def make(api: Api, names: Names, pairs: Sequence[Pair], lease_s: int, worker: str, key: str = "") -> None:
    """Make the topic and the subscription of each pair; a subscription that exists gets the acknowledgement deadline ``lease_s``
    (seconds) and the retention.

    ``worker``: the member who may send and receive. ``key``: the name of the key that encrypts messages; "": keys of Google.
    """
    labels = {policy.APP_LABEL: names.app}
    publisher, subscriber = api.pubsub.publisher, api.pubsub.subscriber

    def one(pair: Pair) -> None:
        topic = types.Topic.pb()(name=names.topic(*pair), labels=labels, kms_key_name=key)
        subscription = types.Subscription.pb()(
            name=names.subscription(*pair),
            topic=topic.name,
            ack_deadline_seconds=lease_s,
            message_retention_duration={"seconds": RETENTION_S},
            expiration_policy=types.ExpirationPolicy.pb()(),  # never; the default is 31 days without use
            labels=labels,
        )
        api.ask(publisher.create_topic, topic, "name", Code.ALREADY_EXISTS)
        if api.ask(subscriber.create_subscription, subscription, "name", Code.ALREADY_EXISTS) is None:
            mask = {"paths": ["ack_deadline_seconds", "message_retention_duration"]}
            changed = types.UpdateSubscriptionRequest.pb()(subscription=subscription, update_mask=mask)
            api.ask(subscriber.update_subscription, changed, "subscription.name")

    api.each(one, pairs)
    api.grant(policy.queues(names, pairs, worker, receives=True))


def remove(api: Api, app: str, keep: str | None = None) -> list[str]:
    """Remove the topics and subscriptions of an app except those of generation ``keep``. Returns one line of text for each."""
    removed = []
    for kind, transport in (("subscription", api.pubsub.subscriber), ("topic", api.pubsub.publisher)):
        listed, deleted = (getattr(types, f"{verb}Request").pb() for verb in (f"List{kind.title()}s", f"Delete{kind.title()}"))
        listing, deleting = getattr(transport, f"list_{kind}s"), getattr(transport, f"delete_{kind}")
        names, page = [], listed(project=f"projects/{api.project}", page_size=1000)
        while True:
            answer = api.ask(listing, page, "project")
            names += [each.name for each in getattr(answer, f"{kind}s")]
            page.page_token = answer.next_page_token
            if not page.page_token:
                break
        old = [name for name in names if outdated(app, name, keep)]
        calls = [(deleting, deleted(**{kind: name}), kind, Code.NOT_FOUND) for name in old]  # a listing may name deleted ones
        gone = api.each(lambda call: api.ask(*call), calls)
        removed += sorted(f"{kind} {name.rpartition('/')[2]}" for name, answer in zip(old, gone, strict=True) if answer is not None)
    return removed
