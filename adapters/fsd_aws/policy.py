"""Permissions as policy documents: the exact actions on the exact resources of one app.

`worker` is for the function's role, `client` for ``fsd run`` on a deployed app, `deployer` for ``fsd deploy``, ``fsd destroy`` and ``fsd
run``, `auditor` for ``fsd audit``. A test compares each policy with the requests that fsd makes. `bucket`, `queue` and `topic` are the
policies of these resources: each refuses requests without TLS. `key` is what the policy of the user's own key must allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fsd_aws.names import Names
from fsd_core.storage.keys import AUDIT

__all__ = [
    "APP_TAG",
    "KEY_ACTIONS",
    "auditor",
    "bucket",
    "client",
    "deployer",
    "key",
    "key_services",
    "log_group",
    "queue",
    "topic",
    "trust",
    "worker",
]

APP_TAG = "fsd:app"  # the tag of all resources of an app
KEY_ACTIONS = ("kms:Decrypt", "kms:GenerateDataKey")  # what the role of the function does with a key
Document = dict[str, Any]


def log_group(function: str) -> str:
    """The log group of a function's output."""
    return f"/aws/lambda/{function}"


def trust() -> Document:
    """The trust policy of the function's role: Lambda may assume it."""
    return _document([_allow("Take", ["sts:AssumeRole"], None) | {"Principal": {"Service": "lambda.amazonaws.com"}}])


def bucket(names: Names, name: str) -> Document:
    """The policy of the bucket ``name``: no request without TLS."""
    return _document([_tls("s3:*", [_bucket(names, name), _bucket(names, name, "/*")])])


def topic(names: Names, name: str) -> Document:
    """The policy of a topic: no publish without TLS. The role of the function allows it to publish."""
    return _document([_tls("sns:Publish", names.arn("sns", name))])


def key_services(names: Names) -> dict[str, tuple[str, ...]]:
    """The services that use the user's key themselves, and their actions: SNS delivers to queues, CloudWatch Logs writes the logs."""
    logs = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey")
    return {"sns.amazonaws.com": KEY_ACTIONS, f"logs.{names.region}.amazonaws.com": logs}


def key(names: Names) -> Document:
    """The policy of a key for ``[aws] kms_key``: the account's own policies decide about people and roles, and two services may use it."""
    root = f"arn:{names.partition}:iam::{names.account}:root"
    services = [
        _allow(service.partition(".")[0].capitalize(), list(actions), "*") | {"Principal": {"Service": service}}
        for service, actions in key_services(names).items()
    ]
    return _document([_allow("Account", ["kms:*"], "*") | {"Principal": {"AWS": root}}, *services])


def queue(names: Names, name: str, topics: str | None) -> Document:
    """The policy of a queue: no request without TLS; of all services, only topics of this app may send.

    ``topics``: the pattern of their names; `None`: no topic may send. Functions of the same account need no entry here: their role allows
    it.
    """
    arn = names.arn("sqs", name)
    closed = _tls("sqs:*", arn)
    if topics is None:
        return _document([closed])
    statement = _allow("Topics", ["sqs:SendMessage"], arn) | {"Principal": {"Service": "sns.amazonaws.com"}}
    return _document([statement | {"Condition": {"ArnLike": {"aws:SourceArn": names.arn("sns", topics)}}}, closed])


