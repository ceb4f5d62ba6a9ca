"""The local Lambda's asynchronous queue, its destinations, and uploaded code, with moto for queues and buckets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from aws_server import moto as moto_server
from function_host import package
from lambda_emulator import ACCESS, ZIP, Emulator
from waiting import until


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def hasty(moto: str) -> Iterator[Emulator]:
    """Its queue of events runs a thousand times as fast; destinations are in moto."""
    with Emulator.running("--retry-scale", ".001", AWS_ENDPOINT_URL=moto) as emulator:
        yield emulator


def records(url: str, name: str) -> Callable[[], list[Any]]:
    """A look at what has arrived in a new queue."""
    sqs = boto3.client("sqs", endpoint_url=url, **ACCESS)
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    return lambda: [json.loads(m["Body"]) for m in sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages", [])]


def with_destination(emulator: Emulator, queue: str, **settings: Any) -> str:
    """A function whose lost events go to the queue."""
    name = emulator.create(**settings)
    destination = {"OnFailure": {"Destination": f"arn:aws:sqs:us-east-1:123456789012:{queue}"}}
    emulator.client.put_function_event_invoke_config(FunctionName=name, DestinationConfig=destination)
    return name


def test_an_event_is_retried_twice_and_then_goes_to_the_destination(hasty: Emulator, moto: str, tmp_path: Path) -> None:
    arrived, calls = records(moto, "failed"), tmp_path / "calls"
    name = with_destination(hasty, "failed")
    request = hasty.send(name, do="raise", file=str(calls))
    [record] = until(arrived)
    assert [line.split()[1] for line in calls.read_text().splitlines()] == [request] * 3
    assert record["requestContext"] == {
        "requestId": request,
        "functionArn": f"arn:aws:lambda:us-east-1:123456789012:function:{name}:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    }
    assert record["requestPayload"] == {"do": "raise", "file": str(calls)}
    assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
    assert record["responsePayload"]["errorMessage"] == "on purpose"
    hasty.client.update_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    hasty.send(name, do="kill")
    [record] = until(arrived)
    assert (record["requestContext"]["approximateInvokeCount"], record["responsePayload"]["errorType"]) == (1, "Runtime.ExitError")


def test_an_event_that_is_throttled_too_long_goes_to_the_destination(hasty: Emulator, moto: str) -> None:
    arrived = records(moto, "aged")
    name = with_destination(hasty, "aged")
    hasty.client.update_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60)
    hasty.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    request = hasty.send(name)
    [record] = until(arrived)
    assert (record["requestContext"]["requestId"], record["requestContext"]["condition"]) == (request, "EventAgeExceeded")
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert "responseContext" not in record


@pytest.mark.parametrize("kind", ["Event", "RequestResponse"])
def test_a_function_that_invokes_itself_is_stopped_after_16(hasty: Emulator, moto: str, tmp_path: Path, kind: str) -> None:
    arrived, calls = records(moto, f"loop-{kind}"), tmp_path / "calls"
    name = with_destination(hasty, f"loop-{kind}")
    hasty.client.update_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    event = {"do": "loop", "kind": kind, "limit": 20, "depth": 1, "file": str(calls)}
    stops = hasty.look("stats")["recursion_stops"]
    hasty.send(name, **event)
    [record] = until(arrived)
    assert record["requestPayload"]["depth"] == (17 if kind == "Event" else 1)
    assert hasty.look("stats")["recursion_stops"] == stops + 1
    if kind == "Event":
        assert len(calls.read_text().splitlines()) == 16
        hasty.client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
        hasty.send(name, **event)
        until(lambda: len(calls.read_text().splitlines()) == 16 + 20)


def test_late_and_double_delivery_on_request(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    emulator = Emulator("--late", "1:1.5", "--duplicate", "1", "--seed", "3")
    try:
        name = emulator.create()
        sent = time.time()
        request = emulator.send(name, file=str(calls))
        lines = until(lambda: calls.exists() and len(found := calls.read_text().splitlines()) == 2 and found)
        assert {line.split()[1] for line in lines} == {request}
        assert all(float(line.split()[2]) >= sent + 1.5 for line in lines)
        assert emulator.look("stats")["late"] == 2
    finally:
        emulator.stop()


def test_an_uploaded_package_runs_without_what_is_installed_here(moto: str) -> None:
    source, behaviour = ((Path(__file__).parent / name).read_text() for name in ("lambda_functions.py", "behaviour.py"))
    emulator = Emulator("--code", "zip", AWS_ENDPOINT_URL=moto)
    try:
        data = package({"own/__init__.py": "", "own/code.py": source, "behaviour.py": behaviour, "bare.py": "import numpy\n"})
        name = emulator.create(Handler="own.code.handler", Code={"ZipFile": data})
        found = emulator.call(name, do="path")
        assert found["path"][0] == found["cwd"]
        assert found["file"] == f"{found['cwd']}/own/code.py"
        assert not [folder for folder in found["path"] if "site-packages" in folder]
        assert emulator.fails(emulator.create(Handler="bare.handler", Code={"ZipFile": data}))["errorType"] == "Runtime.ImportModuleError"
        s3 = boto3.client("s3", endpoint_url=moto, **ACCESS)
        s3.create_bucket(Bucket="code")
        s3.put_object(Bucket="code", Key="code.zip", Body=ZIP)
        assert emulator.call(emulator.create(Handler="handler.handler", Code={"S3Bucket": "code", "S3Key": "code.zip"})) == "from the zip"
        with pytest.raises(ClientError, match="NoSuchKey"):
            emulator.create(Code={"S3Bucket": "code", "S3Key": "none"})
        once = {"do": "loop", "kind": "Event", "limit": 1, "depth": 1}  # which needs boto3, as the platform has it
        assert emulator.call(name, **once)
        with pytest.raises(ClientError, match="this interpreter"):
            emulator.create(Runtime="python3.9")
    finally:
        emulator.stop()
