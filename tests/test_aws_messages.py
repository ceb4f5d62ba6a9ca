"""What is SNS's and SQS's own, against a real server: partial failures, exact limits, whole seconds; both ways to carry bytes; errors."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from attrs import evolve
from botocore import exceptions as sdk
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from aws_server import KEYS, REGION, app, code_of, env, moto
from fsd_aws import names
from fsd_aws.clients import client
from fsd_aws.errors import advice, classify, entry_code
from fsd_aws.messages import AwsMessages
from fsd_conformance.emulators.emulator import pointed
from fsd_core.driver import Code, Message, Rejected, Resources
from fsd_core.providers.names import generation_of, new_generation


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture(scope="module")
def made(server: str) -> Resources:
    return app()


@pytest.fixture
def queues(made: Resources) -> Iterator[AwsMessages]:
    driver = AwsMessages(made, 0)
    yield driver
    driver.close()


def telling(resources: Resources, **settings: str) -> Resources:
    return evolve(resources, names={**resources.names, **settings})


def taken(driver: AwsMessages, rank: int, count: int) -> list[bytes]:
    """Receive and acknowledge ``count`` messages."""
    bodies: list[bytes] = []
    until = time.monotonic() + 60
    while len(bodies) < count:
        assert time.monotonic() < until
        deliveries = driver.receive(rank, 10, 2)
        assert not deliveries or driver.ack(rank, [each.token for each in deliveries]) == []
        bodies += [each.body for each in deliveries]
    return bodies


def test_exact_limits(queues: AwsMessages) -> None:
    limits = queues.limits
    assert (limits.batch_messages, limits.batch_bytes, limits.wait_s, limits.billing_bytes) == (10, 262_144, 20.0, 65_536)
    whole = base64.b64encode(b"\xff" * limits.message_bytes)[: limits.message_bytes]
    assert queues.publish([Message(0, whole)]) == []
    assert taken(queues, 0, 1) == [whole]
    room = (limits.batch_bytes - 10 * limits.overhead_bytes) // 10
    rest = limits.batch_bytes - 10 * limits.overhead_bytes - 10 * room
    full = [Message(1, b"x" * (room + (rest if number == 0 else 0))) for number in range(10)]
    assert queues.publish(full) == []
    assert sum(map(len, taken(queues, 1, 10))) + 10 * limits.overhead_bytes == limits.batch_bytes


def test_over_a_limit_is_refused_before_the_network(made: Resources) -> None:
    with pointed(env("http://127.0.0.1:9"), ("AWS_",)):  # nobody listens there: UNAVAILABLE, if it were asked
        driver = AwsMessages(made, 0)
    limits = driver.limits
    part = (limits.batch_bytes - 10 * limits.overhead_bytes) // 10 + 1
    assert code_of(driver, driver.publish, [Message(0, b"x")]) is Code.UNAVAILABLE
    assert code_of(driver, driver.publish, [Message(0, b"x" * (limits.message_bytes + 1))]) is Code.TOO_LARGE
    assert code_of(driver, driver.publish, [Message(0, b"x" * part)] * 10) is Code.TOO_LARGE
    assert code_of(driver, driver.publish, [Message(0, b"x")] * 11) is Code.INVALID
    assert code_of(driver, driver.publish, []) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"")]) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"\xff")]) is Code.INVALID
    assert code_of(driver, driver.publish, [Message(0, b"x"), Message(200, b"x")]) is Code.INVALID
    assert (driver.route(0), driver.route(199), driver.route(200)) == (0, 0, 1)
    assert code_of(driver, driver.receive, 0, 11, 1) is Code.INVALID
    assert code_of(driver, driver.receive, 0, 1, 20.5) is Code.INVALID
    assert code_of(driver, driver.ack, 0, ["t"] * 11) is Code.INVALID
    assert code_of(driver, driver.ack, 0, []) is Code.INVALID
    assert code_of(driver, driver.ack, 0, [7]) is Code.INVALID  # the SDK's own check of parameters


def test_a_large_topic_takes_a_large_message() -> None:
    resources = Resources("a", 1, 1, {"region": REGION, "account": "1", "generation": "0" * 8, "queue_url_prefix": "u", "lease_s": "2.5"})
    with pointed(KEYS, ("AWS_",)):
        driver = AwsMessages(telling(resources, body="binary", message_kb="1024"), 0)
    assert driver.limits.batch_bytes == 1 << 20
    assert driver.limits.message_bytes == (1 << 20) - driver.limits.overhead_bytes
    assert driver.limits.lease_s == 3.0
    assert (driver.route(99), driver.route(100)) == (0, 1)  # such a topic has 100 subscriptions


def test_refused_entries_do_not_hold_up_the_others(made: Resources) -> None:
    driver = AwsMessages(telling(made, message_kb="1024"), 0)  # the topic does not know: it takes 256 KiB
    refused = driver.publish([Message(0, b"one"), Message(0, b"x" * 300_000), Message(1, b"two")])
    assert [(each.index, each.code) for each in refused] == [(1, Code.INVALID)]
    assert "InvalidParameter" in refused[0].reason
    assert (taken(driver, 0, 1), taken(driver, 1, 1)) == ([b"one"], [b"two"])
    driver.close()


def test_what_a_service_says_of_entries(queues: AwsMessages) -> None:
    failed = [
        {"Id": "1", "Code": "InternalError", "Message": "again", "SenderFault": False},
        {"Id": "2", "Code": "Throttling", "SenderFault": False},
        {"Id": "3", "Code": "SomethingNew", "SenderFault": True},
        {"Id": "0", "Code": "SomethingElse", "SenderFault": False},
    ]
    expected = [
        Rejected(1, Code.UNAVAILABLE, "InternalError: again"),
        Rejected(2, Code.THROTTLED, "Throttling: "),
        Rejected(3, Code.INVALID, "SomethingNew: "),
        Rejected(0, Code.UNKNOWN, "SomethingElse: "),
    ]
    with Stubber(queues.native()["sns"]) as sns, Stubber(queues.native()["sqs"]) as sqs:
        sns.add_response("publish_batch", {"Successful": [], "Failed": failed})
        assert queues.publish([Message(0, b"x")] * 4) == expected
        sqs.add_response("delete_message_batch", {"Successful": [], "Failed": failed})
        assert queues.ack(0, ["t"] * 4) == expected
        gone = [{"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}]
        sqs.add_response("delete_message_batch", {"Successful": [], "Failed": gone})
        assert queues.ack(0, ["t"]) == []


@pytest.mark.parametrize(("wait_s", "asked"), [(0, 0), (0.0, 0), (0.001, 1), (0.5, 1), (1, 1), (1.2, 2), (20.0, 20)])
def test_waits_are_whole_seconds(queues: AwsMessages, wait_s: float, asked: int) -> None:
    with Stubber(queues.native()["sqs"]) as sqs:
        expected = {"MaxNumberOfMessages": 7, "WaitTimeSeconds": asked, "VisibilityTimeout": 2, "MessageAttributeNames": []}
        sqs.add_response("receive_message", {}, {"QueueUrl": queues._url(1), **expected})
        assert queues.receive(1, 7, wait_s) == []


def test_a_token_that_is_none_is_harmless_but_where_no_queue_is(made: Resources, queues: AwsMessages) -> None:
    assert queues.ack(0, ["no token at all"]) == []
    gone = AwsMessages(telling(made, generation="00000000"), 0)
    assert code_of(gone, gone.ack, 0, ["x"]) is Code.NOT_FOUND
    gone.close()


def test_binary_goes_in_an_attribute(made: Resources) -> None:
    driver = AwsMessages(telling(made, body="binary"), 1)
    limits, body = driver.limits, bytes(range(256))
    assert (limits.body, limits.batch_bytes - limits.message_bytes) == ("binary", limits.overhead_bytes)
    target = {"DataType": "String", "StringValue": "1.2"}
    entry = {"Id": "0", "Message": "-", "MessageAttributes": {"target": target, "body": {"DataType": "Binary", "BinaryValue": body}}}
    carried = len("-") + len("target") + len("String") + len("1.2") + len("body") + len("Binary") + len(body)
    assert carried <= len(body) + limits.overhead_bytes
    topic = names.Names.of(made).topic_arn(1, 2)
    with Stubber(driver.native()["sns"]) as sns:
        sns.add_response("publish_batch", {}, {"TopicArn": topic, "PublishBatchRequestEntries": [entry]})
        assert driver.publish([Message(2, body)]) == []
    # As raw delivery of the topic does it; and somebody's own message, which core will not know as a frame.
    sqs, url = driver.native()["sqs"], driver._url(2)
    sqs.send_message(QueueUrl=url, MessageBody="-", MessageAttributes={"body": {"DataType": "Binary", "BinaryValue": body}})
    assert taken(driver, 2, 1) == [body]
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    assert taken(driver, 2, 1) == [b"hello"]
    sqs.send_message(QueueUrl=url, MessageBody="hello", MessageAttributes={"body": {"DataType": "String", "StringValue": "of text"}})
    assert taken(driver, 2, 1) == [b"hello"], "one that cannot be received cannot be removed, and would end every run on this slot"
    driver.close()


def test_text_goes_in_the_body(made: Resources, queues: AwsMessages) -> None:
    entry = {"Id": "0", "Message": "aGVsbG8=", "MessageAttributes": {"target": {"DataType": "String", "StringValue": "0.1"}}}
    with Stubber(queues.native()["sns"]) as sns:
        sns.add_response("publish_batch", {}, {"TopicArn": names.Names.of(made).topic_arn(0, 1), "PublishBatchRequestEntries": [entry]})
        assert queues.publish([Message(1, b"aGVsbG8=")]) == []


def test_importing_imports_no_sdk() -> None:
    check = "import sys, fsd_aws.names, fsd_aws.limits; print([m for m in sys.modules if m.startswith(('boto', 'urllib3'))])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_one_attempt_and_connections_for_all_threads() -> None:
    with pointed(KEYS, ("AWS_",)):
        made = client("sqs", REGION, read_s=35.0).meta.config
    assert made.retries["total_max_attempts"] == 1
    assert made.max_pool_connections >= 16
    assert made.read_timeout > 20


def test_a_connection_that_is_opened_ahead_carries_the_first_publish(made: Resources) -> None:
    opened, asked = list[str](), list[tuple[str, str | None]]()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            opened.append(self.client_address)
            super().setup()

        def do_GET(self) -> None:
            asked.append((self.command, self.headers.get("Authorization")))
            body = b"<PublishBatchResponse><PublishBatchResult/></PublishBatchResponse>" if self.command == "POST" else b"who are you?"
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200 if self.command == "POST" else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pointed({**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}, ("AWS_",)):
            driver = AwsMessages(made, 0)
        assert driver.connect(1)
        assert (len(opened), asked) == (1, [("GET", None)])  # nobody is billed for a request without credentials
        driver.publish([Message(1, b"body")])
        assert (len(opened), asked[1][0]) == (1, "POST")
        driver.close()
        server.shutdown()


def answered(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Do")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("SlowDown", 503, Code.THROTTLED),
        ("ThrottlingException", 400, Code.THROTTLED),
        ("KMS.ThrottlingException", 400, Code.THROTTLED),
        ("SomeNewThrottling", 400, Code.THROTTLED),
        ("TooManyRequestsException", 429, Code.THROTTLED),
        ("503", 503, Code.UNAVAILABLE),
        ("InternalError", 500, Code.UNAVAILABLE),
        ("ConditionalRequestConflict", 409, Code.UNAVAILABLE),
        ("PreconditionFailed", 412, Code.ALREADY_EXISTS),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, Code.NOT_FOUND),
        ("NotFound", 404, Code.NOT_FOUND),
        ("404", 404, Code.NOT_FOUND),
        ("AccessDenied", 403, Code.DENIED),
        ("AccessDeniedException", 400, Code.DENIED),
        ("ExpiredToken", 400, Code.DENIED),
        ("RequestTimeTooSkewed", 403, Code.DENIED),
        ("EntityTooLarge", 400, Code.TOO_LARGE),
        ("KMSDisabled", 400, Code.INVALID),
        ("NobodyKnows", 400, Code.INVALID),
        ("NobodyKnows", 200, Code.UNKNOWN),
    ],
)
def test_codes_of_services(code: str, status: int, expected: Code) -> None:
    assert classify(answered(code, status)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (sdk.NoCredentialsError(), Code.DENIED),
        (sdk.NoRegionError(), Code.INVALID),
        (sdk.EndpointConnectionError(endpoint_url="http://x"), Code.UNAVAILABLE),
        (sdk.ReadTimeoutError(endpoint_url="http://x"), Code.UNAVAILABLE),
        (sdk.ConnectTimeoutError(endpoint_url="http://x"), Code.UNAVAILABLE),
        (sdk.ConnectionClosedError(endpoint_url="http://x"), Code.UNAVAILABLE),
        (sdk.ParamValidationError(report="x"), Code.INVALID),
        (ConnectionResetError(), Code.UNAVAILABLE),
        (KeyError("x"), Code.UNKNOWN),
        (ClientError({}, "Do"), Code.UNKNOWN),
    ],
)
def test_codes_of_the_sdk(error: Exception, expected: Code) -> None:
    assert classify(error) is expected


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (sdk.NoCredentialsError(), "aws configure"),
        (sdk.NoRegionError(), "AWS_REGION"),
        (answered("ExpiredTokenException", 400), "expired"),
        (answered("RequestTimeTooSkewed", 403), "clock"),
        (answered("PermanentRedirect", 301), "region"),
        (answered("AccessDenied", 403), "permission"),
        (answered("AWS.SimpleQueueService.NonExistentQueue", 400), "fsd deploy"),
        ("DENIED: rank 3: get x: ClientError: An error occurred (ExpiredToken) when calling the GetObject operation", "expired"),
    ],
)
def test_advice(error: Exception | str, says: str) -> None:
    told = advice(error)
    assert told is not None
    assert says in told
    assert "\n" not in told


def test_no_advice() -> None:
    assert advice(answered("InternalError", 500)) is None
    assert advice(ValueError("x")) is None


def test_no_credentials_is_denied(made: Resources, server: str) -> None:
    with pointed({k: v for k, v in env(server).items() if "KEY" not in k}, ("AWS_",)):
        driver = AwsMessages(made, 0)
        assert code_of(driver, driver.receive, 0, 1, 0) is Code.DENIED


def test_names_fit_and_are_known_again() -> None:
    long = names.Names("a" * 40, "ap-southeast-10", "1" * 12, new_generation())
    made: Sequence[str] = [long.queue(99, 9999), long.dead, long.failed, long.topic(99, 9999)]
    assert max(map(len, made)) <= 80
    assert {generation_of(long.app, name) for name in made} == {long.generation}
    assert generation_of("a", made[0]) is None
    inner = names.Names("a-b", "us-east-1", "1" * 12, "01234567")
    assert generation_of("a", inner.queue(0, 1)) is None
    assert len({names.bucket("a" * n, "1" * 12, "ap-southeast-10") for n in range(1, 41)}) == 40
    assert max(len(names.bucket("a" * n, "1" * 12, "ap-southeast-10")) for n in range(1, 41)) <= 63
    assert len(names.role("a" * 40, "ap-southeast-10")) <= 64
    assert list(evolve(inner, message_kb=512).topics(101, 2)) == [
        f"fsd-a-b-01234567-{slot}-t{shard}" for slot in (0, 1) for shard in (0, 1)
    ]
    with pytest.raises(ValueError, match="expected it to end in"):
        names.url_prefix("http://x/1/other", "name")
    assert entry_code("AWS.SimpleQueueService.QueueDeletedRecently") is Code.UNAVAILABLE
    assert entry_code("BucketNotEmpty", status=409) is Code.ALREADY_EXISTS
