"""Azure on this machine: this project's Service Bus with two namespaces, Microsoft's Azurite for Blob Storage, this project's Functions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fsd_conformance.emulators import azurite
from fsd_conformance.emulators.azurite import Azurite
from fsd_conformance.emulators.emulator import Emulator
from fsd_conformance.emulators.install import packages
from fsd_conformance.emulators.process import POINTERS, Guard, Server
from fsd_conformance.emulators.service_bus.server import ServiceBusServer
from fsd_conformance.emulators.service_bus.throttle import CREDITS
from fsd_core.providers.proxies import local_only

__all__ = ["NAMESPACES", "SUBSCRIPTION", "Azure", "Functions"]

SUBSCRIPTION = "00000000-0000-4000-8000-0000000f5d00"
NAMESPACES = ("fsd-0", "fsd-1")  # two, so that ranks use different namespaces


class Functions(Server):
    """This project's Functions host and control plane. Functions get the addresses of other services from their settings."""

    name = "azure-functions"
    health = "/health"

    def __init__(self, folder: Path, guard: Guard | None, arguments: Sequence[str]) -> None:
        super().__init__(folder, guard)
        self._arguments = arguments

    def command(self) -> Sequence[str]:
        """The command line, which uses this interpreter."""
        home = self.folder / "functions"  # of the functions' logs
        module = "fsd_conformance.emulators.azure_functions"
        flags = ("--port", str(self.port), "--home", str(home), "--subscription", SUBSCRIPTION)
        return [sys.executable, "-m", module, *flags, *self._arguments]


class Azure(Emulator):
    """Clients use connection strings, and so do functions, which get them from the deployer: no service asks for an identity."""

    name = "azure"
    clears = POINTERS["azure"]
    settings: ClassVar[Mapping[str, object]] = {"package": False}  # functions run the code that is installed here
    messages: ClassVar[Sequence[str]] = ("--throttle", str(CREDITS))  # flags of the Service Bus: the Standard tier's throttle, or faults
    arguments: ClassVar[Sequence[str]] = ()  # flags of the Functions host

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        self.bus = ServiceBusServer(folder, guard, dict.fromkeys(NAMESPACES, ()), self.messages)
        self.objects = Azurite(folder, guard)
        self.functions = Functions(folder, guard, self.arguments)
        self.servers = (self.bus, self.objects, self.functions)
        self.env = {
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "AZURE_CONFIG_DIR": os.path.join(folder, "az"),  # not the user's own login
            "FSD_AZURE_SERVICE_BUS": bus_string(port for port, _ in self.bus.ports.values()),
            "FSD_AZURE_SERVICE_BUS_ADMINISTRATION": " ".join(f"{self.bus.host}:{port}" for _, port in self.bus.ports.values()),
            "AZURE_STORAGE_CONNECTION_STRING": self.objects.connection_string,
            "FSD_AZURE_ENDPOINT": self.functions.url,
            **local_only(os.environ),
        }

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Install missing SDKs, and Azurite. Raises `InputError` without Node.js."""
        packages(("azure", "emulators"), tell)
        azurite.install(tell)


def bus_string(ports: Iterable[int]) -> str:
    """A connection string for each port on this machine, separated by spaces."""
    key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=none"
    return " ".join(f"Endpoint=sb://127.0.0.1:{port};{key};UseDevelopmentEmulator=true;" for port in ports)
