"""A stand-in for Service Bus for tests, as a process, and a client that speaks raw AMQP to it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusClient
from azure.servicebus.management import ServiceBusAdministrationClient

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.codec import NULL, AmqpError, Described, boolean, described, encode, listed, string, uint

PATIENCE_S = 60.0


class PlainHttp(RequestsTransport):  # type: ignore[misc]
    """The administration client's way to a server without TLS."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def connection_string(port: int) -> str:
    return f"Endpoint=sb://localhost:{port};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true;"


class StandIn:
    """A running one. ``queues``: name -> properties, of the first namespace; ``others``: further namespaces with a queue q each."""

    def __init__(self, folder: Path, queues: dict[str, dict[str, Any]], flags: Sequence[str] = (), others: Sequence[str] = ()) -> None:
        spaces = [{"Name": "one", "Queues": [{"Name": name, "Properties": values} for name, values in queues.items()]}]
        spaces += [{"Name": name, "Queues": [{"Name": "q"}]} for name in others]
        file = folder / "Config.json"
        file.write_text(json.dumps({"UserConfig": {"Namespaces": spaces, "Logging": {"Type": "File"}}}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fsd_conformance.emulators.service_bus", "--config", str(file), "--until-stdin-closes", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.port = self.ready["amqp_port"]

    def client(self, namespace: str = "one", **settings: Any) -> ServiceBusClient:
        port = self.ready["namespaces"][namespace]["amqp_port"]
        return ServiceBusClient.from_connection_string(connection_string(port), **{"retry_total": 0, **settings})

    def administration(self, namespace: str = "one") -> ServiceBusAdministrationClient:
        port = self.ready["namespaces"][namespace]["admin_port"]
        transport = PlainHttp(use_env_settings=False)
        return ServiceBusAdministrationClient.from_connection_string(connection_string(port), transport=transport, retry_total=0)

    def raw(self) -> Raw:
        return Raw(self.port)

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(folder: Path, queues: dict[str, dict[str, Any]], *flags: str, others: Sequence[str] = ()) -> Iterator[StandIn]:
    """Within the block it runs, and it ends well."""
    standin = StandIn(folder, queues, flags, others)
    try:
        yield standin
    finally:
        code = standin.stop()
    assert code == 0


class Raw:
    """A client without manners: it sends what it is told, and reads frame by frame."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._held = b""

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def frame(self, performative: int, *fields: bytes, channel: int = 0, payload: bytes = b"") -> None:
        body = described(performative, listed(*fields)) + payload
        self.send((8 + len(body)).to_bytes(4, "big") + b"\x02\x00" + channel.to_bytes(2, "big") + body)

    def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end of the connection."""
        while len(self._held) < count:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                break
            self._held += data
        found, self._held = self._held[:count], self._held[count:]
        return found

    def read(self) -> tuple[int, frames.Fields, bytes] | None:
        """The next performative that is no heartbeat, its fields and its payload; `None` at the end of the connection."""
        while True:
            head = self.take(8)
            if len(head) < 8:
                return None
            body = self.take(int.from_bytes(head[:4], "big") - 8)
            if body:
                code, fields, after = frames.read(body, 0, len(body))
                return code, fields, body[after:]

    def until(self, performative: int) -> tuple[frames.Fields, bytes]:
        """The next of this kind; others are passed over."""
        while (found := self.read()) is not None:
            if found[0] == performative:
                return found[1], found[2]
        raise AssertionError(f"the connection ended before 0x{performative:02x} came")

    def open(self, frame_bytes: int = 65_536, window: int = 5000) -> Raw:
        """Open, and begin a session."""
        self.send(frames.AMQP)
        self.frame(frames.OPEN, string("raw"), NULL, uint(frame_bytes))
        self.frame(frames.BEGIN, NULL, uint(0), uint(window), uint(5000))
        assert self.take(8) == frames.AMQP
        self.until(frames.BEGIN)
        return self

    def attach(self, address: str, *, receives: bool, handle: int = 0, settled: bool = False) -> Raw:
        """A link; its answer is read."""
        ends = [described(0x28, listed(string(address))), described(0x29, listed(string(address)))]
        modes = (b"\x50\x01" if settled else b"\x50\x00", b"\x50\x00")
        self.frame(
            frames.ATTACH,
            string(f"link-{handle}"),
            uint(handle),
            boolean(receives),
            *modes,
            *ends,
            NULL,
            NULL,
            NULL if receives else uint(0),
        )
        self.until(frames.ATTACH)
        return self

    def grant(self, credit: int, *, handle: int = 0, count: int = 0, received: int = 0, window: int = 5000, drain: bool = False) -> None:
        """Credit for a link, after ``count`` deliveries and ``received`` transfers."""
        fields = (uint(received), uint(window), uint(0), uint(5000), uint(handle), uint(count), uint(credit), NULL, boolean(drain))
        self.frame(frames.FLOW, *fields)

    def transfer(self, payload: bytes, *, handle: int = 0, number: int = 0, form: int = 0) -> None:
        self.frame(frames.TRANSFER, uint(handle), uint(number), encode(b"t"), uint(form), boolean(False), boolean(False), payload=payload)

    def error(self) -> AmqpError:
        """What the connection is closed with; nothing comes after it."""
        fields, _ = self.until(frames.CLOSE)
        error = fields.get(0)
        assert isinstance(error, Described)
        assert error.descriptor == 0x1D
        assert isinstance(error.value, list)
        assert self.read() is None
        return AmqpError(error.value[0], error.value[1])

    def close(self) -> None:
        self.socket.close()


def message(body: bytes) -> bytes:
    """An encoded message."""
    return described(0x75, encode(body))
