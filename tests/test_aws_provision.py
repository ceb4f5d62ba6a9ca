"""An app on AWS, made and taken away: against moto and the local Lambda."""

from __future__ import annotations

import http.server
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aws_calls import recorded
from fsd_aws import PROVIDER, api, function, names, package, queues
from fsd_aws.clients import client
from fsd_aws.names import Names
from fsd_aws.settings import Settings, parse
from fsd_aws.variables import RESOURCES
from fsd_conformance import emulators
from fsd_conformance.emulators.emulator import pointed
from fsd_core.driver import WORKER, Code, Message, Provisioner, Resources
from fsd_core.errors import DriverError, InputError

REGION = "us-east-1"
SETTINGS: Mapping[str, object] = {"package": False, "text": True, "lease_s": 2}


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("aws", "moto")):
        yield


@pytest.fixture
def app() -> Iterator[str]:
    name = f"p{secrets.token_hex(4)}"
    yield name
    provisioner().destroy(name)


def provisioner(**settings: object) -> Provisioner:
    return PROVIDER.provisioner({**SETTINGS, **settings})


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


ALL_OF_2_BY_1 = Counter(queue=4, topic=1, subscription=2, bucket=1, role=1, function=1, log_group=1)


def test_what_is_made_and_how(app: str) -> None:
    made = provisioner(memory_mb=512, timeout_s=60, concurrency=7).ensure(app, 2, 2)
    own, told = Names.of(made), made.names
    assert there(app) == Counter(queue=6, topic=2, subscription=4, bucket=1, role=1, function=1, log_group=1)
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
            (statement,) = json.loads(attributes["Policy"])["Statement"]
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
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert (rule["Status"], rule["Expiration"]["Days"], rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]) == ("Enabled", 7, 1)
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


def test_what_is_there_costs_one_request(app: str) -> None:
    first = provisioner().ensure(app, 2, 1)
    with recorded() as calls:
        assert provisioner().ensure(app, 2, 1) == first
        assert provisioner().ensure(app, 1, 1) == first
        assert provisioner().find(app) == first
    assert [call.operation for call in calls] == 3 * ["lambda:GetFunctionConfiguration"]


def test_growing_keeps_what_is_there(app: str) -> None:
    small = provisioner().ensure(app, 1, 1)
    PROVIDER.messages(small, 0).publish([Message(0, b"kept")])
    with recorded() as calls:
        large = provisioner().ensure(app, 2, 2)
    assert (large.ranks, large.slots) == (2, 2)
    assert large.names == small.names
    assert sum(call.operation == "sns:Subscribe" for call in calls) == 3
    assert not any("Delete" in call.operation and call.operation.startswith("sqs:DeleteQueue") for call in calls)
    assert [each.body for each in PROVIDER.messages(large, 0).receive(0, 10, 5)] == [b"kept"]
    assert provisioner().ensure(app, 1, 1) == large


def test_a_changed_setting_is_applied(app: str) -> None:
    before = provisioner(concurrency=5).ensure(app, 1, 1)
    after = provisioner(memory_mb=3000, message_kb=512).ensure(app, 1, 1)
    assert {**before.names, "memory_mb": "3000", "message_kb": "512", "concurrency": ""} == after.names
    assert aws("lambda").get_function_configuration(FunctionName=after.names["function"])["MemorySize"] == 3000
    assert "ReservedConcurrentExecutions" not in aws("lambda").get_function_concurrency(FunctionName=after.names["function"])
    assert provisioner(memory_mb=3000, message_kb=512).find(app) == after
    with pytest.raises(InputError, match=r"\[aws\] bucket = 'another-one'.*destroy it first"):
        provisioner(bucket="another-one").ensure(app, 1, 1)


def test_text_or_binary_is_found_out(app: str) -> None:
    """moto answers binary attributes with errors; what it could not read is gone afterwards."""
    made = provisioner(text="auto").ensure(app, 1, 1)
    assert made.names["body"] == "text"
    driver = PROVIDER.messages(made, 0)
    until = time.monotonic() + 4  # longer than a lease
    while time.monotonic() < until:
        assert driver.receive(0, 10, 1.0) == []
    assert provisioner(text="auto").ensure(app, 1, 1) == made


def test_destroy_leaves_nothing(app: str) -> None:
    made = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1
    objects = PROVIDER.objects(made)
    for number in range(3):
        objects.put(f"left/{number}", b"x")
    lines = provisioner().destroy(app)
    assert Counter(line.rsplit(" ", 1)[0] for line in lines) == {
        "function": 1, "topic": 1, "queue": 4, "bucket": 1, "role": 1, "log group": 1,
    }  # fmt: skip
    assert there(app) == Counter()
    assert provisioner().destroy(app) == []
    assert provisioner().find(app) is None
    anew = provisioner().ensure(app, 2, 1)
    assert anew.names["generation"] != made.names["generation"]  # the names of deleted queues are blocked for a minute
    assert PROVIDER.objects(anew).list("").keys == []


