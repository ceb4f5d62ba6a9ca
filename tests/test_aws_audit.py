"""``fsd audit`` on AWS: against moto and the local Lambda."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from moto import mock_aws

from audit_cases import AuditCases, Audited, Fault
from aws_calls import recorded
from fsd_aws import bucket, function
from fsd_aws.api import Api
from fsd_aws.audit import deletions, grants, invokers
from fsd_aws.clients import client
from fsd_aws.names import Names
from fsd_aws.provision import AwsProvisioner
from fsd_aws.queues import attributes
from fsd_conformance import emulators
from fsd_core import Promise, Resources
from fsd_core.driver import Code
from fsd_core.errors import DriverError
from fsd_core.providers.package import stub
from fsd_core.providers.settings import RETENTION

REGION = "us-east-1"
ADMIN = "arn:aws:iam::123456789012:policy/Admin"


def aws(service: str) -> Any:
    return client(service, REGION)


def queue(made: Resources, name: str = "", **attributes: str) -> None:
    """Set attributes of the queue of rank 0."""
    url = made.names["queue_url_prefix"] + (name or Names.of(made).queue(0, 0))
    aws("sqs").set_queue_attributes(QueueUrl=url, Attributes=attributes)


def role(made: Resources) -> str:
    return made.names["role"].rpartition("/")[2]


def wider(made: Resources, *actions: str, fewer: str = "") -> None:
    """Add actions to the policy of the role, or remove the statement ``fewer``."""
    document = aws("iam").get_role_policy(RoleName=role(made), PolicyName="fsd")["PolicyDocument"]
    kept = [each for each in document["Statement"] if each["Sid"] not in (fewer, "More")]
    more = [{"Sid": "More", "Effect": "Allow", "Action": list(actions), "Resource": "*"}] if actions else []
    aws("iam").put_role_policy(RoleName=role(made), PolicyName="fsd", PolicyDocument=json.dumps({**document, "Statement": kept + more}))


def admin(made: Resources) -> None:
    iam, everything = aws("iam"), {"Effect": "Allow", "Action": "*", "Resource": "*"}
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_policy(PolicyName="Admin", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [everything]}))
    iam.attach_role_policy(RoleName=role(made), PolicyArn=ADMIN)


def trust(made: Resources) -> None:
    stranger = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "arn:aws:iam::999999999999:root"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [stranger]})
    aws("iam").update_assume_role_policy(RoleName=role(made), PolicyDocument=document)


def public(made: Resources) -> None:
    functions, name = aws("lambda"), made.names["function"]
    with suppress(functions.exceptions.ResourceConflictException):
        functions.add_permission(FunctionName=name, StatementId="all", Action="lambda:InvokeFunction", Principal="*")


def logging(group: str, made: Resources) -> None:
    group = group or f"/aws/lambda/{made.names['function']}"
    config = {"LogFormat": "Text", "LogGroup": group}
    aws("lambda").get_waiter("function_updated").wait(FunctionName=made.names["function"], WaiterConfig={"Delay": 1})
    aws("lambda").update_function_configuration(FunctionName=made.names["function"], LoggingConfig=config)


def shared(held: bool, made: Resources) -> None:
    s3, where = aws("s3"), made.names["bucket"]
    owner = s3.get_bucket_acl(Bucket=where)["Owner"]
    who = [owner["ID"], *(["stranger"] if held else [])]
    grants = [{"Grantee": {"Type": "CanonicalUser", "ID": each}, "Permission": "READ"} for each in who]
    s3.put_bucket_acl(Bucket=where, AccessControlPolicy={"Owner": owner, "Grants": grants})


def versions(status: str, made: Resources) -> None:
    aws("s3").put_bucket_versioning(Bucket=made.names["bucket"], VersioningConfiguration={"Status": status})


def exchanged(made: Resources) -> None:
    """Give a queue the policy of another queue, which has no effect there."""
    names = Names.of(made)
    queue(made, names.queue(0, 1), Policy=attributes(names, names.queue(0, 0), 0)["Policy"])


def topic(made: Resources) -> None:
    names = Names.of(made)
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "SNS:Publish", "Resource": names.topic_arn(0, 0)}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everyone]})
    aws("sns").set_topic_attributes(TopicArn=names.topic_arn(0, 0), AttributeName="Policy", AttributeValue=document)


def open_queue(made: Resources) -> None:
    arn = Names.of(made).arn("sqs", Names.of(made).queue(0, 0))
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
    queue(made, Policy=json.dumps({"Version": "2012-10-17", "Statement": [everyone]}))


KMS = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "another"}}
ROLE = "role: exactly the actions that workers use"
QUEUES = "queues: policies admit TLS and the app's topics only"
FAULTS = {
    "a public bucket": Fault(
        lambda made: aws("s3").delete_public_access_block(Bucket=made.names["bucket"]), "bucket: no public access", "BlockPublicAcls: none"
    ),
    "no TLS condition": Fault(
        lambda made: aws("s3").delete_bucket_policy(Bucket=made.names["bucket"]),
        "bucket: policy refuses requests without TLS",
        r'missing: Deny s3:\* on .*"aws:SecureTransport": "false"',
    ),
    "another account in the access list": Fault(
        partial(shared, True), "bucket: access list names nobody but the owner", "too many: READ to stranger", partial(shared, False)
    ),
    "deleted objects stay as versions": Fault(
        partial(versions, "Enabled"), "bucket: deleted objects are gone", "kept as versions", partial(versions, "Suspended")
    ),
    "another key": Fault(
        lambda made: aws("s3").put_bucket_encryption(Bucket=made.names["bucket"], ServerSideEncryptionConfiguration={"Rules": [KMS]}),
        "bucket: encrypted at rest",
        "aws:kms",
    ),
    "objects stay for ever": Fault(
        lambda made: aws("s3").delete_bucket_lifecycle(Bucket=made.names["bucket"]), "bucket: life cycle", "missing: .*deleted after 7 days"
    ),
    "an open queue": Fault(open_queue, QUEUES, r"too many: \S+-0-0: Allow sqs:SendMessage on .* to \*; missing: .*-0-0: Deny sqs:\*"),
    "a policy of another queue": Fault(exchanged, QUEUES, r"missing: .*-0-1: Deny sqs:\* on \S+-0-1 "),
    "a queue in plain text": Fault(lambda made: queue(made, SqsManagedSseEnabled="false"), "queues: encrypted at rest", "-0-0: none"),
    "messages stay longer": Fault(
        lambda made: queue(made, Names.of(made).failed, MessageRetentionPeriod="1209600"),
        "queues: retention",
        "-failed keeps messages for 1209600 s",
    ),
    "an open topic": Fault(topic, "topics: policies refuse requests without TLS", r"too many: \S+-0-t0: Allow sns:Publish on .* to \*"),
    "a wildcard action": Fault(lambda made: wider(made, "sqs:*"), ROLE, r"too many: Allow sqs:\* on \*"),
    "an action that is missing": Fault(lambda made: wider(made, fewer="Launch"), ROLE, "missing: Allow lambda:InvokeFunction on arn:"),
    "an administrator": Fault(
        admin,
        ROLE,
        f"too many: the policy {ADMIN}",
        lambda made: aws("iam").detach_role_policy(RoleName=role(made), PolicyArn=ADMIN),
    ),
    "a stranger's role": Fault(trust, "role: only Lambda assumes it", "too many: Allow sts:AssumeRole .*999999999999"),
    "a public function": Fault(
        public,
        "function: nobody outside the account invokes it",
        r"too many: Allow lambda:InvokeFunction on .* to \*",
        lambda made: aws("lambda").remove_permission(FunctionName=made.names["function"], StatementId="all"),
    ),
    "a function of another role": Fault(
        lambda made: aws("lambda").update_function_configuration(
            FunctionName=made.names["function"], Role="arn:aws:iam::123456789012:role/another"
        ),
        "function: runs as the app's role",
        "role/another",
    ),
    "logs elsewhere": Fault(partial(logging, "/elsewhere"), "logs: in the app's log group", "/elsewhere", partial(logging, "")),
    "logs stay for ever": Fault(
        lambda made: aws("logs").delete_retention_policy(logGroupName=f"/aws/lambda/{made.names['function']}"),
        "logs: retention",
        "for ever",
    ),
}


class TestAws(AuditCases):
    cloud = Audited("aws", {"package": False, "text": True, "memory_mb": 256}, lambda: emulators.own(emulators.find("aws", "moto")), FAULTS)

    def test_an_app_of_an_earlier_version_is_compared_with_what_a_repair_sets(
        self, fresh: tuple[Resources, list[Promise]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        older = {name: value for name, value in fresh[0].names.items() if name != RETENTION}
        monkeypatch.setattr(AwsProvisioner, "read", lambda *_: Resources(self.APP, fresh[0].ranks, fresh[0].slots, older))
        aws("s3").put_bucket_lifecycle_configuration(
            Bucket=fresh[0].names["bucket"], LifecycleConfiguration={"Rules": bucket.life_cycle(365)}
        )
        (found,) = (each for each in self.audit() if each.name == "bucket: life cycle")
        assert found.holds, found

    def test_a_role_with_a_policy_of_somebody_else_is_not_removed_and_named(self, fresh: tuple[Resources, list[Promise]]) -> None:
        other = Resources("other", 0, 0, {"role": "arn:aws:iam::123456789012:role/other"})
        with Api(REGION) as api:
            function.make_role(api, "other", "other")
            admin(other)
            with pytest.raises(DriverError, match=r"DeleteConflict.*: remove the policies that somebody else gave the role") as raised:
                function.remove_around(api, "other", "fsd-other", "other")
            assert raised.value.code is Code.INVALID
            aws("iam").detach_role_policy(RoleName="other", PolicyArn=ADMIN)
            assert function.remove_around(api, "other", "fsd-other", "other") == ["role other"]


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, "Allow all but iam:* on *"),
        ({"Effect": "Allow", "Action": "*", "NotResource": "arn:x"}, "Allow * on all but arn:x"),
        ({"Effect": "Allow", "Action": "s3:Get", "NotPrincipal": "x"}, "Allow s3:Get on itself to all but x"),
        ({"Effect": "Deny", "Action": ["SQS:SendMessage"], "Principal": {"AWS": "*"}}, 'Deny sqs:SendMessage on itself to {"AWS": "*"}'),
    ],
)
def test_statements_that_fsd_never_writes_are_named(statement: dict[str, Any], line: str) -> None:
    assert grants({"Statement": statement}) == {line}


@mock_aws
def test_the_policy_of_each_alias_and_version_is_read() -> None:
    """moto itself, since the local Lambda has neither. It has one policy for all of them, so the test looks at what is asked."""
    trust = {"RoleName": "any", "AssumeRolePolicyDocument": "{}"}
    arn = aws("iam").create_role(**trust)["Role"]["Arn"]
    code, which, lambdas = {"ZipFile": stub("aws").body}, {"FunctionName": "f"}, aws("lambda")
    lambdas.create_function(**which, Runtime="python3.12", Role=arn, Handler="a.b", Code=code)
    lambdas.create_alias(**which, Name="live", FunctionVersion=lambdas.publish_version(**which)["Version"])
    lambdas.add_permission(**which, Qualifier="live", StatementId="all", Action="lambda:InvokeFunction", Principal="*")
    with Api(REGION) as api, recorded() as calls:
        open_to = invokers(api, "f")
    assert open_to == {"Allow lambda:InvokeFunction on arn:aws:lambda:us-east-1:123456789012:function:f:live to *"}
    asked = [call.params.get("Qualifier") for call in calls if call.operation == "lambda:GetPolicy"]
    assert asked == [None, "live", "1"]


def test_rules_that_delete_at_a_date_are_named() -> None:
    rule = {"Status": "Enabled", "Filter": {"Prefix": "audit/"}, "Expiration": {"Date": "2030-01-01"}}
    assert deletions([rule, {**rule, "Status": "Disabled"}]) == {'{"Prefix": "audit/"} deleted on 2030-01-01'}


def test_without_the_key_of_the_environment_the_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No emulator has a key that it refuses, so this is the answer that Lambda documents."""
    error = {"ErrorCode": "AccessDeniedException", "Message": "Lambda was unable to decrypt your environment variables"}
    monkeypatch.setattr(Api, "find", lambda *_, **__: {"Environment": {"Error": error}})
    with Api(REGION) as api, pytest.raises(DriverError, match="may use kms:Decrypt on the key of the app") as raised:
        function.read(api, "app", "fsd-app")
    assert raised.value.code is Code.DENIED
