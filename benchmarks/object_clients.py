"""Compares three clients for the AWS object store: botocore, boto3 (a layer above it), and obstore (Apache Arrow's object_store, in Rust).

``python benchmarks/object_clients.py`` (after ``pip install obstore boto3``) prints the time and the peak memory of imports and clients in
a new process: for the object store alone, and together with the SNS and SQS clients that a worker of the queue channel needs. Then it
prints put and get of 1 KB and 1 MB against moto, with the clients in turns. The figures of requests include the time of moto, so only their
differences matter.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fsd_aws.objects import AwsObjects
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.moto import MotoServer
from fsd_core.driver import Resources

REGION, BUCKET = "us-east-1", "bench"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
COLD = """
import time
start = time.perf_counter()
{code}
took = time.perf_counter() - start
import resource
print(1000 * took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
BOTO3 = "import boto3\nfor name in {services}: boto3.client(name)"
BOTOCORE = "import botocore.session as b\ns = b.get_session()\nfor name in {services}: s.create_client(name)"
OBSTORE = "from obstore.store import S3Store\nS3Store('bench')"
QUEUE = "('sns', 'sqs')"
STARTS = {
    "s3: boto3": BOTO3.format(services="['s3']"),
    "s3: botocore": BOTOCORE.format(services="['s3']"),
    "s3: obstore": OBSTORE,
    "sns, sqs, s3: boto3": BOTO3.format(services="('sns', 'sqs', 's3')"),
    "sns, sqs, s3: botocore": BOTOCORE.format(services="('sns', 'sqs', 's3')"),
    "sns, sqs, s3: botocore, obstore for s3": BOTOCORE.format(services="('sns', 'sqs')") + f"\n{OBSTORE}",
}
Put = Callable[[str, bytes], object]
Get = Callable[[str], object]


def candidates(url: str) -> dict[str, tuple[Put, Get]]:
    """The name of each client -> its functions for put and get."""
    import boto3
    from obstore.store import S3Store

    driver = AwsObjects(Resources("bench", 1, 1, {"bucket": BUCKET, "region": REGION}))
    s3 = boto3.client("s3")
    store = S3Store(BUCKET, endpoint=url, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    return {
        "botocore (AwsObjects)": (driver.put, driver.get),
        "boto3": (
            lambda key, body: s3.put_object(Bucket=BUCKET, Key=key, Body=body),
            lambda key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(),
        ),
        "obstore": (
            lambda key, body: store.put(key, body, use_multipart=False),
            lambda key: store.get(key).bytes().to_bytes(),
        ),
    }


@contextmanager
def moto() -> Iterator[str]:
    """Run a moto server within the block, with the environment of this process set to use it; gives the address of the server."""
    with tempfile.TemporaryDirectory() as folder:
        server = MotoServer(Path(folder))
        try:
            server.start()
            with pointed({**KEYS, "AWS_ENDPOINT_URL": server.url, "NO_PROXY": "127.0.0.1"}, ("AWS_",)):
                yield server.url
        finally:
            server.stop()


def figures(took: list[float]) -> str:
    took = sorted(took)
    return f"median {statistics.median(took):6.2f} ms, p99 {took[int(0.99 * len(took))]:6.2f} ms"


def cold(rounds: int = 9) -> None:
    """Print the time and memory of imports and clients in new processes, with a warm disk."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        for name, code in STARTS.items():
            done = subprocess.run(
                [sys.executable, "-c", COLD.format(code=code)], env={**os.environ, **KEYS}, capture_output=True, check=True
            )
            took[name].append(tuple(map(float, done.stdout.split())))  # type: ignore[arg-type]
    for name, pairs in took.items():
        spent, memory = zip(*pairs, strict=True)
        print(f"{name:40} {statistics.median(spent):4.0f} ms ({min(spent):.0f} to {max(spent):.0f}), {statistics.median(memory):3.0f} MB")


def requests(url: str, size: int, rounds: int) -> None:
    """Print the times of put and get of ``size`` bytes, with the clients in turns."""
    took: dict[tuple[str, str], list[float]] = {}
    clients, body = candidates(url), os.urandom(size)
    for number in range(rounds + 5):
        for name, (put, get) in clients.items():
            key = f"{name[:4]}/{number % 10}"
            for verb, request in (("put", lambda: put(key, body)), ("get", lambda: get(key))):  # noqa: B023  called within this turn
                start = time.perf_counter()
                request()
                if number >= 5:  # the first five requests open connections
                    took.setdefault((verb, name), []).append(1000 * (time.perf_counter() - start))
    for (verb, name), spent in sorted(took.items()):
        print(f"{verb} {size:>9,} bytes {name:24} {figures(spent)}")


def main() -> None:
    """Print all figures."""
    cold()
    with moto() as url:
        from fsd_aws.clients import client

        client("s3").create_bucket(Bucket=BUCKET)
        requests(url, 1000, 400)
        requests(url, 1_000_000, 100)


if __name__ == "__main__":
    main()