def worker(names: Names, bucket: str, function: str) -> Document:
    """The policy of the function's role."""
    return _document(
        [
            _allow("Publish", ["sns:Publish"], names.arn("sns", _all(names))),
            _allow("Receive", ["sqs:ReceiveMessage", "sqs:DeleteMessage"], names.arn("sqs", _all(names))),
            # To the queues of ranks, and to that of failed launches: there Lambda sends, with the function's role.
            _allow("Send", ["sqs:SendMessage"], names.arn("sqs", _all(names))),
            _allow("Objects", ["s3:GetObject", "s3:PutObject"], _bucket(names, bucket, "/*")),
            _deny("Audit", ["s3:GetObject", "s3:PutObject"], _bucket(names, bucket, f"/{AUDIT}*")),  # its log is written by clients
            _allow("Missing", ["s3:ListBucket"], _bucket(names, bucket)),  # without this permission a missing key is 403, not 404
            _allow("Launch", ["lambda:InvokeFunction"], names.arn("lambda", f"function:{function}")),
            _allow("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], names.arn("logs", f"log-group:{log_group(function)}:*")),
            *_key(names),
        ]
    )


def client(names: Names, bucket: str, function: str) -> Document:
    """The policy of a person who runs a deployed app. A new deployment changes the generation, so the resource names in the policy allow
    every generation.
    """
    return _document([*_client(names, bucket, function), _deny("Keep", ["s3:DeleteObject"], _bucket(names, bucket, f"/{AUDIT}*"))])


def deployer(names: Names, bucket: str, function: str, role: str) -> Document:
    """The policy of a person who deploys, runs and destroys an app. ``role``: the name of the function's role."""
    arn = f"arn:{names.partition}:iam::{names.account}:role/{role}"
    everything = f"fsd-{names.app}-*"
    logs = "CreateLogGroup DeleteLogGroup PutRetentionPolicy TagResource" + " AssociateKmsKey" * bool(names.kms_key)
    group = names.arn("logs", f"log-group:{log_group(function)}")
    buckets = "CreateBucket DeleteBucket GetBucketTagging PutBucketPolicy PutBucketPublicAccessBlock PutBucketTagging"
    buckets += " ListBucketVersions PutEncryptionConfiguration PutLifecycleConfiguration"
    roles = "CreateRole DeleteRole DeleteRolePolicy GetRole PutRolePolicy TagRole UpdateAssumeRolePolicy"
    queues = "CreateQueue DeleteQueue GetQueueUrl PurgeQueue SetQueueAttributes TagQueue ReceiveMessage DeleteMessage"
    topics = "CreateTopic DeleteTopic SetTopicAttributes Subscribe TagResource"
    functions = "CreateFunction DeleteFunction UpdateFunctionCode UpdateFunctionConfiguration PutFunctionEventInvokeConfig"
    functions += " PutFunctionRecursionConfig PutFunctionConcurrency DeleteFunctionConcurrency TagResource"
    return _document(
        [
            *_client(names, bucket, function),
            _allow("Lists", ["sqs:ListQueues", "sns:ListTopics"], "*"),
            _allow("Queues", _actions("sqs", queues), names.arn("sqs", everything)),
            _allow("Topics", _actions("sns", topics), names.arn("sns", everything)),
            _allow("Bucket", _actions("s3", buckets), _bucket(names, bucket)),
            _allow("Versions", ["s3:DeleteObjectVersion"], _bucket(names, bucket, "/*")),
            _allow("Role", _actions("iam", roles), arn),
            _allow("PassRole", ["iam:PassRole"], arn) | {"Condition": {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}},
            _allow("Function", _actions("lambda", functions), names.arn("lambda", f"function:{function}")),
            _allow(
                "LogGroup", _actions("logs", logs), [group, f"{group}:*"]
            ),
            # To look at the key. Lambda asks the others of a caller that sets a function's key.
            *([_allow("Keys", _actions("kms", "CreateGrant DescribeKey Encrypt GetKeyPolicy"), names.kms_key)] if names.kms_key else []),
        ]
    )  # fmt: skip


def auditor(names: Names, bucket: str, function: str, role: str) -> Document:
    """The policy of a person who audits an app: it only reads. ``role``: the name of the function's role."""
    arn = f"arn:{names.partition}:iam::{names.account}:role/{role}"
    everything = f"fsd-{names.app}-*"
    buckets = "GetBucketAcl GetBucketPolicy GetBucketPublicAccessBlock GetBucketVersioning"
    buckets += " GetEncryptionConfiguration GetLifecycleConfiguration"
    functions = "GetFunctionConfiguration GetPolicy ListAliases ListVersionsByFunction"
    lambda_arn = names.arn("lambda", f"function:{function}")
    roles = "GetRole GetRolePolicy ListAttachedRolePolicies ListRolePolicies"
    return _document(
        [
            _allow("Function", _actions("lambda", functions), [lambda_arn, f"{lambda_arn}:*"]),  # and its aliases and versions
            _allow("Queues", ["sqs:GetQueueAttributes"], names.arn("sqs", everything)),
            _allow("Topics", ["sns:GetTopicAttributes"], names.arn("sns", everything)),
            _allow("Bucket", _actions("s3", buckets), _bucket(names, bucket)),
            _allow("Role", _actions("iam", roles), arn),
            _allow("Lists", ["logs:DescribeLogGroups", "cloudtrail:LookupEvents"], "*"),
            # Without it Lambda does not show the function's environment, which names the resources.
            *([_allow("Key", ["kms:Decrypt"], names.kms_key)] if names.kms_key else []),
        ]
    )


def _client(names: Names, bucket: str, function: str) -> list[Document]:
    return [
        _allow("Abort", ["sns:Publish"], names.arn("sns", f"fsd-{names.app}-*")),
        _allow(
            "Failures",
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
            names.arn("sqs", f"fsd-{names.app}-*-failed"),
        ),
        _allow("Objects", _actions("s3", "GetObject PutObject DeleteObject"), _bucket(names, bucket, "/*")),
        # It adds entries to the audit log and replaces none: a put without the header If-None-Match is refused.
        _deny("Append", ["s3:PutObject"], _bucket(names, bucket, f"/{AUDIT}*")) | {"Condition": {"Null": {"s3:if-none-match": "true"}}},
        _allow("Keys", ["s3:ListBucket"], _bucket(names, bucket)),
        _allow("Launch", _actions("lambda", "GetFunctionConfiguration InvokeFunction"), names.arn("lambda", f"function:{function}")),
        _allow("Quota", ["lambda:GetAccountSettings"], "*"),
        *_key(names),
    ]


def _key(names: Names) -> list[Document]:
    return [_allow("Key", list(KEY_ACTIONS), names.kms_key)] if names.kms_key else []


def _actions(service: str, words: str) -> list[str]:
    return [f"{service}:{word}" for word in words.split()]


def _all(names: Names) -> str:
    return f"fsd-{names.app}-{names.generation}-*"


def _bucket(names: Names, bucket: str, keys: str = "") -> str:
    return f"arn:{names.partition}:s3:::{bucket}{keys}"


def _allow(sid: str, actions: list[str], resource: str | list[str] | None) -> Document:
    return {"Sid": sid, "Effect": "Allow", "Action": actions} | ({"Resource": resource} if resource else {})


def _deny(sid: str, actions: list[str], resource: str) -> Document:
    return {"Sid": sid, "Effect": "Deny", "Action": actions, "Resource": resource}


def _tls(actions: str, resource: str | list[str]) -> Document:
    """The statement that refuses ``actions`` without TLS, for everyone."""
    denied = {"Sid": "OnlyTls", "Effect": "Deny", "Principal": "*", "Action": [actions], "Resource": resource}
    return denied | {"Condition": {"Bool": {"aws:SecureTransport": "false"}}}


def _document(statements: Iterable[Document]) -> Document:
    return {"Version": "2012-10-17", "Statement": list(statements)}
