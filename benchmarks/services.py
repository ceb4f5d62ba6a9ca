"""Measures the services of a provider: the latency of messages and objects, and the cold start of a function.

    python benchmarks/services.py [--provider local] [--emulator[=NAME]] [--count 100]

On an emulator these are the times of this machine and of the emulator, not those of the cloud.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from emulated import where
from fsd_core.driver import WORKER, Message, MessageDriver, ObjectDriver, Provider, Resources
from fsd_core.providers.registry import find
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

APP = "bench-services"


def show(what: str, seconds: list[float]) -> None:
    """Print one line: the median and the 99th percentile of ``seconds`` in ms."""
    print(
        f"{what:44} median {np.median(seconds) * 1e3:8.2f} ms   p99 {np.percentile(seconds, 99) * 1e3:8.2f} ms   n {len(seconds)}",
        flush=True,
    )


def timed(count: int, action: Callable[[], object]) -> list[float]:
    """The seconds of each of ``count`` calls."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return found


def body(driver: MessageDriver, size: int) -> bytes:
    """A message body of ``size`` bytes, of a kind that the service takes."""
    return secrets.token_hex(size)[:size].encode() if driver.limits.body == "text" else os.urandom(size)


def messages(driver: MessageDriver, count: int) -> None:
    """Measure publish to receive of 1 KB while a receive waits, then a stream of messages of 10 KB."""
    sent = threading.Event()
    latencies: list[float] = []

    def receive() -> None:
        for _ in range(count):
            sent.set()
            while not (got := driver.receive(0, 10, 5.0)):
                pass
            latencies.append(time.perf_counter() - began[0])
            driver.ack(0, [delivery.token for delivery in got])

    began = [0.0]
    thread = threading.Thread(target=receive)
    thread.start()
    for number in range(count):
        sent.wait()
        sent.clear()
        time.sleep(0.02)  # time for the receive to begin waiting
        began[0] = time.perf_counter()
        driver.publish([Message(0, body(driver, 1000))])
        while len(latencies) <= number:
            time.sleep(0.0005)
    thread.join()
    show("publish to receive, 1 KB, receive open", latencies)

    batch, total = min(10, driver.limits.batch_messages), 30 * 10
    began_all = time.perf_counter()
    publisher = threading.Thread(
        target=lambda: [driver.publish([Message(0, body(driver, 10_000)) for _ in range(batch)]) for _ in range(total // batch)]
    )
    publisher.start()
    received = 0
    while received < total:
        got = driver.receive(0, driver.limits.receive_messages, 5.0)
        received += len(got)
        if got:
            driver.ack(0, [delivery.token for delivery in got])
    publisher.join()
    print(f"{'stream of 10 KB, one sender, one receiver':44} {total / (time.perf_counter() - began_all):8.0f} messages/s", flush=True)


def objects(driver: ObjectDriver, count: int) -> None:
    """Measure put and get in turns, for 1 KB and 1 MB."""
    for name, size in (("1 KB", 1000), ("1 MB", 1_000_000)):
        data, puts, gets = os.urandom(size), [], []
        for number in range(count):
            key = f"probe/bench/{number % 10}"
            puts += timed(1, lambda key=key, data=data: driver.put(key, data))  # type: ignore[misc]
            gets += timed(1, lambda key=key: driver.get(key))  # type: ignore[misc]
        show(f"put {name}", puts)
        show(f"get {name}", gets)
    driver.delete([f"probe/bench/{number}" for number in range(10)])


def cold_start(provider: Provider, resources: Resources, count: int) -> None:
    """Measure from the launch to the first object that the function writes: process, imports, client, one request.

    All functions start at once, so none of them is warm.
    """
    invoker, store = provider.invoker(resources), Store(provider.objects(resources), Retry(time.time() + 300, Meter()))
    base = f"probe/{secrets.token_hex(4)}"
    began = time.time()
    for number in range(count):
        invoker.invoke(WORKER, json.dumps({"app": resources.app, "probe": {"key": f"{base}/{number}", "sleep_s": 2.0}}).encode())
    while len(keys := [key for key in store.keys(base) if "/started-" in key]) < count:
        time.sleep(0.05)
    started = [json.loads(store.get(key))["time"] - began for key in keys]
    show(f"launch to first object, {count} at once", started)
    while len([key for key in store.keys(base) if "/ended-" in key]) < count:
        time.sleep(0.1)
    store.delete(list(store.keys(base)))
    invoker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="run on an emulator of the provider: its name; without a name: the default")
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    place = options.provider if options.emulator is None else f"{options.provider}, emulator {options.emulator or 'default'}"
    print(f"{place}, {os.cpu_count()} cores")
    with app(options.provider, options.emulator) as (provider, resources):
        queue, store = provider.messages(resources, 0), provider.objects(resources)
        messages(queue, options.count)
        objects(store, options.count)
        queue.close()
        store.close()
    with app(options.provider, options.emulator, cold=True) as (provider, resources):
        for count in (1, 8):
            cold_start(provider, resources, count)


@contextmanager
def app(name: str, emulator: str | None, cold: bool = False) -> Iterator[tuple[Provider, Resources]]:
    """An app of one rank within the block, which removes it at its end."""
    with where(name, emulator, cold) as (arguments, _):
        provider = find(name)
        provisioner = provider.provisioner(arguments.get("settings", {}))
        try:
            yield provider, provisioner.ensure(APP, 1, 1)
        finally:
            provisioner.destroy(APP)


if __name__ == "__main__":
    main()
