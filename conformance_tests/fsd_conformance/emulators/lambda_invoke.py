"""Invocations of the local Lambda: admission, the asynchronous queue with retries and destinations, and the recursion guard."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from fsd_conformance.emulators.lambda_runtime import Invocation, Outcome, Runtime
from fsd_conformance.emulators.lambda_sandbox import Options, sdk
from fsd_conformance.emulators.lambda_store import Function, ServiceError, Store, invalid
from fsd_conformance.emulators.web import Request, Response

__all__ = ["Invoker"]

_PAYLOAD_BYTES = {"RequestResponse": 6 << 20, "DryRun": 6 << 20, "Event": 1 << 20}
_CONTEXT_BYTES = 3583  # the limit of a client context, in base64
_CHAIN = 16  # the limit of invocations of one function in a chain of requests
_RETRY_S = 60.0  # seconds between attempts, multiplied by the number of the attempt
_BACKOFF_S = (1.0, 300.0)  # after a throttle: the first and the longest wait
_AGE_S = 21600


class Invoker:
    """Runs functions for the Invoke operation."""

    def __init__(self, store: Store, runtime: Runtime, options: Options, stats: Counter[str]) -> None:
        self._store = store
        self._runtime = runtime
        self._options = options
        self._stats = stats
        self._busy: Counter[Function] = Counter()
        self._random = random.Random(options.seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def invoke(self, region: str, name: str, request: Request) -> Response:
        """The Invoke operation. Raises `ServiceError`."""
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if kind not in _PAYLOAD_BYTES:
            raise ServiceError(400, "ValidationException", f"Value '{kind}' at 'invocationType': expected one of {list(_PAYLOAD_BYTES)}")
        function, qualifier = self._store.find(region, name, request.query.get("Qualifier", [None])[0])
        if len(request.body) > _PAYLOAD_BYTES[kind]:
            text = f"{len(request.body)} byte payload is too large for the {kind} invocation type (limit {_PAYLOAD_BYTES[kind]} bytes)"
            raise ServiceError(413, "RequestEntityTooLargeException", text)
        _check_event(request.body)
        log, context = request.headers.get("x-amz-log-type", "None"), request.headers.get("x-amz-client-context", "")
        if log not in ("None", "Tail"):
            raise ServiceError(400, "ValidationException", f"Value '{log}' at 'logType': expected None or Tail")
        if len(context) > _CONTEXT_BYTES:
            raise invalid(f"Client context of {len(context)} bytes: expected at most {_CONTEXT_BYTES}")
        if function.pending:
            text = "The operation cannot be performed at this time. The function is currently in the following state: Pending"
            raise ServiceError(409, "ResourceConflictException", text)
        if kind == "DryRun":
            return Response(204)
        self._stats[kind] += 1
        trace, count = lineage(unquote(request.headers.get("x-amzn-trace-id", "")), function)
        decoded = base64.b64decode(context).decode() if context and kind != "Event" else None  # events have no client context
        invocation = Invocation(function, request.body, trace, decoded, qualifier)
        looping = count > _CHAIN and function.recursion == "Terminate"
        self._stats["recursion_stops"] += looping
        if kind == "Event":
            self._accept(invocation, looping)
            return Response(202, headers={"x-amzn-RequestId": invocation.request_id})
        if looping:
            text = f"Lambda has detected {function.name} being invoked in a recursive loop with other AWS resources."
            raise ServiceError(400, "RecursiveInvocationException", text)
        self._admit(function)
        outcome = await self._run(invocation)
        headers = {
            "x-amzn-RequestId": invocation.request_id,
            "Content-Type": "application/json",
            "X-Amz-Executed-Version": "$LATEST",
            "X-Amzn-Trace-Id": trace,
        }
        if outcome.failed:
            headers["X-Amz-Function-Error"] = "Unhandled"
        if log == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(outcome.log).decode()
        return Response(200, outcome.body, headers)

    def close(self) -> None:
        """Cancel queued events."""
        for task in self._tasks:
            task.cancel()

    def queued(self) -> int:
        """The number of asynchronous events that are not finished."""
        return len(self._tasks)

    def _admit(self, function: Function) -> None:
        """Count an invocation that starts; `_run` counts its end. Raises `ServiceError` where too many run."""
        if function.reserved is not None:
            running, limit, reason = self._busy[function], function.reserved, "ReservedFunctionConcurrentInvocationLimitExceeded"
        else:
            running = sum(n for it, n in self._busy.items() if it.reserved is None and it.region == function.region)
            limit, reason = self._store.unreserved(function.region), "ConcurrentInvocationLimitExceeded"
        if running >= limit:
            self._stats["throttles"] += 1
            raise ServiceError(429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason)
        self._busy[function] += 1

    async def _run(self, invocation: Invocation) -> Outcome:
        try:
            environment = await self._runtime.take(invocation.function)
            return await environment.run(invocation)
        except (OSError, zipfile.BadZipFile) as error:  # an error of this machine: no process, port or space
            print(f"local lambda: {invocation.function.name}: no environment: {error}", file=sys.stderr, flush=True)
            return Outcome.error("Sandbox.Failed", f"RequestId: {invocation.request_id} Error: no execution environment: {error}")
        finally:
            self._busy[invocation.function] -= 1
            if not self._busy[invocation.function]:
                del self._busy[invocation.function]

    def _accept(self, invocation: Invocation, looping: bool) -> None:
        """Queue an event, by the faults once or twice, now or later."""
        if looping:
            self._spawn(self._fail(invocation, "RecursiveInvocation", 0, None))
            return
        copies = 1 + (self._random.random() < self._options.duplicate)
        self._stats["duplicates"] += copies - 1
        for _ in range(copies):
            late = self._random.random() < self._options.late[0]
            self._stats["late"] += late
            self._spawn(self._deliver(invocation, self._options.late[1] if late else 0.0))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, invocation: Invocation, delay: float) -> None:
        """Run one event until it succeeds or fails for the last time. Throttles do not count as attempts."""
        await asyncio.sleep(delay)
        function, scale, attempts, backoff = invocation.function, self._options.retry_scale, 0, _BACKOFF_S[0]
        outcome: Outcome | None = None
        while not function.deleted:
            settings = function.events or {}
            left = settings.get("MaximumEventAgeInSeconds", _AGE_S) * scale - (time.monotonic() - invocation.accepted)
            if left <= 0:
                return await self._fail(invocation, "EventAgeExceeded", attempts, outcome)
            try:
                self._admit(function)
            except ServiceError:
                await asyncio.sleep(min(backoff * scale, left))
                backoff = min(_BACKOFF_S[1], 2 * backoff)
                continue
            outcome = await self._run(invocation)
            if not outcome.failed:
                return None
            self._stats["function_errors"] += 1
            attempts += 1
            if attempts > settings.get("MaximumRetryAttempts", 2):
                return await self._fail(invocation, "RetriesExhausted", attempts, outcome)
            self._stats["retries"] += 1
            await asyncio.sleep(_RETRY_S * attempts * scale)
        return None

    async def _fail(self, invocation: Invocation, condition: str, attempts: int, outcome: Outcome | None) -> None:
        """Send the record of a lost event to the function's destination, if it has one."""
        function = invocation.function
        arn = (function.events or {}).get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        self._stats[condition] += 1
        print(f"local lambda: {function.name}: event {invocation.request_id} is not tried again: {condition}", file=sys.stderr, flush=True)
        if not arn:
            return
        record: dict[str, Any] = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": invocation.request_id,
                "functionArn": f"{function.arn}:$LATEST",
                "condition": condition,
                "approximateInvokeCount": attempts,
            },
            "requestPayload": json.loads(invocation.payload or b"{}"),
        }
        if outcome is not None:
            record["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
            with suppress(ValueError):
                record["responsePayload"] = json.loads(outcome.body)
        for wait in (0.2, 1.0, 5.0, None):
            try:
                await asyncio.to_thread(_send, arn, json.dumps(record))
                self._stats["destinations"] += 1
                return
            except Exception as error:  # any error of the SDK: the service also retries, and then drops the record
                print(f"local lambda: {function.name}: destination {arn}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                if wait is not None:
                    await asyncio.sleep(wait)


def _check_event(body: bytes) -> None:
    """Raise `ServiceError` unless the body is JSON in UTF-8. Python's reader also accepts UTF-16, and NaN and Infinity."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text}: expected a number")

    try:
        json.loads(body.decode() or "{}", parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ServiceError(400, "InvalidRequestContentException", f"Could not parse request body into json: {error}") from None


def _send(arn: str, text: str) -> None:
    """Send a text to an emulated queue or topic."""
    _, _, service, region, account, name = arn.split(":")
    client = sdk(service, region)
    if service == "sqs":
        client.send_message(QueueUrl=client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"], MessageBody=text)
    else:
        client.publish(TopicArn=arn, Message=text)
    client.close()


def lineage(header: str, function: Function) -> tuple[str, int]:
    """The trace header of an invocation, and how often its chain of requests has reached the function, this time included.

    boto3 forwards the header of the function that it runs in, so a chain carries "Lineage=<hash of the function>:<count>|...".
    """
    fields = dict(part.split("=", 1) for part in header.split(";") if "=" in part)
    mine = hashlib.sha256(function.arn.encode()).hexdigest()[:8]
    counts: dict[str, int] = {}
    for part in fields.get("Lineage", "").split("|"):
        name, _, count = part.partition(":")
        if count.isdigit():
            counts[name] = int(count)
    counts[mine] = counts.get(mine, 0) + 1
    root = fields.get("Root") or f"1-{int(time.time()):08x}-{uuid4().hex[:24]}"
    chain = "|".join(f"{name}:{count}" for name, count in counts.items())
    return f"Root={root};Parent={uuid4().hex[:16]};Sampled=0;Lineage={chain}", counts[mine]
