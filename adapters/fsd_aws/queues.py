"""Makes and removes an app's queues, topics and subscriptions.

Each rank of each slot has a queue with a filtered subscription to its slot's topic. The app has two more queues: ``dead`` for messages that
SNS could not deliver, and ``failed`` for launches that Lambda gave up. One ``dead`` queue is enough for all subscriptions, since a message
keeps its target there; one for each subscription would be 248 more queues for 62 ranks in 4 slots.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from botocore import exceptions as sdk

from fsd_aws import policy
from fsd_aws.api import Api
from fsd_aws.messages import AwsMessages
from fsd_aws.names import Names, filter_policy, url_prefix
from fsd_core.driver import Code, Message, Resources
from fsd_core.errors import DriverError
from fsd_core.providers.names import outdated
from fsd_core.providers.probes import PROBE, Pair

__all__ = ["KEPT_S", "RETENTION_S", "attributes", "make", "remove", "takes_binary", "topic_attributes"]

RETENTION_S = 3600  # longer than any run
KEPT_S = 14 * 86400  # for messages that were not delivered: SQS's longest retention
_BINARY_TRIES = 5  # after so many errors in a row the service counts as one without binary attributes


def make(api: Api, names: Names, pairs: Sequence[Pair]) -> str:
    """Make the app's own queues and each pair's queue, topic and subscription, where missing. Returns the part that all queue URLs begin
    with.
    """
    url = _queue(api, names, names.failed)
    _queue(api, names, names.dead)
    topics = dict.fromkeys(names.topic(*pair) for pair in pairs)
    api.each(lambda topic: _topic(api, names, topic), topics)

    def one(pair: Pair) -> None:
        name = names.queue(*pair)
        _queue(api, names, name, pair[0])
        subscription = {
            "RawMessageDelivery": "true",
            "FilterPolicy": filter_policy(*pair),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": names.arn("sqs", names.dead)}),
        }
        api.call(
            "sns", "subscribe", TopicArn=names.topic_arn(*pair), Protocol="sqs", Endpoint=names.arn("sqs", name), Attributes=subscription
        )

    api.each(one, pairs)
    return url_prefix(url, names.failed)


def attributes(names: Names, name: str, slot: int | None = None) -> dict[str, str]:
    """The attributes of a queue. ``slot``: that of a rank's queue; `None` for the app's own queues.

    The queue gets no visibility time-out: `AwsMessages.receive` sends its lease in each request.
    """
    app = f"fsd-{names.app}-{names.generation}"
    topics = f"{app}-{slot}-t*" if slot is not None else f"{app}-*" if name == names.dead else None
    return {
        "MessageRetentionPeriod": str(KEPT_S if name == names.dead else RETENTION_S),
        # Without a key of the user not the key aws/sqs: SNS may not use it, and its messages would be lost without an error.
        **({"KmsMasterKeyId": names.kms_key} if names.kms_key else {"SqsManagedSseEnabled": "true"}),
        "Policy": json.dumps(policy.queue(names, name, topics)),
    }


def _queue(api: Api, names: Names, name: str, slot: int | None = None) -> str:
    """Make a queue, or give an existing one its attributes. Returns its URL."""
    wanted = attributes(names, name, slot)
    made = api.call_unless(Code.ALREADY_EXISTS, "sqs", "create_queue", QueueName=name, Attributes=wanted, tags={policy.APP_TAG: names.app})
    if made is None:  # it exists with other attributes, of an older version of fsd
        made = api.call("sqs", "get_queue_url", QueueName=name)
        api.call("sqs", "set_queue_attributes", QueueUrl=made["QueueUrl"], Attributes=wanted)
    return str(made["QueueUrl"])


def topic_attributes(names: Names, name: str) -> dict[str, str]:
    """The attributes of a topic."""
    larger = {"MaximumMessageSize": str(names.message_kb << 10)} if names.message_kb > 256 else {}
    key = {"KmsMasterKeyId": names.kms_key} if names.kms_key else {}
    return {"Policy": json.dumps(policy.topic(names, name))} | key | larger


def _topic(api: Api, names: Names, name: str) -> None:
    arn = api.call("sns", "create_topic", Name=name, Tags=[{"Key": policy.APP_TAG, "Value": names.app}])["TopicArn"]
    for key, value in topic_attributes(names, name).items():
        api.call("sns", "set_topic_attributes", TopicArn=arn, AttributeName=key, AttributeValue=value)


def takes_binary(api: Api, resources: Resources, pair: Pair) -> bool:
    """Whether a binary attribute arrives in a queue. AWS delivers it; some emulators answer with an error.

    ``pair`` must be new: if the attribute does not arrive, its queue is purged of messages that cannot be read.
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
    """Remove the queues and topics of an app except those of generation ``keep``. Returns one line of text for each."""
    listed = api.pages("sqs", "list_queues", "QueueUrls", QueueNamePrefix=f"fsd-{app}-", MaxResults=1000)
    urls = [url for url in listed if outdated(app, url, keep)]
    topics = [topic["TopicArn"] for topic in api.pages("sns", "list_topics", "Topics") if outdated(app, topic["TopicArn"], keep)]
    api.each(lambda arn: api.call("sns", "delete_topic", TopicArn=arn), topics)
    gone = api.each(lambda url: api.find("sqs", "delete_queue", QueueUrl=url), urls)  # a listing may name queues that are deleted
    removed = [f"queue {url.rsplit('/', 1)[1]}" for url, done in zip(urls, gone, strict=True) if done is not None]
    return [*sorted(f"topic {arn.rsplit(':', 1)[1]}" for arn in topics), *sorted(removed)]
