"""Permissions as policy documents: the exact actions on the exact resources of one app.

`worker` is for the function's role, `client` for ``fsd run`` on a deployed app, `deployer` for ``fsd deploy``, ``fsd destroy`` and ``fsd
run``. A test compares each policy with the requests that fsd makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fsd_aws.names import Names
from fsd_core.storage.keys import AUDIT

__all__ = ["APP_TAG", "client", "deployer", "log_group", "queue", "trust", "worker"]

APP_TAG = "fsd:app"  # the tag of all resources of an app
Document = dict[str, Any]


def log_group(function: str) -> str:
    """The log group of a function's output."""
    return f"/aws/lambda/{function}"


def trust() -> Document:
    """The trust policy of the function's role: Lambda may assume it."""
    return _document([_allow("Take", ["sts:AssumeRole"], None) | {"Principal": {"Service": "lambda.amazonaws.com"}}])


def queue(names: Names, queue: str, topics: str) -> Document:
    """The policy of a queue: of all services, only topics of this app may send. ``topics``: the pattern of their names.

    Functions of the same account need no entry here: their role allows it.
    """
    statement = _allow("Topics", ["sqs:SendMessage"], names.arn("sqs", queue)) | {"Principal": {"Service": "sns.amazonaws.com"}}
    return _document([statement | {"Condition": {"ArnLike": {"aws:SourceArn": names.arn("sns", topics)}}}])


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
    group = names.arn("logs", f"log-group:{log_group(function)}")
    buckets = "CreateBucket DeleteBucket GetBucketTagging PutBucketTagging PutEncryptionConfiguration PutBucketPublicAccessBlock"
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
            _allow("Bucket", [*_actions("s3", buckets), "s3:PutLifecycleConfiguration"], _bucket(names, bucket)),
            _allow("Role", _actions("iam", "CreateRole DeleteRole GetRole PutRolePolicy DeleteRolePolicy TagRole"), arn),
            _allow("PassRole", ["iam:PassRole"], arn) | {"Condition": {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}},
            _allow("Function", _actions("lambda", functions), names.arn("lambda", f"function:{function}")),
            _allow(
                "LogGroup", _actions("logs", "CreateLogGroup DeleteLogGroup PutRetentionPolicy TagResource"), [group, f"{group}:*"]
            ),
        ]
    )  # fmt: skip


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
    ]


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


def _document(statements: Iterable[Document]) -> Document:
    return {"Version": "2012-10-17", "Statement": list(statements)}
