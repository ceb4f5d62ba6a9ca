"""What everything of an app is called: pure functions of (app, generation, slot, rank, account, region). No request is made.

The keys of `Resources.names`, all strings, written by `fsd_aws.provision` and enough for every driver:

==================  ===================================================================================================
region, account     where, and whose
partition           ``aws``, ``aws-cn``, ``aws-us-gov``
generation          8 hexadecimal digits, new whenever queues or topics are made anew: a deleted queue's name is blocked for 60 s
queue_url_prefix    a queue's URL without the queue's name, as the service gave it (`url_prefix`): emulators have forms of their own
bucket, function    their names
body                ``binary`` (attribute `BODY`) or ``text`` (the body itself, base64 by core)
message_kb          the topics' MaximumMessageSize in KiB: 256 to 1024
lease_s             visibility of a delivery: whole seconds
memory_mb, ...      whatever else provision and invoke agree on
==================  ===================================================================================================

Topics are those of a slot, so that one publish reaches up to 200 ranks and adding slots moves nothing: a topic holds
`ranks_per_topic` subscriptions, one a rank, each with the filter policy ``{"target": ["SLOT.RANK"]}`` (`filter_policy`).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator

import attrs

from fsd_core.driver import Resources

__all__ = [
    "BODY",
    "TARGET",
    "Names",
    "bucket",
    "filter_policy",
    "function",
    "new_generation",
    "ranks_per_topic",
    "role",
    "target",
    "url_prefix",
]

TARGET = "target"  # the message attribute that subscriptions filter on: String
BODY = "body"  # the message attribute that carries the body where names["body"] is binary: Binary
_BUCKET_CHARS = 63


def new_generation() -> str:
    """A fresh generation."""
    return secrets.token_hex(4)


def target(slot: int, rank: int) -> str:
    """The value of attribute `TARGET` of a message to a rank."""
    return f"{slot}.{rank}"


def filter_policy(slot: int, rank: int) -> str:
    """The filter policy of a rank's subscription."""
    return json.dumps({TARGET: [target(slot, rank)]})


def ranks_per_topic(message_kb: int) -> int:
    """Subscriptions of one topic: 200 filter policies a topic, 100 subscriptions where MaximumMessageSize is above 256 KiB."""
    return 200 if message_kb <= 256 else 100


def bucket(app: str, account: str, region: str) -> str:
    """The default name of the app's bucket, at most 63 characters: a long app's name is cut and its hash added."""
    name, most = app, _BUCKET_CHARS - len(f"fsd--{account}-{region}")
    if len(name) > most:
        name = f"{app[: most - 7].rstrip('-')}-{hashlib.sha256(app.encode()).hexdigest()[:6]}"
    return f"fsd-{name}-{account}-{region}"


def function(app: str) -> str:
    """The function that runs workers."""
    return f"fsd-{app}"


def role(app: str, region: str) -> str:
    """The function's role; roles belong to no region, so its name has one."""
    return f"fsd-{app}-{region}"


def url_prefix(url: str, queue: str) -> str:
    """What all queue URLs start with, from the URL of one ``queue``."""
    if not url.endswith(f"/{queue}"):
        raise ValueError(f"queue URL {url!r} does not end in /{queue}")
    return url.removesuffix(queue)


@attrs.frozen
class Names:
    """Queues and topics of one generation of an app."""

    app: str
    region: str
    account: str
    generation: str
    partition: str = "aws"
    message_kb: int = 256

    @staticmethod
    def of(resources: Resources) -> Names:
        """From what `fsd_aws.provision` wrote."""
        names = resources.names
        return Names(
            resources.app,
            names["region"],
            names["account"],
            names["generation"],
            names.get("partition", "aws"),
            int(names.get("message_kb", "256")),
        )

    def _name(self, *parts: object) -> str:
        return "-".join(["fsd", self.app, self.generation, *map(str, parts)])

    def arn(self, service: str, resource: str) -> str:
        """The ARN of any resource of the account in the region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def queue(self, slot: int, rank: int) -> str:
        """The queue of a rank."""
        return self._name(slot, rank)

    @property
    def dead(self) -> str:
        """Where every subscription puts what it could not deliver: one queue, since `TARGET` stays with a message and says whose it was."""
        return self._name("dead")

    @property
    def failed(self) -> str:
        """The queue of launches that failed."""
        return self._name("failed")

    def shard(self, rank: int) -> int:
        """Which of its slot's topics reaches a rank."""
        return rank // ranks_per_topic(self.message_kb)

    def topic(self, slot: int, rank: int) -> str:
        """The topic that reaches a rank."""
        return self._name(slot, f"t{self.shard(rank)}")

    def topic_arn(self, slot: int, rank: int) -> str:
        """Its ARN."""
        return self.arn("sns", self.topic(slot, rank))

    def topics(self, ranks: int, slots: int) -> Iterator[str]:
        """Every topic, each once."""
        for slot in range(slots):
            yield from dict.fromkeys(self.topic(slot, rank) for rank in range(ranks))

    def queues(self, ranks: int, slots: int) -> Iterator[str]:
        """Every rank's queue."""
        for slot in range(slots):
            yield from (self.queue(slot, rank) for rank in range(ranks))


_OWN = r"fsd-{app}-(?P<generation>[0-9a-f]{{8}})-(\d+-(\d+|t\d+)|failed|dead)"


def generation_of(app: str, name: str) -> str | None:
    """The generation of a queue or topic of ``app``; None of any other: "fsd-a-" is also how names of an app "a-b" start."""
    match = re.fullmatch(_OWN.format(app=re.escape(app)), name)
    return match["generation"] if match else None
