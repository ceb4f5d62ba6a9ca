"""The stand-in as a server that an emulator starts: one namespace or several, at ports that stay the same after a restart."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fsd_conformance.emulators.process import Guard, Server, free_port
from fsd_conformance.emulators.service_bus.config import FOREVER

__all__ = ["ServiceBusServer"]


class ServiceBusServer(Server):
    """The command with these namespaces, each with its queues by name; more can be made by the administration API.

    ``port`` is that of the first namespace's administration; ``arguments``: of the command, for a tier, a throttle or faults.
    """

    name = "service_bus"
    health = "/health"
    grace_s = 0.0

    def __init__(
        self,
        folder: Path,
        guard: Guard | None = None,
        namespaces: Mapping[str, Sequence[str]] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, guard)
        self._namespaces = namespaces or {"sbemulatorns": ()}
        self._arguments = tuple(arguments)
        free = {self.port: None}
        while len(free) < 2 * len(self._namespaces):
            free[free_port()] = None
        admin, amqp = list(free)[: len(self._namespaces)], list(free)[len(self._namespaces) :]
        self.ports = {name: (amqp[index], admin[index]) for index, name in enumerate(self._namespaces)}  # AMQP, administration

    def connection_string(self, namespace: str | None = None) -> str:
        """What azure-servicebus connects with; by default to the first namespace. Any key is good."""
        amqp, _ = self.ports[namespace or next(iter(self.ports))]
        key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=none"
        return f"Endpoint=sb://127.0.0.1:{amqp};{key};UseDevelopmentEmulator=true;"

    def command(self) -> Sequence[str]:
        """In this interpreter; its configuration is in the folder."""
        made = {"MaxDeliveryCount": 10, "DefaultMessageTimeToLive": FOREVER}  # as the service has it, not the vendor's emulator
        spaces = [
            {"Name": name, "Queues": [{"Name": queue, "Properties": made} for queue in queues]} for name, queues in self._namespaces.items()
        ]
        file = self.folder / "Config.json"
        file.write_text(json.dumps({"UserConfig": {"Namespaces": spaces}}))
        ports = [f"--{kind}-port={port}" for pair in self.ports.values() for kind, port in zip(("amqp", "admin"), pair, strict=True)]
        return [sys.executable, "-m", "fsd_conformance.emulators.service_bus", "--config", str(file), *ports, *self._arguments]