@pytest.mark.parametrize("gone", ["function", "bucket", "role", "queues", "log group"])
def test_destroy_of_what_is_half_gone(app: str, gone: str) -> None:
    made = provisioner().ensure(app, 2, 1)
    with api.Api(REGION) as service:
        if gone == "function":
            function.remove(service, made.names["function"])
        elif gone == "bucket":
            aws("s3").delete_bucket(Bucket=made.names["bucket"])
        elif gone == "role":
            aws("iam").delete_role_policy(RoleName=names.role(app, REGION), PolicyName="fsd")
            aws("iam").delete_role(RoleName=names.role(app, REGION))
        elif gone == "queues":
            queues.remove(service, app)
        else:
            aws("logs").delete_log_group(logGroupName=f"/aws/lambda/{made.names['function']}")
    assert provisioner().destroy(app)
    assert there(app) == Counter()


def test_apps_whose_names_begin_alike(app: str) -> None:
    longer = f"{app}-b"
    provisioner().ensure(app, 1, 1)
    provisioner().ensure(longer, 2, 1)
    provisioner().destroy(app)
    assert there(longer) == ALL_OF_2_BY_1
    provisioner().destroy(longer)
    assert there(longer) == Counter()


def test_one_that_was_cut_short_is_taken_up(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fsd_aws.provision.probe_queues", cut)
        with pytest.raises(KeyboardInterrupt):
            provisioner().ensure(app, 2, 1)
    assert provisioner().find(app) is None
    assert there(app)["queue"] == 4
    made = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1  # of one generation
    assert provisioner().find(app) == made


def test_a_destroy_that_was_cut_short_is_finished(app: str) -> None:
    first = provisioner().ensure(app, 2, 1)
    with api.Api(REGION) as service:
        function.remove(service, first.names["function"])
    assert provisioner().find(app) is None
    second = provisioner().ensure(app, 2, 1)
    assert second.names["generation"] != first.names["generation"]
    assert there(app) == ALL_OF_2_BY_1


def test_a_sweep_finds_what_nobody_will_take_up(app: str) -> None:
    kept = provisioner().ensure(app, 2, 1)
    lost = Names(app, REGION, kept.names["account"], "0123abcd")
    with api.Api(REGION) as service:
        queues.make(service, lost, [(0, 0)])
    assert provisioner().sweep(app) == [
        f"topic {lost.topic(0, 0)}",
        *sorted(f"queue {q}" for q in (lost.queue(0, 0), lost.dead, lost.failed)),
    ]  # type: ignore[attr-defined]
    assert there(app) == ALL_OF_2_BY_1
    assert provisioner().find(app) == kept


def test_two_at_once_make_one(app: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: provisioner().ensure(app, 2, 1), range(2))
    assert first == second == provisioner().find(app)
    assert there(app) == ALL_OF_2_BY_1


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
    with pytest.raises(InputError, match=f"a role fsd-{app}-{REGION} is there that fsd did not make"):
        provisioner().ensure(app, 1, 1)
    provisioner().destroy(app)
    aws("iam").delete_role(RoleName=names.role(app, REGION))

    made = {
        "Runtime": "python3.12",
        "Role": "arn:aws:iam::123456789012:role/x",
        "Handler": "a.b",
        "Code": {"ZipFile": package.stub().body},
    }
    aws("lambda").create_function(FunctionName=f"fsd-{app}", **made)
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match=f"a function fsd-{app} is there that fsd did not make"):
            call(app)
    aws("lambda").delete_function(FunctionName=f"fsd-{app}")


def test_a_function_that_dies_is_told(app: str) -> None:
    invoker = PROVIDER.invoker(provisioner().ensure(app, 1, 1))
    payload = json.dumps({"app": app, "probe": {"key": "probe/x", "exit": 3}}).encode()
    launch = invoker.invoke(WORKER, payload)
    until = time.monotonic() + 60
    while launch.poll() is None:  # it knows what was seen, taken or not
        assert time.monotonic() < until
        assert invoker.failures(lambda _: False) == []
        time.sleep(0.1)
    assert launch.poll() is Code.UNAVAILABLE
    taken = []
    while not taken:  # a look hides it for a second
        assert time.monotonic() < until
        taken = list(invoker.failures(lambda told: json.loads(told)["app"] == app))
        time.sleep(0.2)
    (failure,) = taken
    assert json.loads(failure.payload) == json.loads(payload)
    assert failure.nonce == launch.request  # type: ignore[attr-defined]
    assert "exit" in failure.reason.lower()
    time.sleep(1.1)
    assert invoker.failures(lambda _: True) == []
    invoker.close()


