"""Each policy against the calls that are made: everything is allowed, and nothing is allowed that no call needs."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import pytest

from aws_calls import Call, actions, allows, recorded
from fsd_aws import PROVIDER, function, policy
from fsd_aws.api import Api
from fsd_aws.names import Names, role
from fsd_conformance import emulators
from fsd_core.driver import WORKER, Message, Resources
from fsd_core.providers.package import stub
from fsd_core.providers.promises import Auditor

APP = "policies"


@pytest.fixture(scope="module")
def used() -> dict[str, Any]:
    """The calls of a deployer, a client and a worker, on one app."""
    settings = {"package": False, "memory_mb": 256}
    with emulators.own(emulators.find("aws", "moto")):
        provisioner = PROVIDER.provisioner(settings)
        with recorded() as deploying:
            made = provisioner.ensure(APP, 2, 1)
            PROVIDER.provisioner(settings | {"concurrency": 5, "memory_mb": 512, "message_kb": 512}).ensure(APP, 2, 1)
            with Api(made.names["region"]) as api:  # new code; and a queue of an older version, with other attributes
                url = api.call("sqs", "get_queue_url", QueueName=Names.of(made).queue(0, 0))["QueueUrl"]
                api.call("sqs", "set_queue_attributes", QueueUrl=url, Attributes={"MessageRetentionPeriod": "60"})
                function.update(api, made, stub("aws"))
            made = provisioner.ensure(APP, 3, 2)
        with recorded() as running:
            assert PROVIDER.provisioner(settings).ensure(APP, 3, 2) == made
            _use(made, client=True)
        with recorded() as working:
            _use(made, client=False)
        with recorded() as looking:
            assert isinstance(provisioner, Auditor)
            assert provisioner.audit(APP)
        with Api(made.names["region"]) as api:  # somebody lets the bucket keep versions, which a removal must delete too
            api.call("s3", "put_bucket_versioning", Bucket=made.names["bucket"], VersioningConfiguration={"Status": "Enabled"})
            for body in (b"1", b"2"):
                api.call("s3", "put_object", Bucket=made.names["bucket"], Key="probe/kept", Body=body)
        with recorded() as destroying:
            assert f"bucket {made.names['bucket']}" in provisioner.destroy(APP)
    return {"resources": made, "deploy": deploying + destroying, "run": running, "work": working, "audit": looking}


def _use(resources: Resources, client: bool) -> None:
    """Every verb of the drivers that a client, or a worker, uses."""
    messages, objects, invoker = PROVIDER.messages(resources, 0), PROVIDER.objects(resources), PROVIDER.invoker(resources)
    assert not messages.publish([Message(1, b"text")])
    objects.put("probe/x", b"1")
    objects.put("probe/y", b"1", if_absent=True)
    objects.get("probe/x", 0, 1)
    payload = json.dumps({"app": resources.app, "probe": {"key": "probe/z"}}).encode()
    invoker.invoke(WORKER, payload)
    if client:
        assert invoker.limits.concurrency
        objects.list("")
        objects.delete(["probe/x", "probe/y"])
        invoker.invoke(WORKER, json.dumps({"app": resources.app, "probe": {"key": "probe/dies", "exit": 3}}).encode())
        until = time.monotonic() + 60
        while not invoker.failures(lambda payload: False).acks:  # it leaves one
            assert time.monotonic() < until
            time.sleep(0.1)
        assert invoker.failures(lambda payload: True).taken
    else:
        until = time.monotonic() + 60
        while not (got := messages.receive(1, 10, 1.0)):
            assert time.monotonic() < until
        messages.ack(1, [each.token for each in got])
        with closing(PROVIDER.messages(resources, 0, direct=True)) as direct:
            assert not direct.publish([Message(1, b"text")])
    for driver in (messages, objects, invoker):
        driver.close()


def _documents(made: Resources) -> dict[str, dict[str, Any]]:
    names, bucket, function = Names.of(made), made.names["bucket"], made.names["function"]
    return {
        "work": policy.worker(names, bucket, function),
        "run": policy.client(names, bucket, function),
        "deploy": policy.deployer(names, bucket, function, role(made.app, made.names["region"])),
        "audit": policy.auditor(names, bucket, function, role(made.app, made.names["region"])),
    }


@pytest.mark.parametrize("who", ["work", "run", "deploy", "audit"])
def test_every_call_is_allowed(used: dict[str, Any], who: str) -> None:
    document, calls = _documents(used["resources"])[who], used[who]
    needs = {need for call in calls for need in call.needs()}
    assert len(needs) > 3
    assert not {need for need in needs if not allows(document, *need)}


# What no call of ours shows: what Lambda does in the role's name; what S3 asks so that a missing key is "not found".
BY_LAMBDA = {"logs:CreateLogStream", "logs:PutLogEvents", "s3:ListBucket"}


@pytest.mark.parametrize(("who", "besides"), [("work", BY_LAMBDA), ("run", set()), ("deploy", set()), ("audit", set())])
def test_nothing_more_is_allowed(used: dict[str, Any], who: str, besides: set[str]) -> None:
    calls: list[Call] = [*used[who], *(used["run"] if who == "deploy" else ())]  # a deployer may also run
    needed = {action for call in calls for action, _ in call.needs()}
    assert actions(_documents(used["resources"])[who]) - needed - besides == set()


def test_every_resource_is_the_apps_own(used: dict[str, Any]) -> None:
    """No star but where the service knows no resource, and no action in general."""
    for who, document in _documents(used["resources"]).items():
        for statement in document["Statement"]:
            assert not [action for action in statement["Action"] if "*" in action]
            named = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            for resource in named:
                assert f"fsd-{APP}" in resource or statement["Sid"] in ("Lists", "Quota"), (who, statement)


def test_who_runs_an_app_adds_to_its_audit_log_and_removes_nothing(used: dict[str, Any]) -> None:
    documents = _documents(used["resources"])
    entry = f"arn:aws:s3:::{used['resources'].names['bucket']}/audit/0000000001"
    allowed = {who: {verb for verb in ("Get", "Put", "Delete") if allows(documents[who], f"s3:{verb}Object", entry)} for who in documents}
    assert allowed == {"work": set(), "audit": set(), "run": {"Get", "Put"}, "deploy": {"Get", "Put", "Delete"}}
    (append,) = [statement for statement in documents["run"]["Statement"] if statement["Sid"] == "Append"]
    assert append["Condition"] == {"Null": {"s3:if-none-match": "true"}}  # a put that may replace an entry


def test_another_app_is_out_of_reach(used: dict[str, Any]) -> None:
    made: Resources = used["resources"]
    other = Names("other", made.names["region"], made.names["account"], "0" * 8)
    document = _documents(made)["work"]
    for action, resource in (
        ("sns:Publish", other.topic_arn(0, 0)),
        ("sqs:SendMessage", other.arn("sqs", other.queue(0, 0))),
        ("sqs:ReceiveMessage", other.arn("sqs", other.queue(0, 0))),
        ("s3:GetObject", "arn:aws:s3:::fsd-other-123456789012-us-east-1/x"),
        ("lambda:InvokeFunction", other.arn("lambda", "function:fsd-other")),
    ):
        assert not allows(document, action, resource)


def test_only_topics_of_the_app_may_send(used: dict[str, Any]) -> None:
    names = Names.of(used["resources"])
    statement, closed = policy.queue(names, names.queue(0, 1), "fsd-x-*")["Statement"]
    assert policy.queue(names, names.queue(0, 1), None)["Statement"] == [closed]
    assert (closed["Effect"], closed["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Action"] == ["sqs:SendMessage"]
    assert statement["Condition"] == {"ArnLike": {"aws:SourceArn": names.arn("sns", "fsd-x-*")}}


def test_only_lambda_may_take_the_role() -> None:
    (statement,) = policy.trust()["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert statement["Action"] == ["sts:AssumeRole"]
