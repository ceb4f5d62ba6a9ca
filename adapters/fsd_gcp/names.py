"""The names of an app's resources: pure functions of app, generation, slot, rank and project. They make no request.

The keys of `Resources.names`, all strings; `fsd_gcp.provision` writes them, and a driver needs only these:

==================  ===================================================================================================
project, region     the project and the region of all resources
generation          8 hexadecimal digits, new for each set of topics, so that a worker of an old set finds no topic
bucket, function    the names of the bucket and the function
url                 the URL of the function's service
service_account     the address of the service account that the function runs as
kms_key             the name of the key that encrypts topics, bucket and the function's image; "": keys of Google
lease_s             the subscriptions' acknowledgement deadline in whole seconds
receive             "pull" or "stream"
memory_mb, ...      further settings of the function
==================  ===================================================================================================

Each rank of each slot has its own topic, and a subscription of the same name. With one topic for all ranks, each subscription would need a
filter, and Pub/Sub also bills the messages that a filter drops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from fsd_core.driver import Resources
from fsd_core.providers.names import queue_name, shortened

__all__ = ["Names", "bucket", "function", "repository", "service_account"]

_BUCKET_CHARS = 63
_ACCOUNT_CHARS = 30  # the longest id of a service account; the shortest has 6


def bucket(app: str, project: str) -> str:
    """The default name of the app's bucket, at most 63 characters: a long app name is cut, and a hash is appended."""
    whose = re.sub(r"[^a-z0-9-]", "-", project)  # the id of an old project can be DOMAIN:NAME
    return f"fsd-{shortened(app, _BUCKET_CHARS - len(f'fsd--{whose}'))}-{whose}"


def function(app: str) -> str:
    """The name of the function that runs workers, and of its service."""
    return f"fsd-{app}"


def repository(app: str, project: str, region: str) -> str:
    """The full name of the repository of the function's container image, which an app with a ``kms_key`` has."""
    return f"projects/{project}/locations/{region}/repositories/fsd-{app}"


def service_account(app: str) -> str:
    """The id of the service account that the function runs as, at most 30 characters: cut like that of `bucket`."""
    return f"fsd-{shortened(app, _ACCOUNT_CHARS - len('fsd--run'))}-run"


@attrs.frozen
class Names:
    """The topics and subscriptions of one generation of an app."""

    app: str
    project: str
    generation: str

    @staticmethod
    def of(resources: Resources) -> Names:
        """The names in ``resources``, as `fsd_gcp.provision` wrote them."""
        return Names(resources.app, resources.names["project"], resources.names["generation"])

    def queue(self, slot: int, rank: int) -> str:
        """The short name of a rank's topic and of its subscription."""
        return queue_name(self.app, self.generation, slot, rank)

    def topic(self, slot: int, rank: int) -> str:
        """The full name of a rank's topic."""
        return f"projects/{self.project}/topics/{self.queue(slot, rank)}"

    def subscription(self, slot: int, rank: int) -> str:
        """The full name of a rank's subscription."""
        return f"projects/{self.project}/subscriptions/{self.queue(slot, rank)}"

    def queues(self, ranks: int, slots: int) -> Iterator[tuple[str, str]]:
        """The full names of the topic and the subscription of every rank of every slot."""
        for slot in range(slots):
            yield from ((self.topic(slot, rank), self.subscription(slot, rank)) for rank in range(ranks))
