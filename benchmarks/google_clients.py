"""Which clients should the Google adapter have: Google's packages, or what they stand on?

``python benchmarks/google_clients.py`` (``pip install google-cloud-pubsub google-cloud-storage requests`` first) prints what a cold
process pays for imports and clients, with its peak memory; then put and get against the local Cloud Storage, and publish, pull
and acknowledge against Google's Pub/Sub emulator, the candidates taking turns: CPU time of this process, and the time of the
whole request. The servers' own time is in the latter: differences matter, not sums.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.google import CloudStorage
from fsd_conformance.emulators.pubsub import PubSub
from fsd_core.driver import Message, Resources
from fsd_gcp.clients import Http
from fsd_gcp.messages import GcpMessages
from fsd_gcp.names import Names
from fsd_gcp.objects import GcpObjects

HERE = Resources("bench", 1, 1, {"project": "bench", "generation": "0" * 8, "lease_s": "60", "bucket": "bench"})
NAMES = Names.of(HERE)
COLD = """
import resource, time
start = time.process_time()
{code}
print(1000 * (time.process_time() - start), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
TOKENS = "import google.auth, google.auth.compute_engine"  # what a function's credentials need, whatever the client
STORAGE = "from google.cloud import storage\nfrom google.auth.credentials import AnonymousCredentials as A\nstorage.Client('p', A())"
PUBSUB = (
    "from google.cloud import pubsub_v1\nfrom google.auth.credentials import AnonymousCredentials as A\n"
    "pubsub_v1.PublisherClient(credentials=A()), pubsub_v1.SubscriberClient(credentials=A())"
)
GAPIC = PUBSUB.replace("google.cloud import", "google import")
OURS = (
    "import google.auth.transport.urllib3\nfrom fsd_core.driver import Resources\n"
    "R = Resources('a', 1, 1, {'project': 'p', 'generation': '0', 'lease_s': '10', 'bucket': 'b'})\n"
)
OBJECTS = f"{OURS}from fsd_gcp.objects import GcpObjects\nGcpObjects(R)"
QUEUES = f"{OURS}from fsd_gcp.messages import GcpMessages\nGcpMessages(R, 0)"
STARTS = {
    "objects: google-cloud-storage": STORAGE,
    "objects: urllib3 (GcpObjects)": OBJECTS,
    "queues: google.cloud.pubsub_v1": PUBSUB,
    "queues: google.pubsub_v1": GAPIC,
    "queues: grpc (GcpMessages)": QUEUES,
    "both: Google's": f"{GAPIC}\n{STORAGE}",
    "both: ours": f"{QUEUES}\n{OBJECTS}",
}
Actions = dict[str, Callable[[], object]]


def cold(rounds: int = 9) -> None:
    """Imports and clients in a new process, disk warm."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        for name, code in STARTS.items():
            done = subprocess.run([sys.executable, "-c", COLD.format(code=f"{TOKENS}\n{code}")], capture_output=True, check=True)
            took[name].append(tuple(map(float, done.stdout.split())))
    for name, pairs in took.items():
        spent, memory = zip(*pairs, strict=True)
        cost = f"{statistics.median(spent):4.0f} ms of CPU ({min(spent):.0f} to {max(spent):.0f})"
        print(f"{name:34} {cost}, {statistics.median(memory):3.0f} MB")


def turns(what: str, actions: Actions, rounds: int) -> None:
    """Each action by turns."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for number in range(rounds + 5):
        for name, action in actions.items():
            cpu, start = time.process_time(), time.perf_counter()
            action()
            if number >= 5:  # the first open connections
                took[name].append((1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - start)))
    for name, pairs in took.items():
        cpus, spent = zip(*pairs, strict=True)
        print(f"{what:34} {name:24} CPU median {statistics.median(cpus):6.2f} ms, whole {statistics.median(spent):6.2f} ms")


