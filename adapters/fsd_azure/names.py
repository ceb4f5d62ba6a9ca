"""The names of an app's resources: pure functions of app, generation, slot, rank and subscription. They make no request.

The keys of `Resources.names`, all strings; `fsd_azure.provision` writes them, and a driver needs only these:

======================  ===============================================================================================
subscription, region    the subscription and the region of all resources
resource_group          the group of all resources
generation              8 hexadecimal digits, new for each set of queues, so that a worker of an old set finds no queue
namespaces              the hosts of the Service Bus namespaces, separated by commas, in the order of the ranks
bus                     "made" with the app, or "given" by connection strings
storage_account         the account's name; "" where a connection string names the account
tier                    the namespaces' tier: standard or premium
lease_s                 the queues' lock duration in whole seconds
message_kb              a queue's limit of one message in KiB, 0 for the tier's limit (other values in premium only)
blob_url, container     the storage account's address, and the container's name in it
url                     the URL of the worker's HTTP trigger
kms_key, kms_identity   the URL of the key that encrypts namespaces and account, and who uses it; "": keys of Microsoft
memory_mb, ...          further settings of the function
======================  ===============================================================================================

Each rank of each slot has its own queue: with a topic, every filter would cost a credit for each message (credits: see `fsd_azure.limits`).
Rank r uses namespace r modulo the number of namespaces, since a namespace of the Standard tier carries 1,000 messages per second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

from fsd_core.driver import Resources
from fsd_core.providers.names import MARK_CHARS, mark, queue_name

__all__ = ["Names", "container", "function", "namespace", "resource_group", "storage_account"]

_NAMESPACE_CHARS = 50  # letters, digits and hyphens, a letter first; it must not end in -sb or -mgmt
_ACCOUNT_CHARS = 24  # letters and digits only
_FUNCTION_CHARS = 60


def resource_group(app: str) -> str:
    """The default resource group."""
    return f"fsd-{app}"


def namespace(app: str, subscription: str, group: str, number: int) -> str:
    """The name of Service Bus namespace ``number``. It is part of a host name, so it is unique in the world."""
    return _unique(app, subscription, group, _NAMESPACE_CHARS - 4, "-") + f"-{number}"


def function(app: str, subscription: str, group: str) -> str:
    """The name of the function app, unique in the world like that of a namespace."""
    return _unique(app, subscription, group, _FUNCTION_CHARS, "-")


def container(app: str) -> str:
    """The name of the app's container. Azure allows no two hyphens in a row, so they are replaced and a hash is appended."""
    single = re.sub("-+", "-", app)
    return f"fsd-{app}" if single == app else f"fsd-{single}-{mark(app)}"


def storage_account(app: str, subscription: str, group: str) -> str:
    """The default name of the storage account, unique in the world like that of a namespace."""
    return _unique(app, subscription, group, _ACCOUNT_CHARS, "")


def _unique(app: str, subscription: str, group: str, max_chars: int, between: str) -> str:
    """ "fsd", the app's name, cut where ``max_chars`` requires, and a hash of subscription, group and app."""
    room = max_chars - len("fsd") - 2 * len(between) - MARK_CHARS
    end = mark(f"{subscription.lower()}/{group.lower()}/{app}")
    return f"fsd{between}{app.replace('-', between)[:room].rstrip('-')}{between}{end}"


@attrs.frozen
class Names:
    """The queues of one generation of an app. ``namespaces``: the hosts."""

    app: str
    generation: str
    namespaces: tuple[str, ...]

    @staticmethod
    def of(resources: Resources) -> Names:
        """The names in ``resources``, as `fsd_azure.provision` wrote them."""
        return Names(resources.app, resources.names["generation"], tuple(resources.names["namespaces"].split(",")))

    def shard(self, rank: int) -> int:
        """The number of the rank's namespace."""
        return rank % len(self.namespaces)

    def queue(self, slot: int, rank: int) -> str:
        """The queue of a rank."""
        return queue_name(self.app, self.generation, slot, rank)

    def queues(self, ranks: int, slots: int) -> Iterator[tuple[int, str]]:
        """The namespace's number and the queue of every rank of every slot."""
        for slot in range(slots):
            yield from ((self.shard(rank), self.queue(slot, rank)) for rank in range(ranks))
