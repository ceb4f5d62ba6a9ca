"""What everything of an app is called: pure functions of (app, generation, slot, rank, subscription). No request is made.

The keys of `Resources.names`, all strings, written by `fsd_azure.provision` and enough for every driver:

======================  ===============================================================================================
subscription, region    whose, and where
resource_group          what everything of the app is in
generation              8 hexadecimal digits, new whenever queues are made anew: an old worker finds nothing, and harms nobody
namespaces              the Service Bus namespaces' hosts, with commas between them, in the order in which ranks use them
bus                     "made" with the app, or "given" by connection strings
storage_account         its name; "" where a connection string gives one
tier                    of the namespaces: standard, premium
lease_s                 the queues' lock duration: whole seconds
message_kb              what a queue takes as one message, where that is not the tier's own limit (premium only)
blob_url, container     the storage account's address, and the container's name in it
url                     where the worker's HTTP trigger listens
memory_mb, ...          whatever else provision and invoke agree on
======================  ===============================================================================================

Each rank of each slot has one queue: a filtered topic would cost a credit for every filter that looks at a message, sent or not.
Rank r is in namespace r modulo their number, since a namespace of the Standard tier passes 1,000 messages a second.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator

import attrs

from fsd_core.driver import Resources

__all__ = ["Names", "container", "function", "generation_of", "namespace", "new_generation", "resource_group", "storage_account"]

_NAMESPACE_CHARS = 50  # letters, digits and hyphens, a letter first; it must not end in -sb or -mgmt
_ACCOUNT_CHARS = 24  # letters and digits only
_FUNCTION_CHARS = 60
_MARK_CHARS = 6


def new_generation() -> str:
    """A fresh generation."""
    return secrets.token_hex(4)


def resource_group(app: str) -> str:
    """The default resource group."""
    return f"fsd-{app}"


def namespace(app: str, subscription: str, group: str, number: int) -> str:
    """A Service Bus namespace, whose name is a host's and so unlike that of anybody in the world."""
    return _unique(app, subscription, group, _NAMESPACE_CHARS - 4, "-") + f"-{number}"


def function(app: str, subscription: str, group: str) -> str:
    """The function app, likewise the name of a host."""
    return _unique(app, subscription, group, _FUNCTION_CHARS, "-")


def container(app: str) -> str:
    """The app's container, whose name may not have two hyphens together: the others' hash makes the difference."""
    single = re.sub("-+", "-", app)
    return f"fsd-{app}" if single == app else f"fsd-{single}-{hashlib.sha256(app.encode()).hexdigest()[:_MARK_CHARS]}"


def storage_account(app: str, subscription: str, group: str) -> str:
    """The default name of the storage account, likewise the name of a host."""
    return _unique(app, subscription, group, _ACCOUNT_CHARS, "")


def _unique(app: str, subscription: str, group: str, most: int, between: str) -> str:
    """ "fsd", the app's name as far as there is room, and a hash of what makes it one of many."""
    mark = hashlib.sha256(f"{subscription.lower()}/{group.lower()}/{app}".encode()).hexdigest()[:_MARK_CHARS]
    room = most - len("fsd") - 2 * len(between) - _MARK_CHARS
    return f"fsd{between}{app.replace('-', between)[:room].rstrip('-')}{between}{mark}"


@attrs.frozen
class Names:
    """Queues of one generation of an app. ``namespaces``: hosts."""

    app: str
    generation: str
    namespaces: tuple[str, ...]

    @staticmethod
    def of(resources: Resources) -> Names:
        """From what `fsd_azure.provision` wrote."""
        return Names(resources.app, resources.names["generation"], tuple(resources.names["namespaces"].split(",")))

    def shard(self, rank: int) -> int:
        """The number of the rank's namespace."""
        return rank % len(self.namespaces)

    def queue(self, slot: int, rank: int) -> str:
        """The queue of a rank."""
        return f"fsd-{self.app}-{self.generation}-{slot}-{rank}"

    def queues(self, ranks: int, slots: int) -> Iterator[tuple[int, str]]:
        """Every rank's namespace, by number, and queue."""
        for slot in range(slots):
            yield from ((self.shard(rank), self.queue(slot, rank)) for rank in range(ranks))


def generation_of(app: str, name: str) -> str | None:
    """The generation of a queue of ``app``; None of any other: "fsd-a-" also starts the names of an app "a-b"."""
    match = re.fullmatch(rf"fsd-{re.escape(app)}-([0-9a-f]{{8}})-\d+-\d+", name)
    return match[1] if match else None
