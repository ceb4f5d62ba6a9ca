"""The names of an app's resources: pure functions of app, generation, slot, rank, account and region. They make no request.

The keys of `Resources.names`, all strings; `fsd_aws.provision` writes them, and a driver needs only these:

==================  ===================================================================================================
region, account     the region and the account of all resources
partition           ``aws``, ``aws-cn``, ``aws-us-gov``
generation          8 hexadecimal digits, new for each set of queues and topics: SQS blocks a deleted queue's name for 60 s
queue_url_prefix    a queue's URL without the queue's name (`url_prefix`), from the service: emulators have other forms
bucket, function    the names of the bucket and the function
body                ``binary`` (attribute `BODY`) or ``text`` (the body itself, which fsd_core encodes as base64)
message_kb          the topics' MaximumMessageSize in KiB: 256 to 1024
kms_key             the ARN of the key that encrypts the app; missing: keys of AWS
lease_s             the visibility time-out of a delivery in whole seconds
memory_mb, ...      further settings of the function
==================  ===================================================================================================

Each slot has its own topics, so one publish reaches up to 200 ranks, and adding a slot does not change the other slots. A topic holds
`ranks_per_topic` subscriptions, one for each rank, with the filter policy ``{"target": ["SLOT.RANK"]}`` (`filter_policy`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import attrs

from fsd_core.driver import Resources
from fsd_core.providers.names import queue_name, shortened

__all__ = ["BODY", "TARGET", "Names", "bucket", "filter_policy", "function", "ranks_per_topic", "role", "target", "url_prefix"]

TARGET = "target"  # a String attribute of messages: subscriptions filter by it
BODY = "body"  # a Binary attribute: it carries the body where names["body"] is binary
_BUCKET_CHARS = 63


def target(slot: int, rank: int) -> str:
    """The value of the attribute `TARGET` in a message to a rank."""
    return f"{slot}.{rank}"


def filter_policy(slot: int, rank: int) -> str:
    """The filter policy of a rank's subscription."""
    return json.dumps({TARGET: [target(slot, rank)]})


def ranks_per_topic(message_kb: int) -> int:
    """The subscriptions of one topic: SNS allows 200 filter policies, and 100 subscriptions where MaximumMessageSize is above 256 KiB."""
    return 200 if message_kb <= 256 else 100


def bucket(app: str, account: str, region: str) -> str:
    """The default name of the app's bucket, at most 63 characters: a long app name is cut, and a hash is appended."""
    return f"fsd-{shortened(app, _BUCKET_CHARS - len(f'fsd--{account}-{region}'))}-{account}-{region}"


def function(app: str) -> str:
    """The name of the function that runs workers."""
    return f"fsd-{app}"


def role(app: str, region: str) -> str:
    """The name of the function's role. A role does not belong to a region, so its name includes the region."""
    return f"fsd-{app}-{region}"


def url_prefix(url: str, queue: str) -> str:
    """The part that all queue URLs begin with, from the ``url`` of one ``queue``. Raises `ValueError` if it does not end in ``queue``."""
    if not url.endswith(f"/{queue}"):
        raise ValueError(f"queue URL {url!r}: expected it to end in /{queue}")
    return url.removesuffix(queue)


@attrs.frozen
class Names:
    """The queues and topics of one generation of an app."""

    app: str
    region: str
    account: str
    generation: str
    partition: str = "aws"
    message_kb: int = 256
    kms_key: str = ""

    @staticmethod
    def of(resources: Resources) -> Names:
        """The names in ``resources``, as `fsd_aws.provision` wrote them."""
        names = resources.names
        return Names(
            resources.app,
            names["region"],
            names["account"],
            names["generation"],
            names.get("partition", "aws"),
            int(names.get("message_kb", "256")),
            names.get("kms_key", ""),
        )

    def _name(self, *parts: object) -> str:
        return queue_name(self.app, self.generation, *parts)

    def arn(self, service: str, resource: str) -> str:
        """The ARN of any resource of the account in the region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def queue(self, slot: int, rank: int) -> str:
        """The queue of a rank."""
        return self._name(slot, rank)

    @property
    def dead(self) -> str:
        """The app's only queue for messages that a subscription could not deliver. A message's attribute `TARGET` names its rank."""
        return self._name("dead")

    @property
    def failed(self) -> str:
        """The queue of launches that failed."""
        return self._name("failed")

    def shard(self, rank: int) -> int:
        """The number of the slot's topic that reaches a rank."""
        return rank // ranks_per_topic(self.message_kb)

    def topic(self, slot: int, rank: int) -> str:
        """The topic that reaches a rank."""
        return self._name(slot, f"t{self.shard(rank)}")

    def topic_arn(self, slot: int, rank: int) -> str:
        """The ARN of the topic that reaches a rank."""
        return self.arn("sns", self.topic(slot, rank))

    def topics(self, ranks: int, slots: int) -> Iterator[str]:
        """All topics of all slots, without duplicates."""
        for slot in range(slots):
            yield from dict.fromkeys(self.topic(slot, rank) for rank in range(ranks))

    def queues(self, ranks: int, slots: int) -> Iterator[str]:
        """The queue of every rank of every slot."""
        for slot in range(slots):
            yield from (self.queue(slot, rank) for rank in range(ranks))
