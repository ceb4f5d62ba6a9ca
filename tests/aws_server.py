"""A moto server for the tests of `fsd_aws`, and an app made by hand, as `fsd_aws.provision` makes it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fsd_aws import names
from fsd_aws.clients import client
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.moto import MotoServer
from fsd_conformance.emulators.process import started
from fsd_core.driver import Code, Resources
from fsd_core.providers.names import new_generation

ACCOUNT, REGION = "123456789012", "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}


def env(url: str) -> Mapping[str, str]:
    return {**KEYS, "AWS_ENDPOINT_URL": url, "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}


@contextmanager
def moto() -> Iterator[str]:
    """Within the block a server runs and this process is its client; the server's address."""
    with TemporaryDirectory() as folder:
        server = started(lambda: MotoServer(Path(folder)))
        try:
            with pointed(env(server.url), ("AWS_",)):
                yield server.url
        finally:
            server.stop()


def app(ranks: int = 3, slots: int = 2, **settings: str) -> Resources:
    """An app that no other test uses."""
    made = names.Names(f"t-{secrets.token_hex(4)}", REGION, ACCOUNT, new_generation())
    bucket = names.bucket(made.app, ACCOUNT, REGION)
    s3, sns, sqs = (client(service, REGION) for service in ("s3", "sns", "sqs"))
    s3.create_bucket(Bucket=bucket)
    for topic in made.topics(ranks, slots):
        assert sns.create_topic(Name=topic)["TopicArn"] == made.arn("sns", topic)
    prefixes = set()
    for slot in range(slots):
        for rank in range(ranks):
            name = made.queue(slot, rank)
            prefixes.add(names.url_prefix(sqs.create_queue(QueueName=name)["QueueUrl"], name))
            attributes = {"FilterPolicy": names.filter_policy(slot, rank), "RawMessageDelivery": "true"}
            sns.subscribe(TopicArn=made.topic_arn(slot, rank), Protocol="sqs", Endpoint=made.arn("sqs", name), Attributes=attributes)
    (prefix,) = prefixes
    told = {
        "region": REGION,
        "account": ACCOUNT,
        "partition": "aws",
        "generation": made.generation,
        "queue_url_prefix": prefix,
        "bucket": bucket,
        "body": "text",
        "message_kb": "256",
        "lease_s": "2",
    }
    return Resources(made.app, ranks, slots, told | settings)


def code_of(driver: object, request: object, *arguments: object, **named: object) -> Code:
    """The code of what a request raises, as its driver sees it."""
    try:
        request(*arguments, **named)  # type: ignore[operator]
    except Exception as error:
        return driver.classify(error)  # type: ignore[attr-defined,no-any-return]
    raise AssertionError("nothing was raised")
