"""Service Bus namespaces of an app, and its queues, one for every rank of every slot: making them, and removing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fsd_azure import clients
from fsd_azure import names as naming
from fsd_azure.connection_strings import service_bus_hosts
from fsd_azure.limits import TIERS
from fsd_azure.names import Names, generation_of
from fsd_azure.policy import APP_TAG, namespace_id
from fsd_core.driver import Code
from fsd_core.errors import InputError
from fsd_core.providers.provisioning import Pair

if TYPE_CHECKING:
    from azure.servicebus.management import ServiceBusAdministrationClient

    from fsd_azure.api import Api

__all__ = ["MOST", "TTL_S", "count", "hosts", "make", "make_namespaces", "remove", "there"]

TTL_S = 86_400  # no run is longer: its functions end at [azure] timeout_s, which is less than a day
DELIVERIES = 2000  # the most that a queue takes: a message that is not acknowledged is core's to judge
LAYERS_S = 8  # layers a second that the namespaces are to pass together, of ranks that all send to each other
MOST = 8  # unless the settings say more: a namespace has a base charge of about 10 dollars a month, used or not
_HOST = "servicebus.windows.net"


def count(tier: str, ranks: int) -> int:
    """How many namespaces so many ranks need by the tier's credits for `LAYERS_S` layers a second, `MOST` at most.

    Of n ranks that all send to each other, a layer is n (n - 1) messages, each in and out; a namespace bears what its own ranks receive,
    from whomever. From 23 ranks on it is slower than that: 4 layers a second of 32, 1 of 62.
    """
    there = TIERS[tier].credits
    return 1 if there is None else max(1, min(MOST, -(-2 * ranks * (ranks - 1) * LAYERS_S // there)))


def hosts(api: Api, app: str, number: int) -> list[str]:
    """The hosts of the namespaces that the app makes."""
    return [f"{naming.namespace(app, api.subscription, api.group(app), each)}.{_HOST}" for each in range(number)]


def there(api: Api, app: str) -> list[str]:
    """The hosts of the namespaces that are there: given, or made."""
    names = (path.rpartition("/")[2] for path in api.owned(app)[0] if "/microsoft.servicebus/namespaces/" in path.lower())
    return service_bus_hosts() or [f"{name}.{_HOST}" for name in names]


def make_namespaces(api: Api, app: str, names: Mapping[str, str]) -> None:
    """Make the app's namespaces. `InputError`: one is somebody else's."""

    def one(host: str) -> None:
        path, tier = namespace_id(names, host), names["tier"].capitalize()
        found = api.find(path)
        if found and not api.owns(found, app):
            raise InputError(f"app {app!r}: a namespace {host} is there that fsd did not make; choose another app")
        if found and str(found.get("sku", {}).get("name", tier)) != tier:
            raise InputError(
                f"[azure] tier = {names['tier']!r}: namespace {host} is of the tier {found['sku']['name']}; destroy the app first"
            )
        sku = {"name": tier, "tier": tier} | ({"capacity": 1} if tier == "Premium" else {})
        properties = {"minimumTlsVersion": "1.2", "disableLocalAuth": True}  # no keys: identities alone
        if not found:
            api.put(path, {"location": names["region"], "tags": {APP_TAG: app}, "sku": sku, "properties": properties})

    api.each(one, names["namespaces"].split(","))


@contextmanager
def _administration(namespaces: Sequence[str]) -> Iterator[list[ServiceBusAdministrationClient]]:
    with ExitStack() as stack:
        yield [stack.enter_context(clients.administration(tuple(namespaces), number)) for number in range(len(namespaces))]


def make(api: Api, names: Names, pairs: Sequence[Pair], lease_s: int, message_kb: int) -> None:
    """Make the queues of the pairs, or give them this lock duration."""
    lock = timedelta(seconds=lease_s)
    settings: dict[str, Any] = {
        "lock_duration": lock,
        "max_delivery_count": DELIVERIES,
        "default_message_time_to_live": timedelta(seconds=TTL_S),
        **({"max_message_size_in_kilobytes": message_kb} if message_kb else {}),
    }
    with _administration(names.namespaces) as admins:

        def one(pair: Pair) -> None:
            admin, queue = admins[names.shard(pair[1])], names.queue(*pair)
            made = api.unless(Code.ALREADY_EXISTS, f"queue {queue}", lambda: admin.create_queue(queue, **settings))
            if made is None:
                found = api.repeat(f"queue {queue}", lambda: admin.get_queue(queue))
                if found.lock_duration != lock:
                    found.lock_duration = lock
                    api.repeat(f"queue {queue}", lambda: admin.update_queue(found))

        api.each(one, pairs)


def remove(api: Api, app: str, namespaces: Sequence[str], keep: str | None = None) -> list[str]:
    """Remove the queues of an app but those of generation ``keep``; a line for each."""
    with _administration(namespaces) as admins:

        def listed(admin: ServiceBusAdministrationClient) -> list[str]:
            return api.repeat("list of queues", lambda: [str(each.name) for each in admin.list_queues()])

        found = api.each(listed, admins)
        old = [
            (admin, name)
            for admin, named in zip(admins, found, strict=True)
            for name in named
            if generation_of(app, name) not in (None, keep)
        ]

        def gone(item: tuple[ServiceBusAdministrationClient, str]) -> str | None:
            admin, name = item

            def delete() -> bool:
                admin.delete_queue(name)
                return True

            return name if api.unless(Code.NOT_FOUND, f"removing queue {name}", delete) else None

        return sorted(f"queue {name}" for name in api.each(gone, old) if name)