def objects(rounds: int) -> None:
    """Put and get."""
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import storage

    url = os.environ["STORAGE_EMULATOR_HOST"]
    http = Http(url, signed=False)
    http.request("POST", "/storage/v1/b?project=bench", b'{"name": "bench"}', {"Content-Type": "application/json"})
    driver, session = GcpObjects(HERE), AuthorizedSession(AnonymousCredentials())
    bucket = storage.Client("bench", AnonymousCredentials()).bucket("bench")
    for size in (1000, 1_000_000):
        body = os.urandom(size)
        puts: Actions = {
            "urllib3 (GcpObjects)": lambda body=body: driver.put("a", body),
            "requests": lambda body=body: session.post(f"{url}/upload/storage/v1/b/bench/o?uploadType=media&name=b", data=body),
            "google-cloud-storage": lambda body=body: bucket.blob("c").upload_from_string(body, retry=None),
        }
        gets: Actions = {
            "urllib3 (GcpObjects)": lambda: driver.get("a"),
            "requests": lambda: session.get(f"{url}/download/storage/v1/b/bench/o/b?alt=media").content,
            "google-cloud-storage": lambda: bucket.blob("c").download_as_bytes(retry=None),
        }
        turns(f"put {size:,} bytes", puts, rounds if size == 1000 else rounds // 5)
        turns(f"get {size:,} bytes", gets, rounds if size == 1000 else rounds // 5)


def queues(rounds: int) -> None:
    """Publish, pull what there is, acknowledge."""
    from google.pubsub_v1 import PublisherClient, PubsubMessage, SubscriberClient
    from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
    from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

    http, kind = Http(f"http://{os.environ['PUBSUB_EMULATOR_HOST']}", signed=False), {"Content-Type": "application/json"}
    for topic, subscription in NAMES.queues(1, 1):
        http.request("PUT", f"/v1/{topic}", b"{}", kind)
        http.request("PUT", f"/v1/{subscription}", f'{{"topic": "{topic}", "ackDeadlineSeconds": 60}}'.encode(), kind)
    driver = GcpMessages(HERE, 0)
    publisher = PublisherClient(transport=PublisherGrpcTransport(channel=driver.native()))
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=driver.native()))

    def ours(bodies: list[bytes]) -> None:
        driver.publish([Message(0, body) for body in bodies])
        left = len(bodies)
        while left:
            found = driver.receive(0, 1000, 5.0)
            driver.ack(0, [each.token for each in found])
            left -= len([each.body for each in found])

    def theirs(bodies: list[bytes]) -> None:
        publisher.publish(topic=topic, messages=[PubsubMessage(data=body) for body in bodies], retry=None, timeout=60)
        left = len(bodies)
        while left:
            found = subscriber.pull(subscription=subscription, max_messages=1000, retry=None, timeout=6).received_messages
            subscriber.acknowledge(subscription=subscription, ack_ids=[each.ack_id for each in found], retry=None, timeout=15)
            left -= len([each.message.data for each in found])

    for count, size in ((1, 1000), (100, 10_000)):
        batch = [os.urandom(size) for _ in range(count)]
        actions: Actions = {"grpc (GcpMessages)": lambda batch=batch: ours(batch), "google.pubsub_v1": lambda batch=batch: theirs(batch)}
        turns(f"publish, pull, ack {count} of {size:,} bytes", actions, rounds if count == 1 else rounds // 4)


def main() -> None:
    """Print all."""
    cold()
    with tempfile.TemporaryDirectory() as folder:
        storage, pubsub = CloudStorage(Path(folder)), PubSub(Path(folder))
        try:
            storage.start()
            pubsub.start()
            with pointed(
                {"STORAGE_EMULATOR_HOST": storage.url, "PUBSUB_EMULATOR_HOST": pubsub.address, "NO_PROXY": "127.0.0.1"}, ("GOOGLE_",)
            ):
                objects(200)
                queues(100)
        finally:
            pubsub.stop()
            storage.stop()


if __name__ == "__main__":
    main()
