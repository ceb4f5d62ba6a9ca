"""What a deployment asks of AWS, and what our Lambda answers, against the service models that the vendor publishes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from botocore.exceptions import ClientError

from aws_calls import Call, recorded
from fsd_aws import PROVIDER
from fsd_aws.clients import client
from fsd_conformance import emulators
from fsd_conformance.emulators import lambda_claims
from lambda_emulator import ROLE, ZIP
from schemas import Api, Exchange, aws, breaches, problems, recording
from schemas.planting import Mistake, answer, body, first, status, target
from waiting import until

pytestmark = pytest.mark.emulator
APP = "schemas"
CREATE = "POST /2015-03-31/functions"


@pytest.fixture(scope="module")
def api() -> Api:
    return aws.read("lambda")


@pytest.fixture(scope="module")
def seen() -> Iterator[tuple[list[Exchange], list[Call]]]:
    """Of a deployment, a second one, and what else our Lambda knows; and the deployments' calls of all services."""
    with emulators.own(emulators.find("aws", "moto")), recording.aws() as exchanges:
        with recorded() as calls:
            for slots in (1, 2):
                provisioner = PROVIDER.provisioner({"package": False, "text": True, "lease_s": 2, "memory_mb": 512 * slots})
                provisioner.ensure(APP, 2, slots)
            assert provisioner.find(APP)
            assert provisioner.destroy(APP)
        _functions(client("lambda"))
        yield exchanges, calls


@pytest.fixture(scope="module")
def exchanges(seen: tuple[list[Exchange], list[Call]]) -> list[Exchange]:
    return seen[0]


def _functions(functions: Any) -> None:
    """All that our Lambda does, and what it refuses."""
    name = {"FunctionName": "schemas"}
    runtime = {"Runtime": f"python3.{sys.version_info.minor}", "Role": ROLE, "Handler": "handler.handler", "Code": {"ZipFile": ZIP}}
    made = functions.create_function(**name, **runtime, Environment={"Variables": {"AB": "c"}}, Tags={"a": "b"})
    tagged = {"Resource": made["FunctionArn"]}

    def settled() -> bool:
        found = functions.get_function_configuration(**name)
        return bool((found["State"], found.get("LastUpdateStatus")) == ("Active", "Successful"))

    until(settled)
    functions.update_function_configuration(**name, MemorySize=256)
    until(settled)
    functions.update_function_code(**name, ZipFile=ZIP)
    until(settled)
    functions.list_functions(MaxItems=1)
    for kind in ("RequestResponse", "Event"):
        functions.invoke(**name, InvocationType=kind, Payload=b"{}")
    functions.put_function_concurrency(**name, ReservedConcurrentExecutions=3)
    functions.get_function(**name)
    functions.get_function_concurrency(**name)
    functions.delete_function_concurrency(**name)
    functions.put_function_event_invoke_config(**name, MaximumRetryAttempts=1)
    functions.update_function_event_invoke_config(**name, MaximumEventAgeInSeconds=60)
    functions.get_function_event_invoke_config(**name)
    functions.delete_function_event_invoke_config(**name)
    functions.put_function_recursion_config(**name, RecursiveLoop="Allow")
    functions.get_function_recursion_config(**name)
    allowed = {"Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "SourceAccount": "123456789012"}
    functions.add_permission(**name, StatementId="s3", **allowed)
    functions.get_policy(**name)
    functions.remove_permission(**name, StatementId="s3")
    functions.tag_resource(**tagged, Tags={"c": "d"})
    functions.list_tags(**tagged)
    functions.untag_resource(**tagged, TagKeys=["a", "c"])
    functions.list_aliases(**name)
    functions.list_versions_by_function(**name)
    functions.get_account_settings()
    for refused in (
        lambda: functions.create_function(**name, **runtime),
        lambda: functions.update_function_configuration(**name, Runtime="python2.7"),
        lambda: functions.put_function_concurrency(**name, ReservedConcurrentExecutions=10**6),
        lambda: functions.get_function_event_invoke_config(**name),
        lambda: functions.get_function(FunctionName="nobody"),
        lambda: functions.get_policy(**name),
        lambda: functions.remove_permission(**name, StatementId="s3"),
    ):
        with pytest.raises(ClientError):
            refused()
    functions.delete_function(**name)


def test_no_answer_of_our_lambda_breaks_the_model(api: Api, exchanges: list[Exchange]) -> None:
    found = "\n".join(each for exchange in exchanges for each in problems(api, exchange))
    assert not found, found


def test_every_operation_of_our_lambda_was_asked_for(exchanges: list[Exchange]) -> None:
    asked = [(each.method, unquote(each.path).rstrip("/")) for each in exchanges if each.status < 300]
    missing = [
        each.name
        for each in lambda_claims.OPERATIONS
        if not any(method == each.method and re.fullmatch(each.path, path) for method, path in asked)
    ]
    assert missing == []


def test_no_call_breaks_the_models(seen: tuple[list[Exchange], list[Call]]) -> None:
    """Of any service: botocore itself looks neither at enums nor at patterns."""
    calls = seen[1]
    assert {each.operation.partition(":")[0] for each in calls} >= {"s3", "sns", "sqs", "iam", "lambda", "logs", "sts"}
    found = [one for each in calls for one in breaches(aws.parameters(*each.operation.split(":")), each.params, each.operation, sent=True)]
    assert found == []


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (body(lambda told: told.update(Memory=512)), "request.Memory: there is no such field"),
        (body(lambda told: told.update(Runtime="python2.8")), "request.Runtime: is 'python2.8', expected one of"),
        (body(lambda told: told.pop("Role")), "request.Role: is missing"),
        (target("$", "?Qualifier=1"), "query Qualifier: there is no such parameter"),
        (body(lambda told: told.update(MemorySize=64)), "request.MemorySize: is or holds 64, expected 128 to"),
        (body(lambda told: told.update(Timeout="3")), 'request.Timeout: is "3", expected integer'),
        (target("/functions", "/function"), "there is no such operation"),
        (status(202), "answer 202: expected 201"),
        (lambda exchange: replace(exchange, status=418, answer=b"{}"), "answer 418: expected one of 400"),
        (answer(lambda told: told.update(Mood="good")), "answer 201.Mood: there is no such field"),
        (answer(lambda told: told.update(State="Asleep")), "answer 201.State: is 'Asleep', expected one of Active"),
    ],
)
def test_a_planted_mistake_is_found(api: Api, exchanges: list[Exchange], mistake: Mistake, says: str) -> None:
    right = first(exchanges, CREATE)
    assert problems(api, right) == []
    assert json.loads(right.answer)["FunctionName"]
    (found,) = problems(api, mistake(right))
    assert says in found
