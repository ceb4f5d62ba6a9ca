"""The harness of Azure. It tests the adapter on this project's emulators of Service Bus and Functions, and on Azurite."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from fsd_azure import PROVIDER
from fsd_azure.names import Names
from fsd_conformance.emulators.amqp_proxy import SETTLED, AmqpProxy
from fsd_conformance.emulators.azure import Azure, bus_string
from fsd_conformance.emulators.azurite import ACCOUNT
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.proxy import Proxy, Request
from fsd_conformance.harness import EmulatedHarness, Harness, Kind
from fsd_core.driver import MessageDriver, ObjectDriver, Provider, Resources

__all__ = ["HARNESSES", "AzureHarness"]

COUNTED = ("publish_requests", "object_puts", "object_gets", "object_lists")


def _nothing(**names: str) -> Resources:
    """Resources of an app that does not exist: the cases need only the services' addresses."""
    defaults = {"generation": "0" * 8, "namespaces": "none", "tier": "standard", "lease_s": "5", "blob_url": "", "container": "none"}
    return Resources("none", 1, 1, defaults | names)


class AzureHarness(EmulatedHarness):
    """The Azure provider; its SDKs use emulators while the harness runs."""

    name = "azure"
    emulator: ClassVar[type[Azure]] = Azure
    running: Azure
    lease_s = 5  # the shortest that Service Bus accepts
    few: Mapping[str, object] | None = {"concurrency": 2}

    def provider(self) -> Provider:
        """The provider."""
        return PROVIDER

    def messages_at(self, url: str) -> MessageDriver:
        """A driver of queues that do not exist. AMQP cannot use ``url``, so a proxy makes one HTTP request to ``url`` for each AMQP
        connection, and then closes the connection.
        """

        def see(what: str) -> None:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30):
                pass

        proxy = self.until_stop.enter_context(contextlib.closing(AmqpProxy(0, see)))
        with pointed({"FSD_AZURE_SERVICE_BUS": bus_string([proxy.port])}, self.emulator.clears):
            return PROVIDER.messages(_nothing(), 0)

    def objects_at(self, url: str) -> ObjectDriver:
        """A driver of a container that does not exist: the cases need only requests to ``url``."""
        string = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey=bm9uZQ==;BlobEndpoint={url}/{ACCOUNT};"
        with pointed({"AZURE_STORAGE_CONNECTION_STRING": string}, self.emulator.clears):
            return PROVIDER.objects(_nothing())

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool:
        """Request the resource with the clients of the namespaces or of the container, or from the trigger's URL."""
        match kind:
            case "messages":
                with native[0].get_queue_receiver(Names.of(resources).queue(0, 0)) as receiver:
                    return isinstance(receiver.peek_messages(), list)
            case "objects":
                return bool(native.get_blob_client(what).exists())
            case "functions":
                try:
                    urllib.request.urlopen(native, b"{}", timeout=60)
                except urllib.error.HTTPError as error:
                    return error.code == 401  # the trigger exists, and asks for a key
                return False

    @contextlib.contextmanager
    def refusing(self, resources: Resources, *, direct: bool = False) -> Iterator[tuple[MessageDriver, threading.Event]]:
        """Service Bus cannot refuse single entries. So a proxy cuts the connection before a publish, and before the second disposition of
        an ack.
        """
        refuse, settled = threading.Event(), itertools.count(1)

        def see(what: str) -> None:
            if refuse.is_set() and (what.startswith("fsd-") or (what == SETTLED and next(settled) == 2)):
                raise ConnectionAbortedError

        with contextlib.ExitStack() as stack:
            ports = [port for port, _ in self.running.bus.ports.values()]
            proxies = [stack.enter_context(contextlib.closing(AmqpProxy(port, see))) for port in ports]
            at = {"FSD_AZURE_SERVICE_BUS": bus_string(proxy.port for proxy in proxies)}
            with pointed({**self.running.env, **at}, self.running.clears):
                driver = PROVIDER.messages(resources, 0)
            yield stack.enter_context(contextlib.closing(driver)), refuse

    @contextlib.contextmanager
    def counted(self) -> Iterator[Callable[[], Mapping[str, int]]]:
        """Count the requests with proxies in front of Service Bus and Azurite, and in the Functions host. Only apps count that are deployed
        within the block.

        The proxies do not count receives, which send nothing over the network, or acks, which send a disposition for each message.
        """
        seen: Counter[str] = Counter()
        lock = threading.Lock()

        def see(what: str) -> None:
            with lock:
                seen[what] += 1

        def sent(target: str) -> None:
            see("publish_requests" if target.startswith("fsd-") else "")  # not to $cbs, nor $management

        with contextlib.ExitStack() as stack:
            bus, objects, functions = self.running.bus, self.running.objects, self.running.functions
            proxies = [stack.enter_context(contextlib.closing(AmqpProxy(port, sent))) for port, _ in bus.ports.values()]
            blobs = stack.enter_context(contextlib.closing(Proxy(objects.url, lambda request: see(_operation(request)))))
            env = {
                **self.running.env,
                "FSD_AZURE_SERVICE_BUS": bus_string(proxy.port for proxy in proxies),
                "AZURE_STORAGE_CONNECTION_STRING": objects.connection_string.replace(objects.url, blobs.url),
            }
            stack.enter_context(pointed(env, self.running.clears))

            def counts() -> Mapping[str, int]:
                with urllib.request.urlopen(f"{functions.url}/_fsd/stats", timeout=30) as answer:
                    invocations = json.load(answer).get("calls", 0)
                return {name: seen[name] for name in COUNTED} | {"invocations": invocations}

            yield counts


def _operation(request: Request) -> str:
    """The meter's name of a request to Blob Storage; "" for other requests."""
    url = urlsplit(request.path)
    blob = len(url.path.strip("/").split("/")) > 2  # account, container, name
    if "list" in parse_qs(url.query).get("comp", ()):
        return "object_lists"
    return {"PUT": "object_puts", "GET": "object_gets"}.get(request.method, "") if blob else ""


HARNESSES: Mapping[str, type[Harness]] = {AzureHarness.name: AzureHarness}
