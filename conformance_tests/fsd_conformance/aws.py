"""AWS under test, on emulators that the harnesses start."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from fsd_conformance.emulators.aws import Aws, operation, watched
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.localstack import LocalStack
from fsd_conformance.emulators.moto import Moto
from fsd_conformance.emulators.proxy import Answer, Proxy, Request
from fsd_conformance.harness import EmulatedHarness, Harness
from fsd_core.driver import MessageDriver, ObjectDriver, Provider, Resources

__all__ = ["CONFLICT", "HARNESSES", "LocalStackHarness", "MotoHarness"]

COUNTED = {
    "sns:PublishBatch": "publish_requests",
    "sqs:ReceiveMessage": "receive_requests",
    "sqs:DeleteMessageBatch": "ack_requests",
    "s3:PutObject": "object_puts",
    "s3:GetObject": "object_gets",
    "s3:ListObjectsV2": "object_lists",
    "lambda:Invoke": "invocations",
}
CONFLICT = Answer(  # S3's, to a conditional put while another of the key is under way (API_PutObject)
    409,
    b"<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting conditional operation is under way.</Message></Error>",
    {"Content-Type": "application/xml"},
)


class AwsHarness(EmulatedHarness):
    """The AWS provider, its SDK pointed at an emulator while the harness runs."""

    emulator: ClassVar[type[Aws]]
    running: Aws
    few: Mapping[str, object] | None = {"concurrency": 2}

    def provider(self) -> Provider:
        """The provider."""
        from fsd_aws import PROVIDER

        return PROVIDER

    def messages_at(self, url: str) -> MessageDriver:
        """Queues of no app: only where they are matters."""
        with self._at(url) as resources:
            return self.provider().messages(resources, 0)

    def objects_at(self, url: str) -> ObjectDriver:
        """A bucket of no app."""
        with self._at(url) as resources:
            return self.provider().objects(resources)

    @contextlib.contextmanager
    def counted(self) -> Iterator[Callable[[], Mapping[str, int]]]:
        """Proxies before the services and the functions count."""
        seen: Counter[str] = Counter()
        lock = threading.Lock()

        def see(request: Request) -> None:
            with lock:
                seen[COUNTED.get(operation(request), "")] += 1

        with watched(self.running, see):
            yield lambda: {name: seen[name] for name in COUNTED.values()}

    @contextlib.contextmanager
    def conflicting(self, resources: Resources) -> Iterator[ObjectDriver]:
        """A proxy says so."""
        creates: dict[str, itertools.count[int]] = defaultdict(itertools.count)

        def see(request: Request) -> Answer | None:
            return CONFLICT if "if-none-match" in request.headers and next(creates[request.path]) < 16 else None

        with contextlib.closing(Proxy(self.running.servers[0].url, see)) as proxy:
            with pointed({**self.running.env, "AWS_ENDPOINT_URL": proxy.url}, self.running.clears):
                driver = self.provider().objects(resources)
            with contextlib.closing(driver):
                yield driver

    @contextlib.contextmanager
    def _at(self, url: str) -> Iterator[Resources]:
        names = {"region": "us-east-1", "account": "0" * 12, "generation": "0" * 8, "bucket": "none", "queue_url_prefix": f"{url}/0/"}
        key = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with pointed({"AWS_ENDPOINT_URL": url, **key}, self.emulator.clears):
            yield Resources("none", 1, 1, {**names, "body": "text", "lease_s": "1"})


def _quick(emulator: type[Aws]) -> type[Aws]:
    """Lambda gives up an event for which there is no room after a minute; here after six seconds."""
    return type(emulator.__name__, (emulator,), {"functions": ("--retry-scale", "0.1")})


class MotoHarness(AwsHarness):
    """moto: quick, and lenient."""

    name = "moto"
    emulator = _quick(Moto)
    lease_s = 1.0


class LocalStackHarness(AwsHarness):
    """LocalStack's community core: stricter."""

    name = "localstack"
    emulator = _quick(LocalStack)
    lease_s = 2.0


HARNESSES: Mapping[str, type[Harness]] = {each.name: each for each in (MotoHarness, LocalStackHarness)}
