"""The harnesses of Google Cloud: one on this project's and Google's emulators, one for the object store on gcp-storage-emulator."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import threading
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from urllib.parse import urlsplit

from fsd_conformance.emulators import Emulator, pubsub
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.gcp_storage import GcpStorage
from fsd_conformance.emulators.google import PROJECT, CloudRun, Google, pointers
from fsd_conformance.emulators.install import packages
from fsd_conformance.emulators.process import POINTERS, Guard
from fsd_conformance.emulators.proxy import Answer, Proxy, Request
from fsd_conformance.harness import EmulatedHarness, Harness, Kind
from fsd_core.driver import MessageDriver, ObjectDriver, Provider, Provisioner, Resources
from fsd_gcp import PROVIDER, GcpProvider
from fsd_gcp.names import Names

__all__ = ["HARNESSES", "GcpStorageEmulatorHarness", "GoogleHarness"]

COUNTED = {
    "/google.pubsub.v1.Publisher/Publish": "publish_requests",
    "/google.pubsub.v1.Subscriber/Pull": "receive_requests",
    "/google.pubsub.v1.Subscriber/Acknowledge": "ack_requests",
    "objects.insert": "object_puts",
    "objects.get": "object_gets",
    "objects.list": "object_lists",
}
BUSY = Answer(
    429,
    json.dumps({"error": {"code": 429, "message": "Too many writes of one name.", "errors": [{"reason": "rateLimitExceeded"}]}}).encode(),
    {"Content-Type": "application/json"},
)
_SOURCE = "https://github.com/oittaa/gcp-storage-emulator/blob/main/src/gcp_storage_emulator/handlers/objects.py"
_CONDITIONS = f"2026.7.19 ignores preconditions (ifGenerationMatch): {_SOURCE}"


def _nothing(**names: str) -> Resources:
    """Resources of no app: only the services' addresses matter."""
    defaults = {"project": PROJECT, "region": "us-central1", "bucket": "none", "generation": "0" * 8, "lease_s": "10"}
    return Resources("none", 1, 1, defaults | names)


class _GcpHarness(EmulatedHarness):
    lease_s = 10  # the shortest that Pub/Sub accepts

    def provider(self) -> Provider:
        """The provider."""
        return PROVIDER

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool:
        """Request the resource through the gRPC channel or the client of google-cloud-storage, or an ID token from the source of tokens."""
        match kind:
            case "messages":
                name = Names.of(resources).subscription(0, 0).encode()
                asked = b"\x0a" + bytes([len(name)]) + name  # field 1 of GetSubscriptionRequest; a name of under 128 bytes
                return name in native.unary_unary("/google.pubsub.v1.Subscriber/GetSubscription")(asked, timeout=60)
            case "objects":
                return bool(native.bucket(resources.names["bucket"]).get_blob(what, retry=None).name == what)
            case "functions":
                return bool(native.headers()["Authorization"].startswith("Bearer "))

    def objects_at(self, url: str) -> ObjectDriver:
        """A driver of a bucket that does not exist: the cases need only requests to ``url``."""
        with pointed({"STORAGE_EMULATOR_HOST": url}, self.emulator.clears):
            return PROVIDER.objects(_nothing())


