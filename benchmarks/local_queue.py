"""Compares two queues for the local provider: a folder with renames, and SQLite in WAL mode. In both, a named pipe wakes a receiver.

``python benchmarks/local_queue.py`` prints for each queue: the latency from publish to receive in an idle queue (median, p99; one sender,
pauses of 2 to 6 ms); the messages and batches per second among 8 processes that send to each other, receive and acknowledge at once, and
their CPU seconds; and the CPU time of a receiver that waits. Times are in milliseconds, on this machine.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import select
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from fsd_core.driver import Delivery, Message
from fsd_local.messages import LocalMessages
from fsd_local.provision import LocalProvisioner

PROCESSES = 8
fork = multiprocessing.get_context("fork")


class SqliteMessages:
    """The queue in SQLite: only what the comparison needs. One database for each queue, no fsync, the same named pipe."""

    def __init__(self, root: str, slot: int, lease_s: float) -> None:
        self._slot, self._lease_s = os.path.join(root, "queues", str(slot)), lease_s
        self._open: dict[int, sqlite3.Connection] = {}

    def _queue(self, rank: int) -> sqlite3.Connection:
        if rank not in self._open:
            base = sqlite3.connect(f"{self._slot}/{rank}/queue.db", timeout=60, isolation_level=None)
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=OFF")
            base.execute("CREATE TABLE IF NOT EXISTS m (id INTEGER PRIMARY KEY, visible REAL NOT NULL, body BLOB NOT NULL)")
            self._open[rank] = base
        return self._open[rank]

    def publish(self, messages: Sequence[Message]) -> None:
        """Write the messages of each rank in one transaction."""
        for rank in {m.rank for m in messages}:
            base = self._queue(rank)
            base.execute("BEGIN IMMEDIATE")
            base.executemany("INSERT INTO m (visible, body) VALUES (0, ?)", [(m.body,) for m in messages if m.rank == rank])
            base.execute("COMMIT")
            LocalMessages._ring(f"{self._slot}/{rank}/bell")

    def receive(self, rank: int, limit: int, wait_s: float) -> list[Delivery]:
        """Receive messages. Begins a write transaction only if a query has found a message."""
        base, deadline = self._queue(rank), time.monotonic() + wait_s
        bell = os.open(f"{self._slot}/{rank}/bell", os.O_RDWR | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(bell, select.POLLIN)
            while True:
                with suppress(BlockingIOError):
                    os.read(bell, 65536)
                now = time.time()
                if base.execute("SELECT 1 FROM m WHERE visible <= ? LIMIT 1", (now,)).fetchone():
                    base.execute("BEGIN IMMEDIATE")
                    rows = base.execute("SELECT id, body FROM m WHERE visible <= ? ORDER BY id LIMIT ?", (now, limit)).fetchall()
                    base.executemany("UPDATE m SET visible = ? WHERE id = ?", [(now + self._lease_s, number) for number, _ in rows])
                    base.execute("COMMIT")
                    if rows:
                        return [Delivery(number, body) for number, body in rows]
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                poll.poll(1000 * min(left, self._lease_s))
        finally:
            os.close(bell)

    def ack(self, rank: int, tokens: Sequence[object]) -> None:
        """One transaction."""
        base = self._queue(rank)
        base.execute("BEGIN IMMEDIATE")
        base.executemany("DELETE FROM m WHERE id = ?", [(token,) for token in tokens])
        base.execute("COMMIT")


Queue = LocalMessages | SqliteMessages


def latency(make: Callable[[], Queue], count: int) -> list[float]:
    """Milliseconds from before publish to after receive, with the receiver waiting."""
    ready = fork.Event()

    def send() -> None:
        queue, pause = make(), random.Random(1)
        ready.wait()
        for _ in range(count):
            time.sleep(pause.uniform(0.002, 0.006))
            queue.publish([Message(0, time.monotonic_ns().to_bytes(8, "big"))])

    sender = fork.Process(target=send)
    sender.start()
    queue, taken = make(), list[float]()
    queue.receive(0, 10, 0)
    ready.set()
    while len(taken) < count:
        deliveries = queue.receive(0, 10, 20)
        now = time.monotonic_ns()
        taken += [(now - int.from_bytes(d.body, "big")) / 1e6 for d in deliveries]
        queue.ack(0, [d.token for d in deliveries])
    sender.join()
    return taken


def all_to_all(make: Callable[[], Queue], size: int, count: int) -> float:
    """Seconds until each process has received ``count`` messages of ``size`` bytes from each other one."""
    gate = fork.Barrier(PROCESSES + 1)
    batch = max(1, min(10, (1 << 20) // size))

    def work(rank: int) -> None:
        queue, body, others = make(), os.urandom(size), [r for r in range(PROCESSES) if r != rank]
        gate.wait()
        outgoing = [Message(target, body) for _ in range(count) for target in others]
        missing = count * len(others)
        while missing or outgoing:
            if outgoing:
                queue.publish(outgoing[:batch])
                del outgoing[:batch]
            if missing:
                deliveries = queue.receive(rank, 10, 0 if outgoing else 20)
                missing -= len(deliveries)
                if deliveries:
                    queue.ack(rank, [d.token for d in deliveries])

    workers = [fork.Process(target=work, args=(rank,)) for rank in range(PROCESSES)]
    for worker in workers:
        worker.start()
    gate.wait()
    start = time.monotonic()
    for worker in workers:
        worker.join()
    return time.monotonic() - start


def main() -> None:
    """Print the table."""
    for name, kind in (("folder", LocalMessages), ("sqlite", SqliteMessages)) * 2:
        with tempfile.TemporaryDirectory() as root:
            resources = LocalProvisioner({"root": root}).ensure("bench", PROCESSES, 3)

            def queues(slot: int, kind: type[Queue] = kind, root: str = resources.names["root"]) -> Callable[[], Queue]:
                return lambda: kind(root, slot, 600.0)

            took = sorted(latency(queues(0), 1000))
            print(f"{name}: idle latency median {statistics.median(took):.2f} ms, p99 {took[int(0.99 * len(took))]:.2f} ms")
            for slot, (size, count) in enumerate(((10_000, 100), (200_000, 12)), 1):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds = all_to_all(queues(slot), size, count)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                messages = count * PROCESSES * (PROCESSES - 1)
                print(f"{name}: {size // 1000} KB: {messages / seconds:.0f} messages/s, {1e6 * cpu / messages:.0f} us of CPU a message")
            start = time.process_time()
            kind(resources.names["root"], 0, 2.0).receive(1, 10, 6)
            print(f"{name}: a receiver that waits uses {100 * (time.process_time() - start) / 6:.2f} % of a core")


if __name__ == "__main__":
    main()
