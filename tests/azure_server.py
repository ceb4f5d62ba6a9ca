"""The Service Bus stand-in and Azurite for the tests of `fsd_azure`, and an app made by hand."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fsd_azure import clients, connection_strings, names
from fsd_azure.objects import AzureObjects
from fsd_conformance.emulators.azurite import Azurite, install
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS, started
from fsd_conformance.emulators.service_bus.server import ServiceBusServer
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError
from fsd_core.providers.names import new_generation

KEY = "SharedAccessKeyName=any;SharedAccessKey=any"


def env(**pointers: str) -> Mapping[str, str]:
    return {**pointers, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def string(port: int) -> str:
    """What a client of the emulator at ``port`` connects with."""
    return f"Endpoint=sb://127.0.0.1:{port};{KEY};UseDevelopmentEmulator=true"


@contextmanager
def service_bus(*arguments: str, namespaces: Sequence[str] = ("one", "two")) -> Iterator[ServiceBusServer]:
    """Within the block the stand-in runs, and this process is its client."""
    with TemporaryDirectory() as folder:
        spaces = dict.fromkeys(namespaces, ())
        server = started(lambda: ServiceBusServer(Path(folder), namespaces=spaces, arguments=arguments))
        told = {
            connection_strings.SERVICE_BUS: "\n".join(server.connection_string(name) for name in namespaces),
            connection_strings.ADMINISTRATION: " ".join(f"127.0.0.1:{server.ports[name][1]}" for name in namespaces),
        }
        try:
            with pointed(env(**told), POINTERS["azure"]):
                yield server
        finally:
            server.stop()


@contextmanager
def storage() -> Iterator[Azurite]:
    """Azurite; where there is no Node.js, a skip that says how to get it, and a failure where CI is true."""
    try:
        install(lambda text: None)
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with TemporaryDirectory() as folder:
        server = started(lambda: Azurite(Path(folder)))
        try:
            with pointed(env(**{connection_strings.STORAGE: server.connection_string}), POINTERS["azure"]):
                yield server
        finally:
            server.stop()


def app(ranks: int = 3, slots: int = 2, **settings: str) -> Resources:
    """An app that no other test uses, on those of the servers that run."""
    name = f"t-{secrets.token_hex(4)}"
    told = {
        "generation": new_generation(),
        "namespaces": "one,two",
        "tier": "standard",
        "lease_s": "60",
        "blob_url": "http://127.0.0.1:9/nobody",
        "container": f"fsd-{name}",
    }
    made = Resources(name, ranks, slots, told | settings)
    if connection_strings.SERVICE_BUS in os.environ:
        queues(made)
    if connection_strings.STORAGE in os.environ:
        store = AzureObjects(made)
        store.native().create_container()
        store.close()
    return made


def queues(made: Resources) -> None:
    """Make the queues of an app."""
    named = names.Names.of(made)
    with ExitStack() as stack:
        count = range(len(named.namespaces))
        admins = [stack.enter_context(clients.administration(named.namespaces, number)) for number in count]
        for number, queue in named.queues(made.ranks, made.slots):
            most = {"max_message_size_in_kilobytes": int(made.names["message_kb"])} if "message_kb" in made.names else {}
            lock = timedelta(seconds=float(made.names["lease_s"]))
            admins[number].create_queue(queue, lock_duration=lock, max_delivery_count=2000, **most)


class Relay:
    """A port that leads to another one; `cut` ends all connections, and what is `held` carries nothing meanwhile."""

    def __init__(self, port: int) -> None:
        self._to, self._socket = port, socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []
        self._carrying = threading.Event()
        self._carrying.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += (near, far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._carrying.wait()
                target.sendall(data)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._carrying.clear()
        try:
            yield
        finally:
            self._carrying.set()

    def cut(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._socket.close()
        self.cut()


def code_of(driver: object, request: object, *arguments: object, **named: object) -> Code:
    """The code of what a request raises, as its driver sees it."""
    try:
        request(*arguments, **named)  # type: ignore[operator]
    except Exception as error:
        return driver.classify(error)  # type: ignore[attr-defined,no-any-return]
    raise AssertionError("nothing was raised")
