"""What was asked of AWS within a block: every call that botocore made, with what IAM would ask of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from botocore.client import BaseClient

# Where an action's name is not the operation's.
ACTIONS = {
    "sns:PublishBatch": "sns:Publish",
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "lambda:Invoke": "lambda:InvokeFunction",
}
TAGGING = {
    "sqs:CreateQueue": "sqs:TagQueue",
    "sns:CreateTopic": "sns:TagResource",
    "iam:CreateRole": "iam:TagRole",
    "lambda:CreateFunction": "lambda:TagResource",
    "logs:CreateLogGroup": "logs:TagResource",
}
NO_RESOURCE = {"sqs:ListQueues", "sns:ListTopics", "lambda:GetAccountSettings", "logs:DescribeLogGroups", "cloudtrail:LookupEvents"}
FREE = {"sts:GetCallerIdentity"}  # needs no permission


@dataclass(frozen=True)
class Call:
    """One call: ``operation`` as ``service:Operation``."""

    operation: str
    params: dict[str, Any]
    account: str
    region: str

    def needs(self) -> set[tuple[str, str]]:
        """Actions and the resources on which they must be allowed."""
        if self.operation in FREE:
            return set()
        found = {(ACTIONS.get(self.operation, self.operation), self.resource())}
        if any("VersionId" in each for each in self.params.get("Delete", {}).get("Objects", ())):
            found = {("s3:DeleteObjectVersion", self.resource())}
        if self.operation in TAGGING and any(name.lower() == "tags" for name in self.params):
            found.add((TAGGING[self.operation], self.resource()))
        if self.operation == "lambda:CreateFunction":
            found.add(("iam:PassRole", self.params["Role"]))
        return found

    def resource(self) -> str:
        service, p = self.operation.partition(":")[0], self.params
        if service == "s3":
            many = {f"/{entry['Key']}" for entry in p.get("Delete", {}).get("Objects", ())}
            return f"arn:aws:s3:::{p['Bucket']}{max(many) if many else '/' + p['Key'] if 'Key' in p else ''}"
        if service == "iam":
            return f"arn:aws:iam::{self.account}:role/{p['RoleName']}"
        if self.operation in NO_RESOURCE:
            return "*"
        name = {
            "sqs": p.get("QueueName") or p.get("QueueUrl", "").rsplit("/", 1)[-1],
            "sns": p.get("Name") or p.get("TopicArn", "").rsplit(":", 1)[-1],
            "lambda": f"function:{p.get('FunctionName', '')}",
            "logs": f"log-group:{p.get('logGroupName', '')}",
        }[service]
        return f"arn:aws:{service}:{self.region}:{self.account}:{name}"


@contextmanager
def recorded(account: str = "123456789012") -> Iterator[list[Call]]:
    """The calls of this process within the block, as they are made."""
    calls: list[Call] = []
    real = BaseClient._make_api_call

    def call(self: Any, operation: str, params: dict[str, Any]) -> Any:
        calls.append(Call(f"{self.meta.service_model.service_name}:{operation}", params, account, self.meta.region_name))
        return real(self, operation, params)

    BaseClient._make_api_call = call
    try:
        yield calls
    finally:
        BaseClient._make_api_call = real


def allows(document: dict[str, Any], action: str, resource: str) -> bool:
    """Whether a policy allows it. The conditions of Allow statements are taken to hold, those of Deny statements not."""
    json.dumps(document)
    effects = set()
    for statement in document["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        holds = statement["Effect"] == "Allow" or "Condition" not in statement
        if holds and action in statement["Action"] and any(fnmatchcase(resource, pattern) for pattern in resources):
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def actions(document: dict[str, Any]) -> set[str]:
    """All that a policy allows on something."""
    return {action for statement in document["Statement"] for action in statement["Action"]}