class GoogleHarness(_GcpHarness):
    """Google's Pub/Sub emulator, this project's Cloud Storage and Cloud Run."""

    name = "google"
    emulator: ClassVar[type[Google]] = Google
    running: Google
    few: Mapping[str, object] | None = {"concurrency": 2}

    def messages_at(self, url: str) -> MessageDriver:
        """A driver of topics that do not exist. gRPC cannot use ``url``, so a proxy makes one HTTP request to ``url`` for each call, and
        answers UNAVAILABLE.
        """
        import grpc

        from fsd_conformance.emulators.grpc_proxy import GrpcProxy

        def see(method: str) -> grpc.StatusCode:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30):
                pass
            return grpc.StatusCode.UNAVAILABLE

        proxy = self.until_stop.enter_context(contextlib.closing(GrpcProxy("127.0.0.1:1", see)))
        with pointed({pubsub.HOST: proxy.address}, self.emulator.clears):
            return PROVIDER.messages(_nothing(), 0)

    @contextlib.contextmanager
    def refusing(self, resources: Resources, *, direct: bool = False) -> Iterator[tuple[MessageDriver, threading.Event]]:
        """Pub/Sub refuses whole requests: a proxy answers RESOURCE_EXHAUSTED."""
        import grpc

        from fsd_conformance.emulators.grpc_proxy import GrpcProxy

        refuse = threading.Event()

        def see(method: str) -> grpc.StatusCode | None:
            verb = COUNTED.get(method) if refuse.is_set() else None
            return grpc.StatusCode.RESOURCE_EXHAUSTED if verb in ("publish_requests", "ack_requests") else None

        with contextlib.closing(GrpcProxy(self.running.env[pubsub.HOST], see)) as proxy:
            with pointed({**self.running.env, pubsub.HOST: proxy.address}, self.running.clears):
                driver = PROVIDER.messages(resources, 0)
            with contextlib.closing(driver):
                yield driver, refuse

    @contextlib.contextmanager
    def counted(self) -> Iterator[Callable[[], Mapping[str, int]]]:
        """Count the requests with proxies in front of Pub/Sub and Cloud Storage. A new local Cloud Run counts the launches; its functions
        use the proxies.
        """
        from fsd_conformance.emulators.grpc_proxy import GrpcProxy

        seen: Counter[str] = Counter()
        lock = threading.Lock()

        def see(what: str) -> None:
            with lock:
                seen[COUNTED.get(what, "")] += 1

        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="fsd-counted-")))
            guard = Guard(folder)
            stack.callback(guard.end)
            messages, objects = self.running.env[pubsub.HOST], self.running.env["STORAGE_EMULATOR_HOST"]
            calls = stack.enter_context(contextlib.closing(GrpcProxy(messages, see)))
            requests = stack.enter_context(contextlib.closing(Proxy(objects, lambda request: see(_operation(request)))))
            functions = CloudRun(folder, guard, self.running.functions, lambda: env)
            env = pointers(folder, calls.address, requests.url, functions)
            stack.callback(functions.stop)
            functions.start()
            stack.enter_context(pointed(env, self.running.clears))

            def counts() -> Mapping[str, int]:
                with urllib.request.urlopen(f"{functions.url}/_fsd/stats", timeout=30) as answer:
                    invocations = json.load(answer).get("calls", 0)
                return {name: seen[name] for name in COUNTED.values()} | {"invocations": invocations}

            yield counts

    @contextlib.contextmanager
    def conflicting(self, resources: Resources) -> Iterator[ObjectDriver]:
        """Cloud Storage answers 429 in this case: a name accepts about one write per second."""
        creates: dict[bytes, itertools.count[int]] = defaultdict(itertools.count)

        def see(request: Request) -> Answer | None:
            name = re.search(rb'"name": *"([^"]*)"', request.body)
            return BUSY if name and "ifGenerationMatch=0" in request.path and next(creates[name[1]]) < 16 else None

        with contextlib.closing(Proxy(self.running.env["STORAGE_EMULATOR_HOST"], see)) as proxy:
            with pointed({**self.running.env, "STORAGE_EMULATOR_HOST": proxy.url}, self.running.clears):
                driver = PROVIDER.objects(resources)
            with contextlib.closing(driver):
                yield driver


def _operation(request: Request) -> str:
    """Cloud Storage's name of a request, for the requests of a run; else the HTTP method."""
    path = urlsplit(request.path).path
    if path.startswith("/upload/"):
        return "objects.insert"
    if path.endswith("/o"):
        return "objects.list"
    return "objects.get" if request.method == "GET" and "/o/" in path else request.method


class _Storage(Emulator):
    """gcp-storage-emulator only."""

    name = "gcp-storage-emulator"
    clears = POINTERS["gcp"]

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        server = GcpStorage(folder, guard)
        self.servers = (server,)
        self.env = {"STORAGE_EMULATOR_HOST": server.url, "NO_PROXY": server.host, "no_proxy": server.host}

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Install the SDK and the emulator where they are missing."""
        packages(("gcp", "emulators"), tell)


class _Buckets:
    """A provisioner that makes only buckets."""

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make a bucket."""
        asked = urllib.request.Request(
            f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b?project={PROJECT}",
            json.dumps({"name": f"fsd-{app}"}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=30):
            return Resources(app, ranks, slots, _nothing(bucket=f"fsd-{app}").names)

    def find(self, app: str) -> Resources | None:
        """Always None: no case of the object store uses it."""
        raise NotImplementedError

    def sweep(self, app: str) -> Sequence[str]:
        """Return an empty list: ``ensure`` makes only one bucket, so nothing can be left over."""
        return ()

    def destroy(self, app: str) -> Sequence[str]:
        """Return an empty list: the bucket disappears when the emulator ends."""
        return ()


class _Objects(GcpProvider):
    """The provider with its object store only."""

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner of buckets."""
        return _Buckets()


class GcpStorageEmulatorHarness(_GcpHarness):
    """The object store on gcp-storage-emulator. This project's emulator of Cloud Storage must pass every case that gcp-storage-emulator
    passes.
    """

    name = "gcp-storage-emulator"
    emulator = _Storage
    gaps: Mapping[str, str] = {
        "test_one_create_wins": _CONDITIONS,
        "test_one_create_wins_over_conflicts": _CONDITIONS,
        "test_create_of_what_is_there": _CONDITIONS,
        "test_list_over_pages": f"2026.7.19 ignores maxResults and pageToken: {_SOURCE}",
    }

    def provider(self) -> Provider:
        """A provider that has only an object store."""
        return _Objects()


HARNESSES: Mapping[str, type[Harness]] = {GoogleHarness.name: GoogleHarness}
