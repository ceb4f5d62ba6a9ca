"""Azure Service Bus on this machine: ``python -m fsd_conformance.emulators.service_bus --config Config.json``.

An AMQP 1.0 peer for the unmodified azure-servicebus, without TLS, in memory. When the emulator is ready it prints one line of JSON:
{"amqp_port", "admin_port", "namespaces": {name: {"amqp_port", "admin_port"}}, "pid"}; the first two are those of the first namespace. A
client of the second namespace uses that namespace's port: Endpoint=sb://localhost:PORT;...;UseDevelopmentEmulator=true. The process ends at
SIGTERM or SIGINT, and stores nothing.

`fsd_conformance.emulators.service_bus.claims` lists the supported and the refused features. With --throttle each message that is sent or
received costs one credit. When no credit is left, a message from a client is refused with ServerBusy, and a delivery waits until the next
second. A dead-letter queue gives its messages new sequence numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path

from fsd_conformance.emulators.service_bus.admin import BODY_BYTES, Admin
from fsd_conformance.emulators.service_bus.broker import TIERS, Broker, Faults, Limits
from fsd_conformance.emulators.service_bus.config import Entities, load
from fsd_conformance.emulators.service_bus.connection import Connection
from fsd_conformance.emulators.service_bus.throttle import CREDITS
from fsd_conformance.emulators.web import HttpServer
from fsd_core.errors import InputError

__all__ = ["main"]

_log = logging.getLogger(__name__)

_NO_STDIN = "--until-stdin-closes: expected a standard input that another process can close"
_TICK_S, _INSPECT_S = 0.05, 0.5


async def serve(brokers: Sequence[Broker], amqp_ports: Sequence[int], admin_ports: Sequence[int], until_stdin_closes: bool) -> int:
    """Serve the namespaces at these ports, then at free ports, until a signal. Raises `OSError` where a port is taken."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if until_stdin_closes:
        try:
            loop.add_reader(0, lambda: None if os.read(0, 4096) else over.set())
        except OSError:
            raise InputError(_NO_STDIN) from None
    ports: dict[str, dict[str, int]] = {}
    servers: list[asyncio.Server | HttpServer] = []
    for broker, port in zip_longest(brokers, amqp_ports, fillvalue=0):
        assert isinstance(broker, Broker)
        server = await loop.create_server(partial(Connection, broker), "127.0.0.1", port, backlog=1024)
        servers.append(server)
        ports[broker.name] = {"amqp_port": server.sockets[0].getsockname()[1]}
    for broker, port in zip_longest(brokers, admin_ports, fillvalue=0):  # last, so that all namespaces accept messages when it answers
        assert isinstance(broker, Broker)
        http = HttpServer(Admin(broker).route, BODY_BYTES)
        await http.start(port)
        servers.append(http)
        ports[broker.name]["admin_port"] = http.port
    _every(_TICK_S, brokers, Broker.tick)
    _every(_INSPECT_S, brokers, Broker.inspect)
    gc.freeze()  # loaded modules are never freed, so the collector can skip them
    print(json.dumps({**ports[brokers[0].name], "namespaces": ports, "pid": os.getpid()}), flush=True)
    await over.wait()
    for each in servers:
        each.close()
    for broker in brokers:
        for connection in list(broker.connections):
            connection.fail("amqp:connection:forced", "The service is shutting down.")
    return 0


def _every(seconds: float, brokers: Sequence[Broker], action: Callable[[Broker], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, _every, seconds, brokers, action)  # before the action: its errors do not stop the timer
    for broker in brokers:
        try:
            action(broker)
        except Exception:  # the other namespaces continue
            _log.exception("namespace %s", broker.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m fsd_conformance.emulators.service_bus",
        description="Azure Service Bus on this machine: queues, and topics with correlation filters. Prints its ports as a line of JSON.",
        epilog="Connect with Endpoint=sb://localhost:PORT;SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true; "
        "where PORT is the AMQP port. The administration port uses HTTP without TLS; GET /health answers once the emulator is ready.",
    )
    parser.add_argument("--config", type=Path, help="the vendor emulator's Config.json; default: one namespace without queues")
    port, above, wait = _whole(0, 65_535), _whole(1, 1 << 31), _real(0.001)
    parser.add_argument("--amqp-port", type=port, action="append", help="0: a free port; once for each namespace, in the order of the file")
    parser.add_argument("--admin-port", type=port, action="append", help="0: a free port; once for each namespace")
    parser.add_argument("--tier", choices=tuple(TIERS), default="standard", help="the tier of every namespace")
    parser.add_argument(
        "--throttle",
        type=above,
        nargs="?",
        const=CREDITS,
        default=0,
        metavar="CREDITS",
        help=f"credits per second; {CREDITS} by default",
    )
    parser.add_argument("--open-s", type=wait, default=Limits.open_s, help="seconds in which a connection must open")
    parser.add_argument("--idle-s", type=wait, default=Limits.idle_s, help="a connection is closed after this time without a frame")
    parser.add_argument("--unused-s", type=wait, default=Limits.unused_s, help="... without messages or credit")
    parser.add_argument("--connections", type=above, default=Limits.connections, help="connections of a namespace at the same time")
    parser.add_argument("--latency-ms", type=_real(0), default=0.0, help="fault: received bytes are read later by this time")
    parser.add_argument("--drop-after", type=above, default=0, metavar="MESSAGES", help="fault: cut each connection after these")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the standard input closes")
    chosen = parser.parse_args(arguments)
    tier = TIERS[chosen.tier]
    try:
        if chosen.until_stdin_closes and sys.stdin is None:
            raise InputError(_NO_STDIN)
        namespaces = load(chosen.config, tier) if chosen.config else {"sbemulatorns": Entities()}
        ports = (chosen.amqp_port or [], chosen.admin_port or [])
        if max(map(len, ports)) > len(namespaces):
            raise InputError(f"--amqp-port, --admin-port: more ports than namespaces: expected at most {len(namespaces)} of each flag")
        if chosen.throttle and not tier.credits:
            raise InputError(f"--throttle: expected the standard tier: {chosen.tier} has no credits")
        limits = Limits(chosen.open_s, chosen.idle_s, chosen.unused_s, chosen.connections)
        brokers = [Broker(name, tier, chosen.throttle, limits, Faults(chosen.latency_ms / 1000, chosen.drop_after)) for name in namespaces]
        for broker in brokers:
            entities = namespaces[broker.name]
            for queue, settings in entities.queues.items():
                broker.create(queue, settings)
            for topic, topic_settings in entities.topics.items():
                broker.create_topic(topic, topic_settings)
            for left_out in broker.left_out.values():
                print(f"service bus: {left_out}", file=sys.stderr)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # azure-servicebus opens a connection for each link
        return asyncio.run(serve(brokers, *ports, chosen.until_stdin_closes))
    except InputError as error:
        print(f"service bus: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"service bus: {error}", file=sys.stderr)
        return 2 if error.errno in (errno.EADDRINUSE, errno.EACCES) else 1  # the requested port is not available


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {low} to {high}")
        return int(text)

    return read


def _real(low: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            if low <= float(text) < math.inf:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least {low:g}")

    return read


if __name__ == "__main__":
    sys.exit(main())
