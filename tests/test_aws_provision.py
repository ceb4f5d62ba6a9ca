"""An app on AWS, made and taken away: against moto and the local Lambda."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from aws_calls import recorded
from fsd_aws import PROVIDER, RESOURCES, api, function, names, provision, queues
from fsd_aws.clients import client
from fsd_aws.names import Names
from fsd_conformance import emulators
from fsd_core.driver import Failures, Provisioner, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.package import stub
from provision_cases import Cloud, ProvisionCases

REGION = "us-east-1"


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("aws", "moto")):
        yield


def provisioner(**settings: object) -> Provisioner:
    return AWS.provisioner(**settings)


def aws(service: str) -> Any:
    return client(service, REGION)


def there(app: str) -> Counter[str]:
    """How much of an app is there, by kind."""
    sns, iam = aws("sns"), aws("iam")

    def own(values: list[str]) -> int:
        return sum(f"fsd-{app}-" in f"{value}-" for value in values)

    return +Counter(
        queue=own(aws("sqs").list_queues(QueueNamePrefix=f"fsd-{app}-").get("QueueUrls", [])),
        topic=own([each["TopicArn"] for each in sns.list_topics()["Topics"]]),
        subscription=own([each["TopicArn"] for each in sns.list_subscriptions()["Subscriptions"]]),
        bucket=own([each["Name"] for each in aws("s3").list_buckets()["Buckets"]]),
        role=own([each["RoleName"] for each in iam.list_roles()["Roles"]]),
        function=own([each["FunctionName"] for each in aws("lambda").list_functions()["Functions"]]),
        log_group=own([each["logGroupName"] for each in aws("logs").describe_log_groups()["logGroups"]]),
    )


def remove_role(made: Resources) -> None:
    role = names.role(made.app, REGION)
    aws("iam").delete_role_policy(RoleName=role, PolicyName="fsd")
    aws("iam").delete_role(RoleName=role)


def with_api(remove: Callable[[api.Api, Resources], object]) -> Callable[[Resources], None]:
    """``remove`` as what removes a part of an app."""

    def removes(made: Resources) -> None:
        with api.Api(REGION) as service:
            remove(service, made)

    return removes


def lose(kept: Resources) -> list[str]:
    lost = Names(kept.app, REGION, kept.names["account"], "0123abcd")
    with api.Api(REGION) as service:
        queues.make(service, lost, [(0, 0)])
    return [f"topic {lost.topic(0, 0)}", *sorted(f"queue {q}" for q in (lost.queue(0, 0), lost.dead, lost.failed))]


def deploy_idle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(function, "HANDLER", "fsd_aws.nothing.handler")
    patch.setattr("fsd_core.providers.probes._READY_S", 3.0)


AWS = Cloud(
    provider=PROVIDER,
    settings={"package": False, "text": True, "lease_s": 2},
    there=there,
    whole=Counter(queue=4, topic=1, subscription=2, bucket=1, role=1, function=1, log_group=1),
    lines={"function": 1, "topic": 1, "queue": 4, "bucket": 1, "role": 1, "log group": 1},
    recorded=recorded,
    look=lambda call, made: call.operation == "lambda:GetFunctionConfiguration",
    makes_queue=lambda call: call.operation == "sns:Subscribe",
    parts={
        "function": with_api(lambda service, made: function.remove(service, made.names["function"])),
        "bucket": lambda made: aws("s3").delete_bucket(Bucket=made.names["bucket"]),
        "role": remove_role,
        "queues": with_api(lambda service, made: queues.remove(service, made.app)),
        "log group": lambda made: aws("logs").delete_log_group(logGroupName=f"/aws/lambda/{made.names['function']}"),
    },
    lose=lose,
    endpoint="AWS_ENDPOINT_URL_LAMBDA",
    fits=lambda made: max(len(made.names["bucket"]) - 63, len(names.role(made.app, REGION)) - 64, len(made.names["function"]) - 64) <= 0,
    idle=deploy_idle,
    idle_says="app '{app}': the function was started and failed.*: log group /aws/lambda/fsd-{app} shows why",
    died="exit status 3",
)


class TestShared(ProvisionCases):
    cloud = AWS


@pytest.fixture
def app() -> Iterator[str]:
    yield from AWS.app()


def test_what_is_made_and_how(app: str) -> None:
    made = provisioner(memory_mb=512, timeout_s=60, concurrency=7).ensure(app, 2, 2)
    own, told = Names.of(made), made.names
    assert there(app) == Counter(queue=6, topic=2, subscription=4, bucket=1, role=1, function=1, log_group=1)
    assert PROVIDER.caller(made).startswith(f"arn:aws:sts::{told['account']}:")
    assert PROVIDER.store(made) == f"s3://{told['bucket']}"
    assert all(isinstance(value, str) for value in told.values())

    sqs, tag = aws("sqs"), {"fsd:app": app}
    for name in (*own.queues(2, 2), own.dead, own.failed):
        url = told["queue_url_prefix"] + name
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert (attributes["SqsManagedSseEnabled"], "KmsMasterKeyId" in attributes) == ("true", False)
        assert int(attributes["MessageRetentionPeriod"]) == (14 * 86400 if name == own.dead else 3600)
        assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == tag
        left = [attributes[f"ApproximateNumberOfMessages{hidden}"] for hidden in ("", "NotVisible")]  # a lease hides, a count does not
        assert left == ["0", "0"], name
        if name != own.failed:
            statement, _ = json.loads(attributes["Policy"])["Statement"]
            assert statement["Resource"] == own.arn("sqs", name)
            assert f":fsd-{app}-{own.generation}-" in statement["Condition"]["ArnLike"]["aws:SourceArn"]

    sns = aws("sns")
    subscribed = {}
    for topic in own.topics(2, 2):
        arn = own.arn("sns", topic)
        assert sns.list_tags_for_resource(ResourceArn=arn)["Tags"] == [{"Key": "fsd:app", "Value": app}]
        for each in sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]:
            subscribed[each["Endpoint"]] = sns.get_subscription_attributes(SubscriptionArn=each["SubscriptionArn"])["Attributes"]
    assert set(subscribed) == {own.arn("sqs", name) for name in own.queues(2, 2)}
    one = subscribed[own.arn("sqs", own.queue(1, 0))]
    assert json.loads(one["FilterPolicy"]) == {"target": ["1.0"]}
    assert one["RawMessageDelivery"] == "true"
    assert json.loads(one["RedrivePolicy"]) == {"deadLetterTargetArn": own.arn("sqs", own.dead)}

    s3, bucket = aws("s3"), told["bucket"]
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    days = {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule}
    assert {rule["Status"] for rule in rules} == {"Enabled"}
    assert [rule["Filter"]["Prefix"] for rule in rules if "AbortIncompleteMultipartUpload" in rule] == [""]
    for key in ("audit/0000000001", "0ab/run/config", "ab/content/1", "aab/run/x", "slots/0/1", "code/x", "probe/deploy-1"):
        assert [kept for prefix, kept in days.items() if key.startswith(prefix)] == [365 if key.startswith("audit") else 7], key
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "fsd:app", "Value": app}]

    functions, name = aws("lambda"), told["function"]
    found = functions.get_function_configuration(FunctionName=name)
    assert (found["MemorySize"], found["Timeout"], found["Role"]) == (512, 60, told["role"])
    assert json.loads(found["Environment"]["Variables"][RESOURCES]) == {"app": app, "ranks": 2, "slots": 2, "names": dict(told)}
    events = functions.get_function_event_invoke_config(FunctionName=name)
    assert (events["MaximumRetryAttempts"], events["MaximumEventAgeInSeconds"]) == (0, 60)
    assert events["DestinationConfig"]["OnFailure"]["Destination"] == own.arn("sqs", own.failed)
    assert functions.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Allow"
    assert functions.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"] == 7
    assert functions.list_tags(Resource=found["FunctionArn"])["Tags"] == tag

    iam, role = aws("iam"), names.role(app, REGION)
    assert iam.get_role(RoleName=role)["Role"]["Arn"] == told["role"]
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == ["fsd"]
    (group,) = aws("logs").describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"]
    assert group["retentionInDays"] == 14

    assert PROVIDER.objects(made).list("").keys == []  # nothing of the probes is left
    assert PROVIDER.messages(made, 0).receive(0, 10, 0) == []
    assert PROVIDER.invoker(made).limits.concurrency == 7


def test_a_changed_setting_is_applied(app: str) -> None:
    before = provisioner(concurrency=5).ensure(app, 1, 1)
    after = provisioner(memory_mb=3000, message_kb=512).ensure(app, 1, 1)
    assert {**before.names, "memory_mb": "3000", "message_kb": "512", "concurrency": ""} == after.names
    assert aws("lambda").get_function_configuration(FunctionName=after.names["function"])["MemorySize"] == 3000
    assert "ReservedConcurrentExecutions" not in aws("lambda").get_function_concurrency(FunctionName=after.names["function"])
    assert provisioner(memory_mb=3000, message_kb=512).find(app) == after
    with pytest.raises(InputError, match=r"\[aws\] bucket: .* not another-one.*or destroy the app first"):
        provisioner(bucket="another-one").ensure(app, 1, 1)


def test_an_app_keeps_its_engine_and_a_large_zip_goes_through_the_bucket(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "DIRECT_BYTES", 10)
    monkeypatch.setattr(provision, "DIRECT_BYTES", 10)
    with recorded() as calls:
        made = provisioner(engine="onnx").ensure(app, 1, 1)
    (created,) = (call for call in calls if call.operation == "lambda:CreateFunction")
    assert created.params["Code"] == {"S3Bucket": made.names["bucket"], "S3Key": "code/installed.zip"}
    assert not aws("s3").list_objects_v2(Bucket=made.names["bucket"], Prefix="code/").get("KeyCount")
    assert made.names["engine"] == "onnx"
    assert provisioner().ensure(app, 1, 1) == made


def test_an_arm64_function_gets_no_onnx_runtime(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local Lambda has only functions of this machine's processor: here, what it answers is changed."""
    name, call = provisioner().ensure(app, 1, 1).names["function"], api.Api.call

    def arm64(self: Any, service: str, operation: str, **parameters: Any) -> Any:
        found = call(self, service, operation, **parameters)
        return found | {"Architectures": ["arm64"]} if operation == "get_function_configuration" else found

    monkeypatch.setattr(api.Api, "call", arm64)
    with pytest.raises(InputError, match=rf"engine onnx: function {name} is arm64: expected x86_64, .*: 'fsd destroy .*--engine onnx'"):
        provisioner(engine="onnx").ensure(app, 1, 1)
    assert "engine" not in function.read(api.Api(REGION), app, name).names  # type: ignore[union-attr]
    provisioner(memory_mb=2000).ensure(app, 1, 1)  # rows go on


