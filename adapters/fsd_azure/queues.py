"""Makes and removes an app's Service Bus namespaces and its queues, one for every rank of every slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fsd_azure import clients
from fsd_azure import names as naming
from fsd_azure.connection_strings import service_bus_hosts
from fsd_azure.limits import TIERS
from fsd_azure.names import Names
from fsd_azure.policy import APP_TAG, SPACE, namespace_id, space
from fsd_core.driver import Code
from fsd_core.errors import InputError
from fsd_core.providers.environment import foreign
from fsd_core.providers.names import outdated
from fsd_core.providers.probes import Pair

if TYPE_CHECKING:
    from azure.servicebus.management import ServiceBusAdministrationClient

    from fsd_azure.api import Api

__all__ = ["MAX_NAMESPACES", "TTL_S", "administration", "count", "existing_hosts", "hosts", "make", "make_namespaces", "remove"]

TTL_S = 86_400  # no run is longer: its functions end at [azure] timeout_s, which is less than a day
DELIVERIES = 2000  # the largest value that a queue accepts: fsd_core, not the queue, drops a message that is never acknowledged
LAYERS_S = 8  # layers per second that all namespaces together should allow if every rank sends to every other rank
MAX_NAMESPACES = 8  # the limit if [azure] namespaces is 0: each namespace costs about 10 dollars per month, used or not
_HOST = "servicebus.windows.net"


def count(tier: str, ranks: int) -> int:
    """The number of namespaces, 1 to `MAX_NAMESPACES`, whose credits allow ``ranks`` ranks to compute `LAYERS_S` layers per second.

    Where all of n ranks send to each other, a layer is n (n - 1) messages, each counted in and out. A namespace carries the messages that
    its own ranks receive. With 23 ranks or more, even `MAX_NAMESPACES` namespaces allow fewer layers: 4 per second with 32 ranks, 1 per
    second with 62.
    """
    credits = TIERS[tier].credits
    return 1 if credits is None else max(1, min(MAX_NAMESPACES, -(-2 * ranks * (ranks - 1) * LAYERS_S // credits)))


def hosts(api: Api, app: str, number: int) -> list[str]:
    """The hosts of the namespaces that the app makes."""
    return [f"{naming.namespace(app, api.subscription, api.group(app), each)}.{_HOST}" for each in range(number)]


def existing_hosts(api: Api, app: str) -> list[str]:
    """The hosts of the app's namespaces that exist: given by connection strings, or made."""
    names = (path.rpartition("/")[2] for path in api.owned(app)[0] if "/microsoft.servicebus/namespaces/" in path.lower())
    return service_bus_hosts() or [f"{name}.{_HOST}" for name in names]


def make_namespaces(api: Api, app: str, names: Mapping[str, str]) -> None:
    """Make the app's namespaces. Raises `InputError` where a namespace is not the app's, or has another tier."""

    def one(host: str) -> None:
        path, tier = namespace_id(names, host), names["tier"].capitalize()
        found = api.find(path)
        if found and not api.owns(found, app):
            raise foreign(app, f"a namespace {host}")
        if found and str(found.get("sku", {}).get("name", tier)) != tier:
            raise InputError(
                f"[azure] tier = {names['tier']!r}: namespace {host} has the tier {found['sku']['name']}: "
                "expected the same tier: correct the setting, or destroy the app first"
            )
        sku = {"name": tier, "tier": tier} | ({"capacity": 1} if tier == "Premium" else {})
        if not found or not SPACE.items() <= found.get("properties", {}).items():
            api.put(path, {"location": names["region"], "tags": {APP_TAG: app}, "sku": sku} | space(names))

    api.each(one, names["namespaces"].split(","))


@contextmanager
def administration(namespaces: Sequence[str]) -> Iterator[list[ServiceBusAdministrationClient]]:
    """Within the block, a client of each namespace that makes, reads and removes queues."""
    with ExitStack() as stack:
        yield [stack.enter_context(clients.administration(tuple(namespaces), number)) for number in range(len(namespaces))]


def make(api: Api, names: Names, pairs: Sequence[Pair], lease_s: int, message_kb: int) -> None:
    """Make the queue of each pair; a queue that exists gets the lock duration ``lease_s`` (seconds) and the retention."""
    lock = timedelta(seconds=lease_s)
    settings: dict[str, Any] = {
        "lock_duration": lock,
        "max_delivery_count": DELIVERIES,
        "default_message_time_to_live": timedelta(seconds=TTL_S),
        **({"max_message_size_in_kilobytes": message_kb} if message_kb else {}),
    }
    with administration(names.namespaces) as admins:

        def one(pair: Pair) -> None:
            admin, queue = admins[names.shard(pair[1])], names.queue(*pair)
            made = api.unless(Code.ALREADY_EXISTS, f"queue {queue}", lambda: admin.create_queue(queue, **settings))
            if made is None:
                found = api.repeat(f"queue {queue}", lambda: admin.get_queue(queue))
                if (found.lock_duration, found.default_message_time_to_live) != (lock, settings["default_message_time_to_live"]):
                    found.lock_duration, found.default_message_time_to_live = lock, settings["default_message_time_to_live"]
                    api.repeat(f"queue {queue}", lambda: admin.update_queue(found))

        api.each(one, pairs)


def remove(api: Api, app: str, namespaces: Sequence[str], keep: str | None = None) -> list[str]:
    """Remove the queues of an app except those of generation ``keep``. Returns one line of text for each."""
    with administration(namespaces) as admins:

        def listed(admin: ServiceBusAdministrationClient) -> list[str]:
            return api.repeat("list of queues", lambda: [str(each.name) for each in admin.list_queues()])

        found = api.each(listed, admins)
        old = [(admin, name) for admin, named in zip(admins, found, strict=True) for name in named if outdated(app, name, keep)]

        def gone(item: tuple[ServiceBusAdministrationClient, str]) -> str | None:
            admin, name = item

            def delete() -> bool:
                admin.delete_queue(name)
                return True

            return name if api.unless(Code.NOT_FOUND, f"removing queue {name}", delete) else None

        return sorted(f"queue {name}" for name in api.each(gone, old) if name)
