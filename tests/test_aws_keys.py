"""``[aws] kms_key``: which resources a key encrypts, what a key must allow, and that the default uses no key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import fsd_core
from aws_calls import Call, recorded
from fsd_aws import keys, policy
from fsd_aws.clients import client
from fsd_aws.names import Names
from fsd_conformance import emulators
from fsd_core import InputError

REGION, ACCOUNT = "us-east-1", "123456789012"
SETTINGS = {"package": False, "text": True, "memory_mb": 256, "region": REGION}
NAMES = Names("keyed", REGION, ACCOUNT, "0" * 8)


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("aws", "moto")):
        yield


def new_key(document: Any = None) -> str:
    made = client("kms", REGION).create_key(Policy=json.dumps(document or policy.key(NAMES)))
    return str(made["KeyMetadata"]["Arn"])


def test_the_default_uses_no_key_and_a_key_encrypts_every_resource() -> None:
    calls: list[Call]
    with recorded() as calls:
        fsd_core.deploy("aws", "keyed", SETTINGS, workers=1, slots=1)
    assert not [call for call in calls if call.operation.startswith("kms:") or "kms" in json.dumps(call.params, default=str).lower()]
    assert all(each.holds for each in fsd_core.audit("aws", "keyed", SETTINGS))

    key = new_key()
    made = fsd_core.deploy("aws", "keyed", {**SETTINGS, "kms_key": key}, workers=1, slots=1)
    names, function = Names.of(made), made.names["function"]
    assert made.names["kms_key"] == names.kms_key == key
    sqs, sns = client("sqs", REGION), client("sns", REGION)
    for name in (names.queue(0, 0), names.dead, names.failed):
        url = made.names["queue_url_prefix"] + name
        assert sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]["KmsMasterKeyId"] == key
    assert sns.get_topic_attributes(TopicArn=names.topic_arn(0, 0))["Attributes"]["KmsMasterKeyId"] == key
    (rule,) = client("s3", REGION).get_bucket_encryption(Bucket=made.names["bucket"])["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule == {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}, "BucketKeyEnabled": True}
    assert client("lambda", REGION).get_function_configuration(FunctionName=function)["KMSKeyArn"] == key
    (group,) = client("logs", REGION).describe_log_groups(logGroupNamePrefix=policy.log_group(function))["logGroups"]
    assert group["kmsKeyId"] == key
    document = client("iam", REGION).get_role_policy(RoleName=made.names["role"].rpartition("/")[2], PolicyName="fsd")["PolicyDocument"]
    assert {"Sid": "Key", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": key} in document["Statement"]

    promises = fsd_core.audit("aws", "keyed", SETTINGS)
    assert all(each.holds for each in promises)
    assert sum(key in each.found for each in promises if each.name.endswith("encrypted at rest")) == 5
    assert fsd_core.deploy("aws", "keyed", SETTINGS, workers=1, slots=1) == made  # who does not name the key does not remove it
    client("sqs", REGION).set_queue_attributes(
        QueueUrl=made.names["queue_url_prefix"] + names.failed, Attributes={"KmsMasterKeyId": "alias/aws/sqs"}
    )
    (broken,) = (each for each in fsd_core.audit("aws", "keyed", SETTINGS) if each.name == "queues: encrypted at rest")
    assert (broken.holds, broken.found) == (False, f"{names.failed}: alias/aws/sqs")
    fsd_core.destroy("aws", "keyed", SETTINGS)


def without(service: str) -> dict[str, Any]:
    document = policy.key(NAMES)
    return {**document, "Statement": [each for each in document["Statement"] if each["Principal"] != {"Service": service}]}


def only(*actions: str) -> dict[str, Any]:
    """A key whose account may use these actions alone."""
    document = policy.key(NAMES)
    return {**document, "Statement": [{**document["Statement"][0], "Action": list(actions)}, *document["Statement"][1:]]}


ROLE = f"fsd-keyed-{REGION}"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (without("sns.amazonaws.com"), "service sns.amazonaws.com may not use kms:Decrypt, kms:GenerateDataKey: expected the statements"),
        (without(f"logs.{REGION}.amazonaws.com"), f"service logs.{REGION}.amazonaws.com may not use kms:Encrypt, kms:Decrypt, "),
        (only("kms:Describe*", "kms:Decrypt"), f"role {ROLE} may not use kms:GenerateDataKey: expected"),
    ],
    ids=["topics", "logs", "role"],
)
def test_a_key_that_may_not_be_used_is_refused_before_anything_is_made(document: dict[str, Any], says: str) -> None:
    settings = {**SETTINGS, "kms_key": new_key(document)}
    with recorded() as calls, pytest.raises(InputError, match=r"\[aws\] kms_key = arn:.*: by its policy ") as raised:
        fsd_core.deploy("aws", "keyed", settings, workers=1, slots=1)
    assert says in str(raised.value)
    assert not [call for call in calls if ":Create" in call.operation or ":Put" in call.operation]


def test_a_key_that_cannot_be_used_is_refused() -> None:
    disabled = new_key()
    client("kms", REGION).disable_key(KeyId=disabled.rpartition("/")[2])
    for key, says in (
        (disabled, "is Disabled, SYMMETRIC_DEFAULT: expected an enabled symmetric key"),
        (disabled.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000", "KMS has no such key"),
        (disabled.replace(REGION, "eu-west-1"), f"is in eu-west-1: expected a key in {REGION}"),
        ("alias/mine", "expected the ARN of a key"),
    ):
        with pytest.raises(InputError) as raised:
            fsd_core.deploy("aws", "keyed", {**SETTINGS, "kms_key": key}, workers=1, slots=1)
        assert says in str(raised.value)


def test_a_statement_that_denies_counts_before_those_that_allow() -> None:
    own = f"arn:aws:iam::{ACCOUNT}:role/mine"
    allows = policy.key(NAMES)
    assert keys.denied(allows, NAMES, own) == {}
    denies = {"Effect": "Deny", "Action": "kms:dec*", "Principal": {"AWS": [own]}}
    assert keys.denied({"Statement": [*allows["Statement"], denies]}, NAMES, own) == {"role mine": ["kms:Decrypt"]}
    elsewhere = {**denies, "Condition": {"StringNotEquals": {"aws:SourceVpc": "vpc-1"}}}
    assert keys.denied({"Statement": [*allows["Statement"], elsewhere]}, NAMES, own) == {}
    named = {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Principal": {"AWS": own}}
    assert keys.denied({"Statement": [*allows["Statement"][1:], named]}, NAMES, own) == {}


def test_an_auditor_may_only_decrypt_what_the_function_records() -> None:
    keyed = Names("keyed", REGION, ACCOUNT, "0" * 8, kms_key=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1")
    more = [
        each
        for each in policy.auditor(keyed, "b", "f", ROLE)["Statement"]
        if each not in policy.auditor(NAMES, "b", "f", ROLE)["Statement"]
    ]
    assert more == [{"Sid": "Key", "Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": keyed.kms_key}]


def test_people_may_use_the_key_only_if_there_is_one() -> None:
    keyed = Names("keyed", REGION, ACCOUNT, "0" * 8, kms_key=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1")
    for document in (policy.client, lambda *given: policy.deployer(*given, ROLE), policy.worker):
        plain, with_key = (
            {(action, json.dumps(each["Resource"])) for each in document(names, "b", "f")["Statement"] for action in each["Action"]}
            for names in (NAMES, keyed)
        )
        more = {action for action, _ in with_key - plain}
        assert {"kms:Decrypt", "kms:GenerateDataKey"} <= more <= {action for action in more if "kms" in action.lower()}
        assert all(resource == json.dumps(keyed.kms_key) for action, resource in with_key - plain if action.startswith("kms:"))
