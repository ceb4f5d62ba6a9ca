"""The emulator of Service Bus as a server process: one or more namespaces, at ports that do not change after a restart."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fsd_conformance.emulators.process import Guard, Server, free_port
from fsd_conformance.emulators.service_bus.config import FOREVER

__all__ = ["ServiceBusServer"]


class ServiceBusServer(Server):
    """The command with these namespaces and their queues; clients can make more queues with the administration API.

    ``port`` is the administration port of the first namespace. ``arguments``: flags of the command, for a tier, a throttle or faults.
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
        """The connection string of a namespace, by default the first. Any key is valid."""
        amqp, _ = self.ports[namespace or next(iter(self.ports))]
        key = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=none"
        return f"Endpoint=sb://127.0.0.1:{amqp};{key};UseDevelopmentEmulator=true;"

    def command(self) -> Sequence[str]:
        """The command line, in this interpreter. Writes the configuration file into the folder."""
        made = {"MaxDeliveryCount": 10, "DefaultMessageTimeToLive": FOREVER}  # the service's defaults, not those of the vendor's emulator
        spaces = [
            {"Name": name, "Queues": [{"Name": queue, "Properties": made} for queue in queues]} for name, queues in self._namespaces.items()
        ]
        file = self.folder / "Config.json"
        file.write_text(json.dumps({"UserConfig": {"Namespaces": spaces}}))
        ports = [f"--{kind}-port={port}" for pair in self.ports.values() for kind, port in zip(("amqp", "admin"), pair, strict=True)]
        return [sys.executable, "-m", "fsd_conformance.emulators.service_bus", "--config", str(file), *ports, *self._arguments]