def test_a_function_that_cannot_run_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "HANDLER", "fsd_aws.nothing.handler")
    monkeypatch.setattr("fsd_core.providers.probes._READY_S", 3.0)
    with pytest.raises(
        DriverError, match=f"app '{app}': the function was started and did not end well.*: log group /aws/lambda/fsd-{app} shows why"
    ):
        provisioner().ensure(app, 1, 1)
    assert provisioner().find(app) is None


def test_a_queue_that_does_not_deliver_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "filter_policy", lambda slot, rank: json.dumps({"target": ["nobody"]}))
    monkeypatch.setattr("fsd_core.providers.provisioning.LIMIT_S", 5.0)
    late = "provisioning took longer than 5 s; `fsd deploy` goes on where it stopped: slot 0, ranks 0, 1: a message to each queue"
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


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"regoin": "x"}, r"\[aws\] regoin: unknown key; did you mean region\?"),
        ({"zzz": 1}, r"\[aws\] zzz: unknown key; known are region, bucket"),
        ({"region": "Ireland"}, r"\[aws\] region = 'Ireland': expected a region's name"),
        ({"memory_mb": 64}, r"\[aws\] memory_mb = 64: expected a whole number from 128 to 10240"),
        ({"memory_mb": True}, r"memory_mb = True"),
        ({"timeout_s": 901}, r"timeout_s = 901: expected a whole number of seconds from 1 to 900"),
        ({"lease_s": 2.5}, r"lease_s = 2.5: expected a whole number of seconds"),
        ({"text": "yes"}, r"text = 'yes': expected \"auto\", true or false"),
        ({"message_kb": 2048}, r"message_kb = 2048: expected a whole number from 256 to 1024"),
        ({"runtime": "python3.9"}, r"runtime = 'python3.9': expected one of python3.12"),
        ({"bucket": "My_Bucket"}, r"bucket = 'My_Bucket': expected 3 to 63"),
        ({"role": "admin"}, r"role = 'admin': expected the ARN of a role"),
        ({"concurrency": 0}, r"concurrency = 0: expected a whole number of at least 1"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PROVIDER.provisioner(table)


def test_settings_have_defaults_and_take_whole_floats() -> None:
    assert parse({"lease_s": 3.0}) == Settings()
    assert parse({}, {"FSD_AWS_PACKAGE": "0"}).package is False


@pytest.mark.parametrize("app", ["", "Upper", "-x", "x-", "a_b", "x" * 41])
def test_a_wrong_name_is_refused(app: str) -> None:
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match="expected a lower-case letter"):
            call(app)


def test_nothing_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="ranks 0"):
        provisioner().ensure("x", 0, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "aws configure"),
        ({"AWS_DEFAULT_REGION": ""}, "no AWS region is set"),
        ({"AWS_DEFAULT_REGION": "atlantis"}, "atlantis"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE names a profile|nobody"),
    ],
)
def test_a_missing_set_up_says_what_helps(change: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(InputError, match=says):
        provisioner().find("x")


def test_a_service_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsd_core.providers.requests._FIRST_S", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", "http://127.0.0.1:9")
    with pytest.raises(DriverError, match="cannot be reached") as raised:
        provisioner().find("x")
    assert raised.value.code is Code.UNAVAILABLE


DENIED = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: lambda:GetFunctionConfiguration"


class Denying(http.server.BaseHTTPRequestHandler):
    """Lambda, to somebody who may not."""

    def do_GET(self) -> None:
        body = json.dumps({"Message": DENIED}).encode()
        self.send_response(403)
        self.send_header("x-amzn-ErrorType", "AccessDeniedException")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_missing_permission_is_named() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Denying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": REGION}
    try:
        with pointed({**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}, ("AWS_",)):
            with pytest.raises(DriverError, match="lambda:GetFunctionConfiguration") as raised:
                provisioner().find("x")
            assert raised.value.code is Code.DENIED
            assert "how-to-aws" in str(raised.value)
    finally:
        server.shutdown()
        server.server_close()


def test_names_are_enough_for_every_driver(app: str) -> None:
    made = provisioner().ensure(app, 1, 1)
    with recorded() as calls:
        for driver in (PROVIDER.messages(made, 0), PROVIDER.objects(made), PROVIDER.invoker(made)):
            driver.close()
    assert not calls
    assert Resources(**json.loads(json.dumps({"app": made.app, "ranks": 1, "slots": 1, "names": dict(made.names)}))) == made
