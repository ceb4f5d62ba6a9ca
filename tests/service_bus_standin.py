"""A stand-in for Service Bus for tests, as a process and within this one, and clients that speak raw AMQP to it."""

from __future__ import annotations

import asyncio
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
from fsd_conformance.emulators.service_bus.broker import Broker
from fsd_conformance.emulators.service_bus.codec import (
    NULL,
    AmqpError,
    Described,
    boolean,
    described,
    encode,
    listed,
    string,
    uint,
    ulong,
)
from fsd_conformance.emulators.service_bus.connection import Connection
from fsd_conformance.emulators.service_bus.store import QueueSettings

PATIENCE_S = 60.0


def subscription(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """As the vendor's own sample has it."""
    properties = {
        "DeadLetteringOnMessageExpiration": False,
        "DefaultMessageTimeToLive": "PT1H",
        "LockDuration": "PT1M",
        "MaxDeliveryCount": 3,
        "ForwardDeadLetteredMessagesTo": "",
        "ForwardTo": "",
        "RequiresSession": False,
    }
    entry: dict[str, Any] = {"Name": name, "Properties": properties}
    return {**entry, "Rules": [{"Name": f"rule-{number}", "Properties": rule} for number, rule in enumerate(rules)]} if rules else entry


def correlation(**fields: Any) -> dict[str, Any]:
    """A rule's properties."""
    return {"FilterType": "Correlation", "CorrelationFilter": fields}


SQL = {
    "FilterType": "Sql",
    "SqlFilter": {"SqlExpression": "sys.MessageId = '123456' AND userProp1 = 'value1'"},
    "Action": {"SqlExpression": "SET sys.To = 'Entity'"},
}
FIELDS = {
    "ContentType": "application/text",
    "CorrelationId": "id1",
    "Label": "subject1",
    "MessageId": "msgid1",
    "ReplyTo": "someQueue",
    "ReplyToSessionId": "sessionId",
    "SessionId": "session1",
    "To": "xyz",
}
TOPIC: dict[str, Any] = {  # of the vendor's own sample
    "Name": "topic.1",
    "Properties": {
        "DefaultMessageTimeToLive": "PT1H",
        "DuplicateDetectionHistoryTimeWindow": "PT20S",
        "RequiresDuplicateDetection": False,
    },
    "Subscriptions": [
        subscription("subscription.1", correlation(**FIELDS)),
        subscription("subscription.2", correlation(Properties={"prop1": "value1"})),
        subscription("subscription.3"),
        subscription("subscription.4", SQL),
    ],
}


class PlainHttp(RequestsTransport):  # type: ignore[misc]
    """The administration client's way to a server without TLS."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def connection_string(port: int) -> str:
    return f"Endpoint=sb://localhost:{port};SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true;"


class StandIn:
    """A running one. ``queues``: name -> properties, of the first namespace, and its ``topics``; ``others``: namespaces with a queue q."""

    def __init__(
        self,
        folder: Path,
        queues: dict[str, dict[str, Any]],
        flags: Sequence[str] = (),
        others: Sequence[str] = (),
        topics: Sequence[dict[str, Any]] = (),
    ) -> None:
        listed = [{"Name": name, "Properties": values} for name, values in queues.items()]
        spaces: list[dict[str, Any]] = [{"Name": "one", "Queues": listed, "Topics": list(topics)}]
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
def running(
    folder: Path,
    queues: dict[str, dict[str, Any]],
    *flags: str,
    others: Sequence[str] = (),
    topics: Sequence[dict[str, Any]] = (),
) -> Iterator[StandIn]:
    """Within the block it runs, and it ends well."""
    standin = StandIn(folder, queues, flags, others, topics)
    try:
        yield standin
    finally:
        code = standin.stop()
    assert code == 0


class Raw:
    """A client without manners: it sends what the test says, and reads frame by frame."""

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


class Wire(asyncio.Transport):
    """Keeps what is written; the other side of a connection in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.over
        self.data += data

    def close(self) -> None:
        self.over = True

    abort = close

    def is_closing(self) -> bool:
        return self.over

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Takes all."""

    def answers(self) -> list[tuple[int, frames.Fields]]:
        """The AMQP frames that were written."""
        return [(code, fields) for code, fields, _ in self.read()]

    def payloads(self) -> list[bytes]:
        """What transfers of one frame held."""
        return [payload for code, _, payload in self.read() if code == frames.TRANSFER]

    def read(self) -> list[tuple[int, frames.Fields, bytes]]:
        """The frames that were written, each with its payload."""
        found, at = [], 0
        while at < len(self.data):
            if self.data[at : at + 4] == b"AMQP":
                at += 8
                continue
            size = int.from_bytes(self.data[at : at + 4], "big")
            if size > 8:
                code, fields, after = frames.read(self.data, at + 8, at + size)
                found.append((code, fields, self.data[after : at + size]))
            at += size
        return found


def connect(broker: Broker) -> tuple[Connection, Wire]:
    connection, wire = Connection(broker), Wire()
    connection.connection_made(wire)
    return connection, wire


def frame(performative: int, *fields: bytes, channel: int = 0, payload: bytes = b"") -> bytes:
    body = described(performative, listed(*fields)) + payload
    return (8 + len(body)).to_bytes(4, "big") + b"\x02\x00" + channel.to_bytes(2, "big") + body


def ends(address: str) -> tuple[bytes, bytes]:
    return described(0x28, listed(string(address))), described(0x29, listed(string(address)))


YES, NO = b"\x41", b"\x42"
REQUEST = described(0x73, listed(ulong(1))) + described(0x74, encode({"operation": "com.microsoft:peek-message"}))
REQUEST += described(0x77, encode({"from-sequence-number": 1, "message-count": 5}))
DIALOGUE = [
    frames.AMQP,
    frame(frames.OPEN, string("client"), NULL, uint(1000), NULL, uint(60_000)),
    frame(frames.BEGIN, NULL, uint(0), uint(100), uint(100)),
    frame(frames.ATTACH, string("s"), uint(0), NO, b"\x50\x00", b"\x50\x00", *ends("q"), NULL, NULL, uint(0)),
    frame(frames.TRANSFER, uint(0), uint(0), encode(b"t"), uint(0), NO, YES, payload=message(b"x" * 500)[:200]),
    frame(frames.TRANSFER, uint(0), NULL, NULL, NULL, NULL, NO, payload=message(b"x" * 500)[200:]),
    frame(frames.TRANSFER, uint(0), uint(1), encode(b"u"), uint(0x80013700), NO, NO, payload=message(message(b"b")) * 3),
    frame(frames.ATTACH, string("r"), uint(1), YES, b"\x50\x00", b"\x50\x01", *ends("q")),
    frame(frames.FLOW, uint(0), uint(100), uint(3), uint(100), uint(1), uint(0), uint(10)),
    frame(frames.DISPOSITION, YES, uint(0), uint(1), NO, described(0x24, listed())),
    frame(frames.DISPOSITION, YES, uint(2), NULL, NO, described(0x27, listed(YES, NO))),
    frame(frames.ATTACH, string("m"), uint(2), YES, b"\x50\x00", b"\x50\x00", *ends("q/$management")),
    frame(frames.ATTACH, string("n"), uint(3), NO, b"\x50\x00", b"\x50\x00", *ends("q/$management"), NULL, NULL, uint(0)),
    frame(frames.FLOW, uint(0), uint(100), uint(3), uint(100), uint(2), uint(0), uint(10)),
    frame(frames.TRANSFER, uint(3), uint(2), encode(b"v"), uint(0), NO, NO, payload=REQUEST),
    frame(frames.DETACH, uint(1), YES),
    frame(frames.END),
    frame(frames.CLOSE),
]


def works(broker: Broker) -> None:
    """Another client sends, receives and completes a message of another queue."""
    broker.queues.pop("witness", None)
    broker.create("witness", QueueSettings())
    connection, wire = connect(broker)
    for part in (
        *DIALOGUE[:3],
        frame(frames.ATTACH, string("s"), uint(0), NO, b"\x50\x00", b"\x50\x00", *ends("witness"), NULL, NULL, uint(0)),
        frame(frames.ATTACH, string("r"), uint(1), YES, b"\x50\x00", b"\x50\x01", *ends("witness")),
        frame(frames.FLOW, uint(0), uint(100), uint(3), uint(100), uint(1), uint(0), uint(10)),
        frame(frames.TRANSFER, uint(0), uint(0), encode(b"t"), uint(0), NO, NO, payload=message(b"here")),
        frame(frames.DISPOSITION, YES, uint(0), NULL, NO, described(0x24, listed())),
    ):
        connection.data_received(part)
    codes = [code for code, _ in wire.answers()]
    assert codes.count(frames.TRANSFER) == 1
    assert frames.CLOSE not in codes
    assert message(b"here") in wire.data
    assert broker.queues["witness"].bytes == 0
    connection.connection_lost(None)
