"""The harnesses of AWS. Each one tests the AWS adapter on an emulator that it starts."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import threading
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode

from attrs import evolve

from fsd_conformance.emulators.aws import Aws, operation, watched
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.localstack import LocalStack
from fsd_conformance.emulators.moto import Moto
from fsd_conformance.emulators.proxy import Answer, Proxy, Request
from fsd_conformance.harness import EmulatedHarness, Harness, Kind
from fsd_core.driver import MessageDriver, ObjectDriver, Provider, Resources

__all__ = ["CONFLICT", "HARNESSES", "LocalStackHarness", "MotoHarness"]

COUNTED = {
    "sns:PublishBatch": "publish_requests",
    "sqs:SendMessageBatch": "publish_requests",
    "sqs:ReceiveMessage": "receive_requests",
    "sqs:DeleteMessageBatch": "ack_requests",
    "sqs:ChangeMessageVisibilityBatch": "ack_requests",
    "s3:PutObject": "object_puts",
    "s3:GetObject": "object_gets",
    "s3:ListObjectsV2": "object_lists",
    "lambda:Invoke": "invocations",
}
CONFLICT = Answer(  # S3's answer to a conditional put while another put of the key runs (API_PutObject)
    409,
    b"<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting conditional operation is under way.</Message></Error>",
    {"Content-Type": "application/xml"},
)


class AwsHarness(EmulatedHarness):
    """The AWS provider; its SDK uses an emulator while the harness runs."""

    emulator: ClassVar[type[Aws]]
    running: Aws
    few: Mapping[str, object] | None = {"concurrency": 2}

    def provider(self) -> Provider:
        """The provider."""
        from fsd_aws import PROVIDER

        return PROVIDER

    def messages_at(self, url: str) -> MessageDriver:
        """A driver of queues that do not exist: the cases need only requests to ``url``."""
        with self._at(url) as resources:
            return self.provider().messages(resources, 0)

    def objects_at(self, url: str) -> ObjectDriver:
        """A driver of a bucket that does not exist: the cases need only requests to ``url``."""
        with self._at(url) as resources:
            return self.provider().objects(resources)

    @contextlib.contextmanager
    def counted(self) -> Iterator[Callable[[], Mapping[str, int]]]:
        """Count the requests with proxies in front of the services and of the functions."""
        seen: Counter[str] = Counter()
        lock = threading.Lock()

        def see(request: Request) -> None:
            with lock:
                seen[COUNTED.get(operation(request), "")] += 1

        with watched(self.running, see):
            yield lambda: {name: seen[name] for name in COUNTED.values()}

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool:
        """Request the resource with the SDK's client ``native``."""
        from fsd_aws.names import Names, function

        names = Names.of(resources)
        match kind:
            case "messages":
                topic = native["sns"].get_topic_attributes(TopicArn=names.topic_arn(0, 0))["Attributes"]["TopicArn"]
                return bool(native["sqs"].get_queue_url(QueueName=names.queue(0, 0))["QueueUrl"] and topic)
            case "objects":
                return bool(native.head_object(Bucket=resources.names["bucket"], Key=what)["ContentLength"])
            case "functions":
                name = function(resources.app)
                return bool(native.get_function(FunctionName=name)["Configuration"]["FunctionName"] == name)

    @contextlib.contextmanager
    def refusing(self, resources: Resources, *, direct: bool = False) -> Iterator[tuple[MessageDriver, threading.Event]]:
        """A proxy removes every second entry from a batch, and adds a refusal for each to the answer."""
        refuse, upstream = threading.Event(), self.running.servers[0].url

        def see(request: Request) -> Answer | None:
            batch = BATCHES.get(operation(request)) if refuse.is_set() else None
            return batch(request, lambda body: _ask(upstream, request, body)) if batch else None

        with contextlib.closing(Proxy(upstream, see)) as proxy:
            with pointed({**self.running.env, "AWS_ENDPOINT_URL": proxy.url}, self.running.clears):
                prefix = resources.names["queue_url_prefix"]
                at = {"queue_url_prefix": re.sub("^https?://[^/]*", proxy.url, prefix)}
                driver = self.provider().messages(evolve(resources, names={**resources.names, **at}), 0, direct=direct)
            with contextlib.closing(driver):
                yield driver, refuse

    @contextlib.contextmanager
    def conflicting(self, resources: Resources) -> Iterator[ObjectDriver]:
        """A proxy answers the first 16 creates of each key with S3's 409."""
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


def _ask(upstream: str, request: Request, body: bytes) -> Answer:
    kept = {
        name: value for name, value in request.headers.items() if name not in ("host", "content-length", "connection", "accept-encoding")
    }
    asked = urllib.request.Request(upstream + request.path, body, kept, method=request.method)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return Answer(answer.status, answer.read(), {"Content-Type": answer.headers["Content-Type"]})


def _published(request: Request, ask: Callable[[bytes], Answer]) -> Answer:
    """Answer a publish. SNS uses the query protocol: forms in requests, XML in answers."""
    kept, gone = list[tuple[str, str]](), list[str]()
    for name, value in parse_qsl(request.body.decode(), keep_blank_values=True):
        entry = re.fullmatch(r"(PublishBatchRequestEntries\.member\.)(\d+)(\..*)", name)
        if entry is None or int(entry[2]) % 2:
            kept.append((f"{entry[1]}{(int(entry[2]) + 1) // 2}{entry[3]}" if entry else name, value))
        elif entry[3] == ".Id":
            gone.append(value)
    answer = ask(urlencode(kept).encode())
    failed = "".join(
        f"<member><Id>{each}</Id><Code>InternalError</Code><Message>refused</Message><SenderFault>false</SenderFault></member>"
        for each in gone
    )
    without = re.sub(r"<Failed\s*/>|<Failed>\s*</Failed>", "", answer.body.decode())
    return replace(answer, body=without.replace("</PublishBatchResult>", f"<Failed>{failed}</Failed></PublishBatchResult>").encode())


def _entries(request: Request, ask: Callable[[bytes], Answer]) -> Answer:
    """Answer an ack, or a publish straight to a queue. SQS uses JSON."""
    batch = json.loads(request.body)
    answer = ask(json.dumps({**batch, "Entries": batch["Entries"][::2]}).encode())
    failed = [{"Id": each["Id"], "Code": "InternalError", "Message": "refused", "SenderFault": False} for each in batch["Entries"][1::2]]
    return replace(answer, body=json.dumps({**json.loads(answer.body), "Failed": failed}).encode())


BATCHES: Mapping[str, Callable[[Request, Callable[[bytes], Answer]], Answer]] = {
    "sns:PublishBatch": _published,
    "sqs:SendMessageBatch": _entries,
    "sqs:DeleteMessageBatch": _entries,
}


def _quick(emulator: type[Aws]) -> type[Aws]:
    """An emulator that drops an event without a free function after 6 s instead of Lambda's 60 s."""
    return type(emulator.__name__, (emulator,), {"functions": ("--retry-scale", "0.1")})


class MotoHarness(AwsHarness):
    """moto: quick but lenient."""

    name = "moto"
    emulator = _quick(Moto)
    lease_s = 1.0


class LocalStackHarness(AwsHarness):
    """LocalStack's community core: stricter than moto."""

    name = "localstack"
    emulator = _quick(LocalStack)
    lease_s = 2.0


HARNESSES: Mapping[str, type[Harness]] = {each.name: each for each in (MotoHarness, LocalStackHarness)}
