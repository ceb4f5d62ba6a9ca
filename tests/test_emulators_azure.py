"""The emulators of Azure together: what Azure's own clients find in them, the variables of processes, a proxy before AMQP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("azure.servicebus")
pytest.importorskip("azure.storage.blob")

from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusError
from azure.storage.blob import BlobServiceClient

from azure_server import queues
from fsd_azure import names
from fsd_conformance import emulators
from fsd_conformance.emulators import azurite, install
from fsd_conformance.emulators.amqp_proxy import AmqpProxy
from fsd_conformance.emulators.azure import NAMESPACES, SUBSCRIPTION, Azure, Functions, bus_string
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS, started
from fsd_conformance.emulators.service_bus.server import ServiceBusServer
from fsd_core.cli import main
from fsd_core.driver import Resources
from fsd_core.errors import InputError

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
WITHIN_S = 30.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new home that has Azurite already, at whose end nothing is up."""
    try:
        Azure.install(print)
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    there = install.folder() / f"azurite-{azurite.VERSION}"
    (tmp_path / "home" / "emulators").mkdir(parents=True)
    (tmp_path / "home" / "emulators" / there.name).symlink_to(there)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "home"
    emulators.down("azure")


def test_azurite_neither_stops_to_collect_nor_closes_connections_in_use(home: Path, tmp_path: Path) -> None:
    """What its main module finds when it is loaded, in place of the defaults: a collection after 10 minutes, 5 s for an idle connection."""
    probe = tmp_path / "main.js"
    probe.write_text(
        f"const set = require({json.dumps(str(azurite.install(print) / 'dist/src/blob/utils/constants'))});\n"
        "console.log(JSON.stringify([set.DEFAULT_GC_INTERVAL_MS / 3.6e6, set.DEFAULT_BLOB_KEEP_ALIVE_TIMEOUT, process.argv]));\n"
    )
    command = [str(probe) if part.endswith("main.js") else part for part in azurite.Azurite(tmp_path / "server").command()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected_h, idle_s, arguments = json.loads(done.stdout)
    assert (collected_h, idle_s) == (24, 3600)
    assert arguments[1:3] == [str(probe), "--blobHost"]


def exchanged(string: str, queue: str) -> list[bytes]:
    """What comes of two messages, one alone and one in a batch, by Azure's client."""
    with ServiceBusClient.from_connection_string(string) as client:
        with client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage(b"one"))
            sender.send_messages([ServiceBusMessage(b"two"), ServiceBusMessage(b"x" * 200_000)])
        with client.get_queue_receiver(queue) as receiver:
            found: list[bytes] = []
            while len(found) < 3:
                for message in receiver.receive_messages(3, WITHIN_S):
                    found.append(b"".join(message.body)[:3])
                    receiver.complete_message(message)
            return sorted(found)


def test_up_serves_azures_own_clients(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["emulators", "up", "azure", "--json"]) == 0
    up = json.loads(capfd.readouterr().out)["emulators"]["azure"]
    assert (up["name"], up["state"]) == ("azure", "running")
    assert up["servers"].keys() == {"service_bus", "azurite", "azure-functions"}
    with pointed(up["env"], POINTERS["azure"]):
        strings = os.environ["FSD_AZURE_SERVICE_BUS"].split()
        assert len(strings) == len(NAMESPACES)
        told = {"generation": "0" * 8, "namespaces": ",".join(NAMESPACES), "lease_s": "5"}
        queues(Resources("clients", 2, 1, told))
        for number, string in enumerate(strings):
            queue = names.Names("clients", "0" * 8, NAMESPACES).queue(0, number)
            assert exchanged(string, queue) == [b"one", b"two", b"xxx"]
        with BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"]) as blobs:
            blobs.create_container("a-container").upload_blob("a", b"x")
            assert blobs.get_blob_client("a-container", "a").download_blob().readall() == b"x"
    run = ["run", "radixnet:1024:6", "random:40", "--workers", "2", "--partition", "block", "--json"]
    assert main([*run, "--provider", "azure", "--emulator"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["provider"], answer["samples"], answer["workers"]) == ("azure", 40, 2)
    assert answer["meter"]["invocations"] >= 2  # one that starts late is launched again
    assert main(["emulators", "down", "azure"]) == 0
    assert emulators.state("azure") is None


def test_what_clients_and_servers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_CLIENT_SECRET", "FSD_AZURE_KEY", "IDENTITY_ENDPOINT", "AWS_PROFILE"):
        monkeypatch.setenv(name, "somewhere")
    emulator = Azure(tmp_path)
    with pointed(emulator.env, emulator.clears):
        assert not {"AZURE_CLIENT_SECRET", "FSD_AZURE_KEY", "IDENTITY_ENDPOINT"} & set(os.environ)
        assert os.environ["AZURE_SUBSCRIPTION_ID"] == SUBSCRIPTION
        told = Functions(tmp_path, None, ()).environment()
        assert "PATH" in told
        assert not any(name.startswith(("AZURE_", "FSD_AZURE_", "IDENTITY_", "AWS_")) for name in told)
    assert os.environ["AZURE_CLIENT_SECRET"] == "somewhere"
    assert emulator.env["FSD_AZURE_SERVICE_BUS"].split() == [emulator.bus.connection_string(name) for name in NAMESPACES]


def test_azurite_without_node_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"azurite needs Node\.js 20 or newer: install it"):
        azurite.install(lambda text: None)
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\n")
    node.chmod(0o755)
    with pytest.raises(InputError, match="cannot be installed without npm"):
        azurite.install(lambda text: None)
    assert not list((tmp_path / "emulators").glob("azurite-*/installed"))


# a proxy before AMQP


def test_a_proxy_sees_each_message_once(tmp_path: Path) -> None:
    server = started(lambda: ServiceBusServer(tmp_path, None, {"one": ["a-queue"]}))
    seen: Counter[str] = Counter()
    try:
        with closing(AmqpProxy(server.ports["one"][0], lambda what: seen.update([what]))) as proxy:
            assert exchanged(bus_string([proxy.port]), "a-queue") == [b"one", b"two", b"xxx"]
            assert seen["a-queue"] == 2
            assert seen.keys() == {"", "$cbs", "a-queue", "settled"}
            with socket.create_connection(("127.0.0.1", proxy.port)) as other:  # no AMQP: the server ends it
                other.sendall(b"GET / HTTP/1.1\r\n\r\n")
                other.settimeout(WITHIN_S)
                while other.recv(1 << 16):
                    pass
            assert exchanged(bus_string([proxy.port]), "a-queue") == [b"one", b"two", b"xxx"]
    finally:
        server.stop()


def test_a_proxy_that_cuts_every_connection() -> None:
    seen: list[str] = []
    with closing(AmqpProxy(0, seen.append)) as proxy:
        client = ServiceBusClient.from_connection_string(bus_string([proxy.port]), retry_total=0)
        with client, pytest.raises(ServiceBusError), client.get_queue_sender("any") as sender:
            sender.send_messages(ServiceBusMessage(b"x"))
    assert seen
    assert set(seen) == {""}