def test_text_or_binary_is_found_out(app: str) -> None:
    """moto answers binary attributes with errors; what it could not read is gone afterwards."""
    made = provisioner(text="auto").ensure(app, 1, 1)
    assert made.names["body"] == "text"
    driver = PROVIDER.messages(made, 0)
    until = time.monotonic() + 4  # longer than a lease
    while time.monotonic() < until:
        assert driver.receive(0, 10, 1.0) == []
    assert provisioner(text="auto").ensure(app, 1, 1) == made


def test_a_role_of_ones_own_stays(app: str) -> None:
    own = f"own-{app}"
    arn = aws("iam").create_role(RoleName=own, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    made = provisioner(role=arn).ensure(app, 1, 1)
    assert made.names["role"] == arn
    assert there(app)["role"] == 0
    provisioner(role=arn).destroy(app)
    assert aws("iam").get_role(RoleName=own)
    aws("iam").delete_role(RoleName=own)


def test_what_is_somebody_elses_is_refused_and_stays(app: str) -> None:
    aws("s3").create_bucket(Bucket=f"thesis-{app}")
    aws("s3").put_object(Bucket=f"thesis-{app}", Key="chapter1", Body=b"dear")
    with pytest.raises(InputError, match=f"bucket thesis-{app}: holds something"):
        provisioner(bucket=f"thesis-{app}").ensure(app, 1, 1)
    provisioner(bucket=f"thesis-{app}").destroy(app)
    assert aws("s3").get_object(Bucket=f"thesis-{app}", Key="chapter1")

    aws("iam").create_role(RoleName=names.role(app, REGION), AssumeRolePolicyDocument="{}")
    with pytest.raises(InputError, match=f"a role fsd-{app}-{REGION} exists that fsd did not make"):
        provisioner().ensure(app, 1, 1)
    provisioner().destroy(app)
    aws("iam").delete_role(RoleName=names.role(app, REGION))

    made = {
        "Runtime": "python3.12",
        "Role": "arn:aws:iam::123456789012:role/x",
        "Handler": "a.b",
        "Code": {"ZipFile": stub("aws").body},
    }
    aws("lambda").create_function(FunctionName=f"fsd-{app}", **made)
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match=f"a function fsd-{app} exists that fsd did not make"):
            call(app)
    aws("lambda").delete_function(FunctionName=f"fsd-{app}")


