"""Measures the clients of `fsd_azure`: cold start, links, messages and objects, against the Service Bus stand-in and Azurite.

``python benchmarks/azure_clients.py`` prints the time and the peak memory of imports and clients in a new process; the opening of many
links at once, as a worker among P ranks does it; then messages of 1 and 10 KB, and objects of 1 KB and 1 MB. The processor time is that of
the client alone; all other times include the server.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fsd_azure.connection_strings import SERVICE_BUS, STORAGE
from fsd_azure.messages import AzureMessages
from fsd_azure.names import Names
from fsd_azure.objects import AzureObjects
from fsd_conformance.emulators.azurite import Azurite
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_conformance.emulators.service_bus.server import ServiceBusServer
from fsd_core.driver import Message, Resources

COLD = """
import sys, time
sys.modules["aiohttp"] = None  # other packages bring it to this machine, not to a function; azure-core would import it
start = time.perf_counter()
{code}
took = time.perf_counter() - start
import resource
print(1000 * took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
BUS = "import azure.servicebus"
BLOB = "from fsd_azure.clients import container; container('', 'abc')"
STARTS = {"service bus": BUS, "blob": BLOB, "both": f"{BUS}\n{BLOB}", "both, identity": f"{BUS}\n{BLOB}\nimport azure.identity"}
PLACE = Resources(
    "bench", 33, 1, {"generation": "0" * 8, "namespaces": "one", "tier": "standard", "lease_s": "60", "blob_url": "", "container": "bench"}
)


def timed(count: int, action: Callable[[], object]) -> str:
    """A text with the median and the 99th percentile of ``count`` calls, and the processor time of one call, all in ms."""
    action()
    took, spent = [], time.process_time()
    for _ in range(count):
        began = time.perf_counter()
        action()
        took.append(1000 * (time.perf_counter() - began))
    each = 1000 * (time.process_time() - spent) / count
    return f"median {statistics.median(took):7.2f} ms   p99 {sorted(took)[int(0.99 * count)]:7.2f} ms   processor {each:5.2f} ms"


def cold(rounds: int = 7) -> None:
    """Print the time and memory of imports and clients in new processes, with a warm disk."""
    for name, code in STARTS.items():
        found = []
        for _ in range(rounds):
            done = subprocess.run([sys.executable, "-c", COLD.format(code=code)], capture_output=True, check=True)
            found.append(tuple(map(float, done.stdout.split())))
        spent, memory = zip(*found, strict=True)
        print(
            f"import and client: {name:24} {statistics.median(spent):4.0f} ms ({min(spent):.0f} to {max(spent):.0f}), {memory[0]:3.0f} MB"
        )


def links(count: int) -> None:
    """Open and close a sender to each of ``count`` queues and one receiver, with 16 threads as in core."""
    driver, began, spent = AzureMessages(PLACE, 0), time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(16) as pool:
        receiver = pool.submit(driver.receive, 0, 1, 0)
        list(pool.map(lambda rank: driver.publish([Message(rank, b"x")]), range(1, count + 1)))
        receiver.result()
    opened, spent = time.perf_counter() - began, time.process_time() - spent
    began = time.perf_counter()
    driver.close()
    closed = time.perf_counter() - began
    print(f"{count:3} senders and a receiver: opened in {opened:.2f} s, processor {spent:.2f} s; closed in {closed:.2f} s")


def messages(size: int, count: int) -> None:
    """Measure publish to a receiver that waits, then a stream, with bodies of ``size`` bytes."""
    driver, body = AzureMessages(PLACE, 0), os.urandom(size)
    began, latencies, sent = [0.0], [], threading.Event()

    def receive() -> None:
        for _ in range(count):
            sent.set()
            while not (found := driver.receive(0, 32, 5.0)):
                pass
            latencies.append(1000 * (time.perf_counter() - began[0]))
            driver.ack(0, [each.token for each in found])

    driver.publish([Message(0, body)])
    driver.ack(0, [each.token for each in driver.receive(0, 32, 5.0)])
    thread = threading.Thread(target=receive)
    thread.start()
    for number in range(count):
        sent.wait()
        sent.clear()
        time.sleep(0.005)  # time for the receiver to wait again
        began[0] = time.perf_counter()
        driver.publish([Message(0, body)])
        while len(latencies) <= number:
            time.sleep(0.0002)  # short beside the measured millisecond; leaves a processor to the receiver
    thread.join()
    latencies.sort()
    print(f"publish to receive, {size:,} bytes: median {statistics.median(latencies):.2f} ms   p99 {latencies[int(0.99 * count)]:.2f} ms")
    print(f"publish {size:,} bytes: {timed(count, lambda: driver.publish([Message(0, body)]))}")
    start, spent, waiting = time.perf_counter(), time.process_time(), count + 1
    while waiting > 0:
        found = driver.receive(0, 32, 5.0)
        driver.ack(0, [each.token for each in found])
        waiting -= len(found)
    each = 1e6 / (count + 1)
    print(
        f"receive and ack: {each * (time.perf_counter() - start):.0f} us, processor {each * (time.process_time() - spent):.0f} us a message"
    )
    driver.close()


@contextmanager
def servers() -> Iterator[None]:
    """Run both servers with the queues within the block, with the environment of this process set to use them."""
    with tempfile.TemporaryDirectory() as folder:
        bus = ServiceBusServer(Path(folder), namespaces={"one": [queue for _, queue in Names.of(PLACE).queues(33, 1)]})
        blobs = Azurite(Path(folder))
        try:
            bus.start()
            blobs.start()
            environment = {SERVICE_BUS: bus.connection_string(), STORAGE: blobs.connection_string, "NO_PROXY": "127.0.0.1"}
            with pointed(environment, POINTERS["azure"]):
                yield
        finally:
            blobs.stop()
            bus.stop()


def main() -> None:
    """Print all figures."""
    with servers():
        cold()
        for count in (1, 7, 15, 31):
            links(count)
        for size in (1000, 10_000):
            messages(size, 300)
        store = AzureObjects(PLACE)
        store.native().create_container()
        for size in (1000, 1_000_000):
            body = os.urandom(size)
            print(f"put {size:>9,} bytes: {timed(100, lambda body=body: store.put('key', body))}")
            print(f"get {size:>9,} bytes: {timed(100, lambda: store.get('key'))}")
        store.close()


if __name__ == "__main__":
    main()
