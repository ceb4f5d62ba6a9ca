"""Compares two ways to receive messages of Pub/Sub ([gcp] receive): unary pulls, one after the other, and a stream that stays open.

``python benchmarks/pubsub_pull.py`` (Google's Pub/Sub emulator starts by itself) prints the time from publish to receive of single
messages and of bursts until the last of them, by turns, messages a second, and the CPU time of this process. The emulator's own time is
in all figures: differences matter, not sums. ``--killed`` prints after how many leases the next reader has all messages of a stream that
was killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import attrs
import numpy as np

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.pubsub import PubSub
from fsd_core.driver import Message, Resources
from fsd_gcp.clients import Session
from fsd_gcp.messages import GcpMessages
from fsd_gcp.names import Names

HERE = Resources("bench", 2, 1, {"project": "bench", "generation": "0" * 8, "lease_s": "60"})
NAMES = Names.of(HERE)
WAYS = ("pull", "stream")


class Receiver:
    """Receives again and again. Acknowledges the messages in a separate request, from another thread, as core does."""

    def __init__(self, driver: GcpMessages, rank: int) -> None:
        self.arrived: queue.Queue[float] = queue.Queue()  # when each message did, in seconds
        self._acks: queue.Queue[list[object]] = queue.Queue()
        self._open, self._driver, self._rank = True, driver, rank
        self._threads = [threading.Thread(target=self._receive), threading.Thread(target=self._acknowledge)]
        for thread in self._threads:
            thread.start()

    def _receive(self) -> None:
        while self._open:
            found = self._driver.receive(self._rank, 1000, 2.0)
            for _ in found:
                self.arrived.put(time.perf_counter())
            if found:
                self._acks.put([each.token for each in found])
        self._acks.put([])

    def _acknowledge(self) -> None:
        while tokens := self._acks.get():
            self._driver.ack(self._rank, tokens)

    def close(self) -> None:
        """Stop, after the open receive has ended."""
        self._open = False
        for thread in self._threads:
            thread.join()


def show(what: str, seconds: list[float], cpu_s: float, burst: int) -> None:
    """Print one line."""
    median, late = np.median(seconds) * 1e3, np.percentile(seconds, 99) * 1e3
    cpu, rate = 1e3 * cpu_s / len(seconds), burst / np.median(seconds)
    print(f"{what:34} median {median:7.2f} ms  p99 {late:7.2f} ms  {rate:6.0f} messages/s  CPU {cpu:6.2f} ms  n {len(seconds)}", flush=True)


def measure(receiver: Receiver, driver: GcpMessages, rank: int, count: int, burst: int) -> tuple[list[float], float]:
    """Seconds from each publish until the last of its ``burst`` messages arrived, and the CPU time of all rounds."""
    took, cpu = [], time.process_time()
    for number in range(count + 3):
        time.sleep(0.02)  # until the receive is open
        began = time.perf_counter()
        for _ in range(burst):
            driver.publish([Message(rank, os.urandom(1000 if burst == 1 else 10_000))])
        last = max(receiver.arrived.get(timeout=60) for _ in range(burst))
        if number >= 3:
            took.append(last - began)
        else:
            cpu = time.process_time()
    return took, time.process_time() - cpu


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--killed", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = PubSub(Path(folder))
        try:
            server.start()
            with pointed({"PUBSUB_EMULATOR_HOST": server.address}, ("PUBSUB_",)):
                if options.killed:
                    killed(options.rounds)
                else:
                    run(options.count, options.rounds)
        finally:
            server.stop()


def make_queues(ranks: int, lease_s: int) -> None:
    """A topic and a subscription for each rank."""
    with closing(Session(f"http://{os.environ['PUBSUB_EMULATOR_HOST']}", signed=False)) as http:
        for topic, subscription in NAMES.queues(ranks, 1):
            http.request("PUT", f"/v1/{topic}", json={})
            http.request("PUT", f"/v1/{subscription}", json={"topic": topic, "ackDeadlineSeconds": lease_s})


def killed(rounds: int, lease_s: int = 10, count: int = 50) -> None:
    """In each round, a process receives one message by a stream and is killed. The stream has brought it all other messages too."""
    make_queues(rounds, lease_s)
    here = attrs.evolve(HERE, names={**HERE.names, "lease_s": str(lease_s), "receive": "stream"})
    for rank in range(rounds):
        with closing(GcpMessages(here, 0)) as driver:
            for number in range(count):
                driver.publish([Message(rank, b"%d" % number)])
            reader = multiprocessing.get_context("spawn").Process(target=receive_and_die, args=(here, rank))
            reader.start()
            reader.join()
            began, left = time.monotonic(), count
            while left:
                found = driver.receive(rank, 1000, 2.0)
                if found:
                    driver.ack(rank, [each.token for each in found])
                left -= len(found)
            print(f"{rank}: all {count} messages after {(time.monotonic() - began) / lease_s:.2f} leases of {lease_s} s", flush=True)


def receive_and_die(here: Resources, rank: int) -> None:
    """The process that is killed."""
    GcpMessages(here, 0).receive(rank, 1, 20.0)
    os.kill(os.getpid(), signal.SIGKILL)


def run(count: int, rounds: int) -> None:
    """Turns of each way, on a separate rank."""
    make_queues(len(WAYS), 60)
    drivers = [GcpMessages(attrs.evolve(HERE, names={**HERE.names, "receive": way}), 0) for way in WAYS]
    receivers = [Receiver(driver, rank) for rank, driver in enumerate(drivers)]  # open for all turns: what goes to one that ended is late
    for turn in range(rounds):
        for rank, way in enumerate(WAYS):
            for burst, times in ((1, count), (30, count // 10)):
                took, cpu_s = measure(receivers[rank], drivers[rank], rank, times, burst)
                show(f"{turn}: {way}, {f'burst of {burst}, 10 KB' if burst > 1 else 'single, 1 KB'}", took, cpu_s, burst)
    for receiver in receivers:
        receiver.close()
    for driver in drivers:
        driver.close()


if __name__ == "__main__":
    main()