def test_failures_of_other_runs_hide_none_and_stay_for_their_runs(app: str) -> None:
    """Ten messages come at a time, and the same ten again as long as they are visible."""
    resources = provisioner().ensure(app, 1, 1)
    sqs = aws("sqs")
    url = resources.names["queue_url_prefix"] + names.Names.of(resources).failed

    def fail(run: str, nonce: str) -> None:
        context = {"requestId": nonce, "condition": "RetriesExhausted"}
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"requestContext": context, "requestPayload": {"run": run}}))

    for number in range(25):
        fail("theirs", f"t{number:02}")
    fail("mine", "m")
    with closing(PROVIDER.invoker(resources)) as mine, closing(PROVIDER.invoker(resources)) as theirs:
        found = mine.failures(lambda payload: bool(json.loads(payload)["run"] == "mine"))
        assert [each.nonce for each in found.taken] == ["m"]
        assert (found.receives, found.acks) == (3, 4)  # one removes, three show 25 again
        found = theirs.failures(lambda payload: bool(json.loads(payload)["run"] == "theirs"))
        assert sorted(each.nonce for each in found.taken) == [f"t{number:02}" for number in range(25)]
        assert mine.failures(lambda _: True) == Failures([], 1, 0)


def test_what_is_no_record_of_a_failure_is_removed(app: str) -> None:
    """Ten messages come at a time: what nobody takes would hide the failures behind it from every run."""
    resources = provisioner().ensure(app, 1, 1)
    invoker, sqs = PROVIDER.invoker(resources), aws("sqs")
    url = resources.names["queue_url_prefix"] + names.Names.of(resources).failed
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=["hello", "[]", '{"requestContext": {}}', "null"][number % 4])
    counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    until = time.monotonic() + 60
    while set(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"].values()) != {"0"}:
        assert time.monotonic() < until
        assert invoker.failures(lambda _: False).taken == []
        time.sleep(0.1)
    invoker.close()


def test_a_queue_that_does_not_deliver_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "filter_policy", lambda slot, rank: json.dumps({"target": ["nobody"]}))
    monkeypatch.setattr("fsd_core.providers.provisioning.LIMIT_S", 5.0)
    late = "provisioning took longer than 5 s; `fsd deploy` continues where it stopped: slot 0, ranks 0, 1: a message to each queue"
    with pytest.raises(DriverError, match=late):
        provisioner().ensure(app, 2, 1)


def test_the_quota_of_the_account_is_asked_for_once(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = provisioner().ensure(app, 1, 1)
    with recorded() as calls:
        invoker = PROVIDER.invoker(made)
        assert not calls
        assert invoker.limits.concurrency == invoker.limits.concurrency == 1000
        monkeypatch.setenv(RESOURCES, "{}")  # as in a function
        assert PROVIDER.invoker(made).limits.concurrency is None
    assert [call.operation for call in calls] == ["lambda:GetAccountSettings"]
