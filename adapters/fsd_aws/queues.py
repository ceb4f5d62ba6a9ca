"""Queues, topics and subscriptions of an app: making them, removing them.

Each (slot, rank) has a queue, subscribed to its slot's topic with a filter. Two more queues are the app's own: ``dead``, where
every subscription puts what SNS could not deliver, and ``failed``, where Lambda puts launches that it gave up. One ``dead`` for all,
not one a subscription: what lies there still carries its target, and 62 ranks in 4 slots would mean 248 more queues to make.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from botocore import exceptions as sdk

from fsd_aws import policy
from fsd_aws.api import Api
from fsd_aws.messages import AwsMessages
from fsd_aws.names import Names, filter_policy, generation_of, url_prefix
from fsd_core.driver import Code, Message, Resources
from fsd_core.errors import DriverError
from fsd_core.providers.probes import PROBE, Pair

__all__ = ["make", "remove", "takes_binary"]

RETENTION_S = 3600  # longer than any run
_KEPT_S = 14 * 86400  # of what was not delivered: the most that SQS keeps
_BINARY_TRIES = 5  # so many errors in a row are no accident


def make(api: Api, names: Names, pairs: Sequence[Pair]) -> str:
    """Make the app's own queues, and what the pairs need, where it is missing; what all queue URLs start with."""
    app = f"fsd-{names.app}-{names.generation}"
    url = _queue(api, names, names.failed, None, RETENTION_S)
    _queue(api, names, names.dead, f"{app}-*", _KEPT_S)
    topics = dict.fromkeys(names.topic(*pair) for pair in pairs)
    api.each(lambda topic: _topic(api, names, topic), topics)

    def one(pair: Pair) -> None:
        name = names.queue(*pair)
        _queue(api, names, name, f"{app}-{pair[0]}-t*", RETENTION_S)
        attributes = {
            "RawMessageDelivery": "true",
            "FilterPolicy": filter_policy(*pair),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": names.arn("sqs", names.dead)}),
        }
        api.call(
            "sns", "subscribe", TopicArn=names.topic_arn(*pair), Protocol="sqs", Endpoint=names.arn("sqs", name), Attributes=attributes
        )

    api.each(one, pairs)
    return url_prefix(url, names.failed)


def _queue(api: Api, names: Names, name: str, topics: str | None, kept_s: int) -> str:
    """Its URL. ``topics``: what may send to it. No visibility: `AwsMessages.receive` says its lease each time."""
    attributes = {
        "MessageRetentionPeriod": str(kept_s),
        "SqsManagedSseEnabled": "true",  # not the key aws/sqs: SNS may not use that one, and what it sends is lost in silence
    }
    if topics is not None:
        attributes["Policy"] = json.dumps(policy.queue(names, name, topics))
    made = api.call_unless(
        Code.ALREADY_EXISTS, "sqs", "create_queue", QueueName=name, Attributes=attributes, tags={policy.APP_TAG: names.app}
    )
    if made is None:  # with other attributes: by an older version of this program
        made = api.call("sqs", "get_queue_url", QueueName=name)
        api.call("sqs", "set_queue_attributes", QueueUrl=made["QueueUrl"], Attributes=attributes)
    return str(made["QueueUrl"])


def _topic(api: Api, names: Names, name: str) -> None:
    arn = api.call("sns", "create_topic", Name=name, Tags=[{"Key": policy.APP_TAG, "Value": names.app}])["TopicArn"]
    if names.message_kb > 256:
        most = str(names.message_kb << 10)
        api.call("sns", "set_topic_attributes", TopicArn=arn, AttributeName="MaximumMessageSize", AttributeValue=most)


def takes_binary(api: Api, resources: Resources, pair: Pair) -> bool:
    """Whether a binary attribute gets from a topic to a queue: with the service it does, with an emulator it may end in errors.

    ``pair`` must be new: where it does not get there, its queue is emptied of what cannot be read.
    """
    slot, rank = pair
    driver = AwsMessages(Resources(resources.app, 0, 0, {**resources.names, "body": "binary"}), slot)

    def check() -> bool | None:
        for attempt in range(_BINARY_TRIES):
            try:
                if not driver.publish([Message(rank, PROBE + b"\xff")]):
                    got = [each.token for each in driver.receive(rank, 10, 2.0) if each.body.startswith(PROBE)]
                    if got:
                        driver.ack(rank, got)
                    return True if got else None
            except sdk.ClientError as error:
                code = driver.classify(error)
                if code not in (Code.UNAVAILABLE, Code.INVALID, Code.UNKNOWN):
                    raise DriverError(code, f"probe of the topics: {error}") from error
            api.retry.pause(attempt)
        return False

    try:
        taken = api.until("a message through the first topic", check)
    finally:
        driver.close()
    if not taken:
        api.call("sqs", "purge_queue", QueueUrl=resources.names["queue_url_prefix"] + Names.of(resources).queue(slot, rank))
    return taken


def remove(api: Api, app: str, keep: str | None = None) -> list[str]:
    """Remove the queues and topics of an app but those of generation ``keep``; a line for each."""

    def old(name: str) -> bool:
        return generation_of(app, name) not in (None, keep)

    listed = api.pages("sqs", "list_queues", "QueueUrls", QueueNamePrefix=f"fsd-{app}-", MaxResults=1000)
    urls = [url for url in listed if old(url.rsplit("/", 1)[1])]
    topics = [topic["TopicArn"] for topic in api.pages("sns", "list_topics", "Topics") if old(topic["TopicArn"].rsplit(":", 1)[1])]
    api.each(lambda arn: api.call("sns", "delete_topic", TopicArn=arn), topics)
    gone = api.each(lambda url: api.find("sqs", "delete_queue", QueueUrl=url), urls)  # a listing may name what is deleted already
    removed = [f"queue {url.rsplit('/', 1)[1]}" for url, done in zip(urls, gone, strict=True) if done is not None]
    return [*sorted(f"topic {arn.rsplit(':', 1)[1]}" for arn in topics), *sorted(removed)]
