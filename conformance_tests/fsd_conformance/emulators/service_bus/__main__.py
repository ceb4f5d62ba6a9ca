"""Azure Service Bus on this machine: ``python -m fsd_conformance.emulators.service_bus --config Config.json``.

An AMQP 1.0 peer for the unmodified azure-servicebus, without TLS, in memory. When it is ready it prints one line of JSON:
{"amqp_port", "admin_port", "namespaces": {name: {"amqp_port", "admin_port"}}, "pid"}; the first two are the first namespace's.
A client that wants the second namespace uses its port: Endpoint=sb://localhost:PORT;...;UseDevelopmentEmulator=true. It ends at
SIGTERM or SIGINT and keeps nothing.

What is here and what is refused is listed in `fsd_conformance.emulators.service_bus.claims`. With the throttle a message in or out
costs a credit: one sent is refused with ServerBusy, one to deliver waits for the next second. A dead-letter queue numbers its
messages anew.
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

_NO_STDIN = "--until-stdin-closes: the standard input is nothing that somebody else could close"
_TICK_S, _INSPECT_S = 0.05, 0.5


async def serve(brokers: Sequence[Broker], amqp_ports: Sequence[int], admin_ports: Sequence[int], until_stdin_closes: bool) -> int:
    """Serve namespaces until a signal, at these ports and free ones. Raises `OSError`: a port is taken."""
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
    for broker, port in zip_longest(brokers, admin_ports, fillvalue=0):  # once one is healthy, all take messages
        assert isinstance(broker, Broker)
        http = HttpServer(Admin(broker).route, BODY_BYTES)
        await http.start(port)
        servers.append(http)
        ports[broker.name]["admin_port"] = http.port
    _every(_TICK_S, brokers, Broker.tick)
    _every(_INSPECT_S, brokers, Broker.inspect)
    gc.freeze()  # what is loaded stays
    print(json.dumps({**ports[brokers[0].name], "namespaces": ports, "pid": os.getpid()}), flush=True)
    await over.wait()
    for each in servers:
        each.close()
    for broker in brokers:
        for connection in list(broker.connections):
            connection.fail("amqp:connection:forced", "The service is shutting down.")
    return 0


def _every(seconds: float, brokers: Sequence[Broker], action: Callable[[Broker], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, _every, seconds, brokers, action)  # first: whatever happens, time goes on
    for broker in brokers:
        try:
            action(broker)
        except Exception:  # of one namespace: the others go on
            _log.exception("namespace %s", broker.name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        "python -m fsd_conformance.emulators.service_bus",
        description="Azure Service Bus on this machine: queues, and topics with correlation filters. Its ports come as a line of JSON.",
        epilog="Connect with Endpoint=sb://localhost:PORT;SharedAccessKeyName=any;SharedAccessKey=any;UseDevelopmentEmulator=true; "
        "where PORT is the AMQP port. The administration port speaks HTTP without TLS; GET /health says that it is up.",
    )
    parser.add_argument("--config", type=Path, help="the vendor emulator's Config.json; default: one namespace without queues")
    port, above, wait = _whole(0, 65_535), _whole(1, 1 << 31), _real(0.001)
    parser.add_argument("--amqp-port", type=port, action="append", help="0: a free one; once for each namespace, in the file's order")
    parser.add_argument("--admin-port", type=port, action="append", help="likewise")
    parser.add_argument("--tier", choices=tuple(TIERS), default="standard", help="what it allows holds for every namespace")
    parser.add_argument(
        "--throttle", type=above, nargs="?", const=CREDITS, default=0, metavar="CREDITS", help=f"a second a namespace: {CREDITS}"
    )
    parser.add_argument("--open-s", type=wait, default=Limits.open_s, help="until a connection must be open")
    parser.add_argument("--idle-s", type=wait, default=Limits.idle_s, help="without a frame after which a connection is closed")
    parser.add_argument("--unused-s", type=wait, default=Limits.unused_s, help="without messages or credit for them, likewise")
    parser.add_argument("--connections", type=above, default=Limits.connections, help="to a namespace at a time")
    parser.add_argument("--latency-ms", type=_real(0), default=0.0, help="fault: bytes are looked at so much later")
    parser.add_argument("--drop-after", type=above, default=0, metavar="MESSAGES", help="fault: each connection is cut after so many")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with whoever holds the other end")
    chosen = parser.parse_args(arguments)
    tier = TIERS[chosen.tier]
    try:
        if chosen.until_stdin_closes and sys.stdin is None:
            raise InputError(_NO_STDIN)
        namespaces = load(chosen.config, tier) if chosen.config else {"sbemulatorns": Entities()}
        ports = (chosen.amqp_port or [], chosen.admin_port or [])
        if max(map(len, ports)) > len(namespaces):
            raise InputError(f"--amqp-port, --admin-port: more ports than namespaces: there are {len(namespaces)}")
        if chosen.throttle and not tier.credits:
            raise InputError(f"--throttle: tier {chosen.tier} has no credits")
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
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection a link, as azure-servicebus has it
        return asyncio.run(serve(brokers, *ports, chosen.until_stdin_closes))
    except InputError as error:
        print(f"service bus: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"service bus: {error}", file=sys.stderr)
        return 2 if error.errno in (errno.EADDRINUSE, errno.EACCES) else 1  # a port that cannot be had was asked for


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 10 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return read


def _real(low: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        with suppress(ValueError):
            if low <= float(text) < math.inf:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g}")

    return read


if __name__ == "__main__":
    sys.exit(main())
