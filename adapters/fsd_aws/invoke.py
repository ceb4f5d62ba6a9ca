"""Lambda: a launch is one asynchronous Invoke. The service accepts it before it knows whether the function will run.

Failures appear later: an event that was throttled for MaximumEventAgeInSeconds, or whose function failed, goes to the queue ``failed``
(the function's on-failure destination). `AwsInvoker.failures` reads that queue.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

from fsd_aws.clients import client
from fsd_aws.errors import classify
from fsd_aws.limits import FUNCTIONS, PAYLOAD_BYTES
from fsd_aws.names import Names
from fsd_aws.variables import RESOURCES
from fsd_core.driver import WORKER, Code, Failure, Failures, InvokeLimits, Resources
from fsd_core.providers.checks import check_payload
from fsd_core.providers.outline import sized
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry

__all__ = ["AwsInvoker", "AwsLaunch"]

_BATCH = 10  # messages in one request of SQS
_RECEIVES = 50  # of one call: other runs of an app leave at most a few hundred failures
_HIDE_S = 2
_CODES = {"EventAgeExceeded": Code.THROTTLED}  # the event found no free function in time; any other condition: the function failed


class AwsLaunch:
    """An accepted launch."""

    text = ""

    def __init__(self, request: str, failures: _Failures) -> None:
        self.request = request
        self._failures = failures

    def poll(self) -> Code | None:
        """None, until `AwsInvoker.failures` has read that Lambda dropped the event; then the code of the error."""
        return self._failures.codes.get(self.request)


class _Failures:
    """The queue of failed launches. Clients of several runs share it: each removes only the failures of its own run."""

    def __init__(self, url: str, region: str) -> None:
        self._url = url
        self._region = region
        self.codes: dict[str, Code] = {}  # request id -> code: all failures that were read, also those of other runs

    @cached_property
    def sqs(self) -> Any:
        """The SQS client. The first use makes it, since most workers never use it."""
        return client("sqs", self._region, read_s=15.0)

    def take(self, wanted: Callable[[bytes], bool]) -> Failures:
        """Remove and return the failures for whose payload ``wanted`` is true. Messages of other programs are removed too.

        A receive brings at most `_BATCH` messages, and may bring the same ones each time while they are visible. So this method hides
        what it has read until it has read all, and then makes visible again what it leaves.
        """
        taken: list[Failure] = []
        left: list[str] = []
        receives = acks = 0
        full = True
        try:
            while full and receives < _RECEIVES:
                receives += 1
                page = self._receive()
                full = len(page) == _BATCH
                removed = [(handle, failure) for handle, failure in page if failure is None or wanted(failure.payload)]
                left += [handle for handle, failure in page if (handle, failure) not in removed]
                if removed:
                    acks += 1
                    self.sqs.delete_message_batch(QueueUrl=self._url, Entries=_entries(handle for handle, _ in removed))
                taken += [failure for _, failure in removed if failure is not None]
            acks += self._show(left)
        except Exception:  # of any request: failures that were taken are gone from the queue, so they are returned
            if not taken:
                raise
        return Failures(taken, receives, acks)

    def _receive(self) -> list[tuple[str, Failure | None]]:
        answer = self.sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=_BATCH, VisibilityTimeout=_HIDE_S)
        return [(message["ReceiptHandle"], self._read(message["Body"])) for message in answer.get("Messages", ())]

    def _show(self, handles: list[str]) -> int:
        """Make messages visible to other processes at once. Returns the number of requests."""
        batches = [handles[at : at + _BATCH] for at in range(0, len(handles), _BATCH)]
        for batch in batches:
            self.sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=_entries(batch, VisibilityTimeout=0))
        return len(batches)

    def _read(self, body: str) -> Failure | None:
        """The failure that a record of Lambda describes; `None` where the text is not a record of Lambda."""
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            record = json.loads(body)
            failure = _failure(record)
            self.codes[failure.nonce] = _CODES.get(record["requestContext"]["condition"], Code.UNAVAILABLE)
            return failure
        return None

    def close(self) -> None:
        """Close the client, if it was made."""
        if "sqs" in vars(self):
            self.sqs.close()


def _entries(handles: Iterable[str], **fields: object) -> list[dict[str, object]]:
    """The entries of a batch request."""
    return [{"Id": str(number), "ReceiptHandle": handle, **fields} for number, handle in enumerate(handles)]


def _failure(record: Mapping[str, Any]) -> Failure:
    """The failure in one of Lambda's invocation records (dg/invocation-async-retain-records.html)."""
    context, answer = record["requestContext"], record.get("responsePayload") or {}
    why = " ".join(str(answer.get("errorMessage") or context["condition"]).split())
    return Failure(json.dumps(record["requestPayload"]).encode(), context["requestId"], f"the function ended: {why}")


class AwsInvoker:
    """Implements `fsd_core.driver.InvokeDriver`."""

    service = "AWS Lambda"

    def __init__(self, resources: Resources) -> None:
        self._names = names = resources.names
        self._lambda = client("lambda", names["region"])
        self._failures = _Failures(names["queue_url_prefix"] + Names.of(resources).failed, names["region"])

    def _make_limits(self) -> InvokeLimits:
        return sized(FUNCTIONS, self._concurrency(), self._names["memory_mb"], self._names["timeout_s"])

    # A client requests the account's quota when it first reads the limits; a function makes no request.
    limits: InvokeLimits = cached_property(_make_limits)  # type: ignore[assignment]

    def _concurrency(self) -> int | None:
        if reserved := self._names["concurrency"]:
            return int(reserved)
        if RESOURCES in os.environ:
            return None
        account = Retry(time.time() + 30, Meter()).call(self, "the quota of concurrent functions", self._lambda.get_account_settings)
        return int(account["AccountLimit"]["UnreservedConcurrentExecutions"])

    def invoke(self, function: str, payload: bytes) -> AwsLaunch:
        """Queue an event for the function. Raises `Refused` for a payload over the limit, and the SDK's errors."""
        check_payload(PAYLOAD_BYTES, payload)
        name = self._names["function"] if function == WORKER else function
        answer = self._lambda.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
        return AwsLaunch(answer["ResponseMetadata"]["RequestId"], self._failures)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """Remove and return the failures in the queue ``failed`` for whose payload ``take`` is true.

        A failure is a launch that Lambda dropped, or a function that died.
        """
        return self._failures.take(take)

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_aws.errors.classify`."""
        return classify(error)

    def native(self) -> Any:
        """The SDK's client of Lambda."""
        return self._lambda

    def close(self) -> None:
        """Close the connections. Functions continue to run."""
        self._lambda.close()
        self._failures.close()
