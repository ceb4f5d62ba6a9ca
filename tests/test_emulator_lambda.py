"""The local Lambda, through real boto3 and the real runtime client: functions and their processes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from botocore.exceptions import ClientError

from function_host import gone, needs_proc, package, state
from host_cases import HostCases
from lambda_emulator import ACCESS, ROLE, ZIP, Emulator
from waiting import until


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """The usual one."""
    with Emulator.running("--idle-s", "60") as emulator:
        yield emulator


def test_an_idle_environment_is_used_again_and_a_changed_function_starts_anew(emulator: Emulator) -> None:
    name = emulator.create()
    first, second = emulator.call(name, n=1), emulator.call(name, n=2)
    assert (first["calls"], second["calls"]) == (1, 2)
    assert first["pid"] == second["pid"]
    assert second["event"] == {"n": 2}
    assert 0 < first["left_ms"] <= 60_000
    emulator.client.update_function_configuration(FunctionName=name, MemorySize=640)
    third = emulator.call(name)
    assert third["calls"] == 1
    assert third["pid"] != first["pid"]
    assert until(lambda: gone(first["pid"]))


@pytest.mark.parametrize("cold", ["fork", "spawn"])
def test_what_a_function_finds_in_its_environment(cold: str) -> None:
    emulator = Emulator("--cold", cold, "--region", "eu-west-1", AWS_ENDPOINT_URL="http://127.0.0.1:1", AWS_ACCESS_KEY_ID="emulator")
    try:
        client = boto3.client("lambda", endpoint_url=emulator.ready["endpoint"], **{**ACCESS, "region_name": "eu-west-1"})
        emulator.client = client
        name = emulator.create(Environment={"Variables": {"GIVEN": "value"}}, MemorySize=333)
        found = emulator.call(name, do="environment")
        assert found["GIVEN"] == "value"
        assert (found["AWS_LAMBDA_FUNCTION_NAME"], found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) == (name, "333")
        assert (found["AWS_REGION"], found["AWS_DEFAULT_REGION"]) == ("eu-west-1", "eu-west-1")
        assert found["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
        assert found["AWS_ENDPOINT_URL_LAMBDA"] == emulator.ready["endpoint"]
        assert (found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]) == ("emulator", "testing")
        assert found["OPENBLAS_NUM_THREADS"] == "1"
        assert "EMULATOR_ONLY" not in found
        with pytest.raises(ClientError, match="ResourceNotFound"):  # another region is another world
            boto3.client("lambda", endpoint_url=emulator.ready["endpoint"], **ACCESS).get_function(FunctionName=name)
    finally:
        assert emulator.stop() == 0
    assert emulator.process.stdout is not None
    assert emulator.process.stdout.read() == b""  # what functions print is in their logs


def test_output_goes_to_the_log_and_its_end_to_who_asks(emulator: Emulator) -> None:
    name = emulator.create()
    answer = emulator.client.invoke(FunctionName=name, LogType="Tail", Payload="{}")
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert tail.startswith("START RequestId: ")
    assert "a function printed this" in tail
    assert "Init Duration" in tail
    [entry] = emulator.instances(name)
    assert tail in Path(entry["log"]).read_text()


def test_the_control_plane(emulator: Emulator) -> None:
    client = emulator.client
    name = emulator.create(Tags={"app": "x"}, Description="first")
    arn = client.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    assert arn == f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
    assert client.get_function(FunctionName=arn)["Tags"] == {"app": "x"}
    client.tag_resource(Resource=arn, Tags={"run": "y"})
    client.untag_resource(Resource=arn, TagKeys=["app"])
    assert client.list_tags(Resource=arn)["Tags"] == {"run": "y"}
    with pytest.raises(client.exceptions.ResourceConflictException):
        emulator.create(name)

    account = client.get_account_settings()["AccountLimit"]
    assert account["ConcurrentExecutions"] == 1000
    assert client.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions") is None
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=7)
    assert client.get_function(FunctionName=name)["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    assert client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == account["UnreservedConcurrentExecutions"] - 7
    with pytest.raises(client.exceptions.InvalidParameterValueException, match=r"minimum value of \[100\]"):
        client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=901)
    client.delete_function_concurrency(FunctionName=name)

    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function_event_invoke_config(FunctionName=name)
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0, MaximumEventAgeInSeconds=60)
    queue = "arn:aws:sqs:us-east-1:123456789012:q"
    client.update_function_event_invoke_config(FunctionName=name, DestinationConfig={"OnFailure": {"Destination": queue}})
    events = client.get_function_event_invoke_config(FunctionName=name)
    assert (events["MaximumRetryAttempts"], events["MaximumEventAgeInSeconds"]) == (0, 60)
    assert events["DestinationConfig"]["OnFailure"]["Destination"] == queue
    client.delete_function_event_invoke_config(FunctionName=name)

    assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Terminate"
    client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
    assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Allow"

    revision = client.get_function_configuration(FunctionName=name)["RevisionId"]
    changed = client.update_function_configuration(FunctionName=name, Description="second", Environment={"Variables": {"AB": "1"}})
    assert changed["Environment"] == {"Variables": {"AB": "1"}}
    until(lambda: client.get_function_configuration(FunctionName=name)["LastUpdateStatus"] == "Successful")
    code = client.update_function_code(FunctionName=name, ZipFile=package({"other.py": ""}))
    assert code["CodeSha256"] != changed["CodeSha256"]
    assert code["Description"] == "second"
    assert code["RevisionId"] != revision

    pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 1})
    assert name in [function["FunctionName"] for page in pages for function in page["Functions"]]
    client.delete_function(FunctionName=name)
    for call in (client.get_function, client.delete_function, client.invoke, client.get_function_recursion_config):
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            call(FunctionName=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "reserved keys"),
        ({"Environment": {"Variables": {"AB": "x" * 4096}}}, "4KB"),
        ({"MemorySize": 127}, "MemorySize"),
        ({"Timeout": 901}, "Timeout"),
        ({"Role": "admin"}, "ARN of a role"),
        ({"Runtime": "nodejs22.x"}, "runs no other runtime"),
        ({"Handler": ""}, "Handler is mandatory"),
        ({"Code": {"ZipFile": b"not a zip"}}, "Could not unzip"),
        ({"Code": {"S3Bucket": "b", "S3Key": "k"}}, "no emulator of s3"),
        ({"Code": {"ImageUri": "x"}}, "not implemented"),
        ({"Layers": ["arn:aws:lambda:us-east-1:123456789012:layer:x:1"]}, "Layers.*not implemented"),
        ({"DeadLetterConfig": {"TargetArn": "x"}}, "DeadLetterConfig.*not implemented"),
    ],
)
def test_settings_that_the_service_or_the_emulator_refuses(emulator: Emulator, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        emulator.create("refused", **settings)
    with pytest.raises(ClientError, match="Function not found"):
        emulator.client.get_function(FunctionName="refused")


def test_what_is_not_implemented_is_refused_by_name(emulator: Emulator) -> None:
    name = emulator.create()
    with pytest.raises(ClientError, match=r"NotImplemented.*versions"):
        emulator.client.publish_version(FunctionName=name)
    with pytest.raises(ClientError, match="Function not found"):
        emulator.client.invoke(FunctionName=name, Qualifier="3")
    with pytest.raises(ClientError, match="MaximumRetryAttempts"):
        emulator.client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=3)


def test_the_policy_of_a_function_is_stored(emulator: Emulator) -> None:
    name, client = emulator.create(), emulator.client
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        client.get_policy(FunctionName=name)
    sent = {"FunctionName": name, "Action": "lambda:InvokeFunction"}
    client.add_permission(**sent, StatementId="all", Principal="*")
    client.add_permission(**sent, StatementId="s3", Principal="s3.amazonaws.com", SourceArn="arn:aws:s3:::b", SourceAccount="123456789012")
    with pytest.raises(ClientError, match=r"ResourceConflictException.*\(all\) provided already exists"):
        client.add_permission(**sent, StatementId="all", Principal="*")
    everyone, service = json.loads(client.get_policy(FunctionName=name)["Policy"])["Statement"]
    assert (everyone["Principal"], everyone["Resource"].rpartition(":")[2]) == ("*", name)
    assert service["Principal"] == {"Service": "s3.amazonaws.com"}
    condition = {"ArnLike": {"AWS:SourceArn": "arn:aws:s3:::b"}, "StringEquals": {"AWS:SourceAccount": "123456789012"}}
    assert service["Condition"] == condition
    client.remove_permission(FunctionName=name, StatementId="all")
    assert [each["Sid"] for each in json.loads(client.get_policy(FunctionName=name)["Policy"])["Statement"]] == ["s3"]


def test_a_function_that_is_still_being_made_cannot_be_invoked() -> None:
    emulator = Emulator("--pending-s", "3600")
    try:
        emulator.client.create_function(FunctionName="f", Runtime="python3.11", Role=ROLE, Handler="any.handler", Code={"ZipFile": ZIP})
        assert emulator.client.get_function(FunctionName="f")["Configuration"]["State"] == "Pending"
        for call in (emulator.client.invoke, emulator.client.update_function_configuration):
            with pytest.raises(emulator.client.exceptions.ResourceConflictException, match="Pending"):
                call(FunctionName="f")
    finally:
        emulator.stop()


def test_a_function_is_killed_at_its_time_limit(emulator: Emulator) -> None:
    name = emulator.create(Timeout=1)
    late = emulator.fails(name, do="sleep", seconds=600)
    assert late["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert emulator.instances(name) == []


@pytest.mark.parametrize(
    ("handler", "kind"), [("no_such_module.handler", "Runtime.ImportModuleError"), ("lambda_functions.none", "Runtime.HandlerNotFound")]
)
def test_a_function_that_cannot_start(emulator: Emulator, handler: str, kind: str) -> None:
    name = emulator.create(Handler=handler)
    assert [emulator.fails(name)["errorType"] for _ in range(2)] == [kind, kind]


def test_a_handler_of_the_package_root_is_found_where_it_is_installed(emulator: Emulator) -> None:
    assert emulator.call(emulator.create(Handler="handler.handler")) == {"code": 1}  # no launch
    assert emulator.call(emulator.create(Handler="fsd_aws.handler.handler.handler")) == {"code": 1}


@needs_proc
def test_an_environment_is_frozen_between_two_calls(emulator: Emulator, tmp_path: Path) -> None:
    ticks, name = tmp_path / "ticks", emulator.create()
    ticks.touch()
    pid = emulator.call(name, do="thread", ticks=str(ticks))["pid"]
    until(lambda: state(pid) == "T")
    frozen = ticks.stat().st_size
    emulator.call(emulator.create())
    assert ticks.stat().st_size == frozen
    assert emulator.call(name, do="sleep", seconds=0.1)["pid"] == pid
    until(lambda: ticks.stat().st_size > frozen)


def test_payload_limits(emulator: Emulator) -> None:
    name = emulator.create()
    for kind, limit in (("RequestResponse", 6 << 20), ("Event", 1 << 20)):
        filler = limit - len(json.dumps({"do": "none", "x": ""}))
        fits = json.dumps({"do": "none", "x": "x" * filler})
        assert emulator.client.invoke(FunctionName=name, InvocationType=kind, Payload=fits)["StatusCode"] in (200, 202)
        with pytest.raises(ClientError, match=f"limit {limit} bytes") as caught:
            emulator.client.invoke(FunctionName=name, InvocationType=kind, Payload=fits + " ")
        assert caught.value.response["Error"]["Code"] == "RequestEntityTooLargeException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
    with pytest.raises(emulator.client.exceptions.InvalidRequestContentException):
        emulator.client.invoke(FunctionName=name, Payload=b"{")
    assert emulator.client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204


def test_too_many_at_once(emulator: Emulator, tmp_path: Path) -> None:
    name, gate, calls = emulator.create(), tmp_path / "gate", tmp_path / "calls"
    emulator.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    try:
        emulator.send(name, do="wait", until=str(gate), file=str(calls))
        until(calls.exists)
        with pytest.raises(emulator.client.exceptions.TooManyRequestsException) as caught:
            emulator.call(name)
        assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        throttles = emulator.look("stats")["throttles"]
        emulator.send(name, file=str(calls))  # accepted all the same
        until(lambda: emulator.look("stats")["throttles"] > throttles)
        assert len(calls.read_text().splitlines()) == 1
        gate.touch()
        until(lambda: len(calls.read_text().splitlines()) == 2)
    finally:
        gate.touch()
        emulator.client.delete_function_concurrency(FunctionName=name)


class TestShared(HostCases):
    host = Emulator
    small, too_much_mb = {"MemorySize": 256}, 400
    ends: ClassVar = {
        "raise": r'500 .*"RuntimeError".*',
        "kill": r"500 (?=.*Runtime\.ExitError).*Runtime exited with error: signal: killed\".*",
        "exit 3": r'500 .*exit status 3".*',
        "exit 0": r'500 .*without providing a reason".*',
        "grow": r'500 .*signal: killed".*',
    }
    health, counter = "/_health", "RequestResponse"
