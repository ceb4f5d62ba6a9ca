"""Measures the stand-in for Azure Service Bus: processor time, latency, memory, and the opening of links.

    python benchmarks/service_bus.py [--small]

The clients are those of the unmodified azure-servicebus. ``--small`` sends few messages and takes seconds. The processor time is that of
the stand-in alone. All times are those of this machine, not those of the cloud.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiveMode, ServiceBusReceiver, ServiceBusSender

from fsd_conformance.emulators.process import Guard
from fsd_conformance.emulators.service_bus.server import ServiceBusServer

fork = multiprocessing.get_context("fork")
SIZE = 10_000
LOCK = ServiceBusReceiveMode.PEEK_LOCK
DELETE = ServiceBusReceiveMode.RECEIVE_AND_DELETE


@contextmanager
def standin(queues: int) -> Iterator[ServiceBusServer]:
    """Run the stand-in with queues q0, q1, ... within the block."""
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard(Path(folder))
        server = ServiceBusServer(Path(folder), guard, {"bench": [f"q{number}" for number in range(queues)]})
        server.start()
        try:
            yield server
        finally:
            server.stop()
            guard.end()


def connect(server: ServiceBusServer) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(server.connection_string(), retry_total=0)


def process_status(server: ServiceBusServer, what: str) -> str:
    """The value that ``ps`` prints for the stand-in in column ``what``."""
    assert server.process
    return subprocess.run(
        ["ps", "-o", f"{what}=", "-p", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.strip()


def processor_s(server: ServiceBusServer) -> float:
    """The processor time of the stand-in so far in seconds: from /proc to 0.01 s, otherwise from ``ps``."""
    assert server.process
    stat = Path(f"/proc/{server.process.pid}/stat")
    if stat.exists():
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    hours, minutes, seconds = (["0", "0", *process_status(server, "time").split(":")])[-3:]
    return 3600 * float(hours) + 60 * float(minutes) + float(seconds)


def send(sender: ServiceBusSender, body: bytes, count: int, batch: int) -> None:
    """Send ``count`` messages, ``batch`` at a time; 1: each one alone, without a batch."""
    for start in range(0, count, batch):
        if batch == 1:
            sender.send_messages(ServiceBusMessage(body))
        else:
            sender.send_messages([ServiceBusMessage(body) for _ in range(min(batch, count - start))])


def drain(receiver: ServiceBusReceiver, count: int, settle: bool) -> None:
    """Receive ``count`` messages; with ``settle``, complete each."""
    while count:
        got = receiver.receive_messages(min(count, 100), max_wait_time=30)
        if not got:
            raise SystemExit(f"{count} messages did not arrive within 30 s")
        count -= len(got)
        for message in got if settle else ():
            receiver.complete_message(message)


def processor(count: int) -> None:
    body = os.urandom(SIZE)
    for mode, how in ((LOCK, "peek-lock, each completed"), (DELETE, "receive-and-delete")):
        for batch in (20, 1):
            with ExitStack() as stack:
                server = stack.enter_context(standin(1))
                client = stack.enter_context(connect(server))
                sender, receiver = client.get_queue_sender("q0"), client.get_queue_receiver("q0", receive_mode=mode)
                stack.enter_context(sender)
                stack.enter_context(receiver)
                send(sender, body, 200, batch)
                drain(receiver, 200, mode == LOCK)
                before = processor_s(server)
                for _ in range(0, count, 500):
                    send(sender, body, 500, batch)
                    drain(receiver, 500, mode == LOCK)
                took = processor_s(server) - before
            sent = "batches of 20" if batch > 1 else "one by one"
            print(f"10 KB in + out, {sent}, {how}: {1e6 * took / count:.0f} us of processor time a message", flush=True)


def latency(count: int) -> None:
    """Measure from before the send to after the receive: one sender that pauses 2 to 6 ms, and a receive that waits.

    The receiver prefetches: without prefetch, the keep-alive of the client blocks its connection for 0.2 s of every 5 s.
    """
    with standin(1) as server:
        ready = fork.Event()

        def publish() -> None:
            pause = random.Random(1)
            with connect(server) as client, client.get_queue_sender("q0") as sender:
                ready.wait()
                for _ in range(count):
                    time.sleep(pause.uniform(0.002, 0.006))
                    sender.send_messages(ServiceBusMessage(time.monotonic_ns().to_bytes(8, "big")))

        process = fork.Process(target=publish)
        process.start()
        took: list[float] = []
        with connect(server) as client, client.get_queue_receiver("q0", receive_mode=DELETE, prefetch_count=10) as receiver:
            ready.set()
            while len(took) < count:
                for message in receiver.receive_messages(1, max_wait_time=30):
                    took.append((time.monotonic_ns() - int.from_bytes(b"".join(message.body), "big")) / 1e6)
        process.join()
    took.sort()
    print(f"publish to a receive that waits: p50 {statistics.median(took):.2f} ms, p99 {took[int(0.99 * len(took))]:.2f} ms, n {count}")


def memory(total: int) -> None:
    """Print the resident memory of the stand-in before and after it passed on ``total`` bytes."""
    body = os.urandom(SIZE)
    with standin(1) as server, connect(server) as client:
        before = int(process_status(server, "rss"))
        with client.get_queue_sender("q0") as sender, client.get_queue_receiver("q0", receive_mode=DELETE) as receiver:
            for _ in range(0, total, 200 * SIZE):
                send(sender, body, 200, 20)
                drain(receiver, 200, False)
        after = int(process_status(server, "rss"))
    print(f"memory: {before / 1024:.0f} MB at the start, {after / 1024:.0f} MB after {total / 1e9:.2f} GB", flush=True)


def links(sizes: tuple[int, ...]) -> None:
    """Print the seconds until one of P workers has its receiver and a sender to each other worker, with a thread for each."""
    with standin(max(sizes)) as server:
        for workers in sizes:
            with connect(server) as client, ThreadPoolExecutor(workers) as pool:
                handlers = [client.get_queue_sender(f"q{rank}") for rank in range(1, workers)]
                receiver = client.get_queue_receiver("q0")
                began = time.perf_counter()
                list(pool.map(lambda handler: handler.__enter__(), [receiver, *handlers]))
                took = time.perf_counter() - began
                list(pool.map(lambda handler: handler.close(), [receiver, *handlers]))
            print(f"P = {workers}: {workers} links of one worker opened in {took:.2f} s", flush=True)


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="send few messages")
    small = parser.parse_args().small
    processor(1000 if small else 10_000)
    latency(100 if small else 1000)
    memory(20_000_000 if small else 1_000_000_000)
    links((8,) if small else (8, 16, 32))


if __name__ == "__main__":
    main()
