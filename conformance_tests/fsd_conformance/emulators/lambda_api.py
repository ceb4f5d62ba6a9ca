"""The Lambda service's HTTP API as boto3 uses it: functions, their settings, Invoke. Other operations are refused by name."""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib
import json
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from fsd_conformance.emulators import lambda_claims, lambda_policy
from fsd_conformance.emulators.lambda_claims import OPERATIONS, Operation
from fsd_conformance.emulators.lambda_invoke import Invoker
from fsd_conformance.emulators.lambda_runtime import Runtime
from fsd_conformance.emulators.lambda_sandbox import Options, sdk
from fsd_conformance.emulators.lambda_store import (
    REQUEST_BYTES,
    UNZIPPED_BYTES,
    ZIPPED_BYTES,
    Function,
    ServiceError,
    Store,
    architectures,
    check_code,
    concurrency,
    configuration,
    event_invoke,
    invalid,
    tagged,
    unimplemented,
)
from fsd_conformance.emulators.web import Request, Response

__all__ = ["READ_BYTES", "Api"]

READ_BYTES = 2 * REQUEST_BYTES  # above the limit, so that a larger request gets the service's own error
_PAGE = 50


class Api:
    """Answers requests. Besides the service's paths it serves /_health, /_fsd/functions and /_fsd/stats."""

    def __init__(self, store: Store, runtime: Runtime, invoker: Invoker, options: Options, stats: Counter[str]) -> None:
        self._store = store
        self._runtime = runtime
        self._invoker = invoker
        self._options = options
        self._stats = stats
        self._routes = [(each, re.compile(f"{each.path}/?"), getattr(self, f"_{each.does}")) for each in OPERATIONS]

    async def route(self, request: Request) -> Response:
        """Answer one request."""
        path = "/" + "/".join(request.parts())
        if request.method == "GET" and path.startswith("/_"):
            return self._about(path)
        try:
            for operation, pattern, method in self._routes:
                match = pattern.fullmatch(path)
                if match and operation.method == request.method:
                    _check(operation, request)
                    region = re.search(r"Credential=[^/]*/\d+/([a-z0-9-]+)/lambda/", request.headers.get("authorization", ""))
                    return await _call(method, region[1] if region else self._options.region, request, match.groups())
            raise unimplemented(f"{request.method} {path}")
        except ServiceError as error:
            headers = {"x-amzn-ErrorType": error.code, "x-amzn-RequestId": str(uuid4())}
            return Response.of(error.body, error.status, headers)
        except Exception as error:
            traceback.print_exc()
            body = {"Type": "Service", "Message": f"the local Lambda failed: {type(error).__name__}: {error}"}
            return Response.of(body, 500, {"x-amzn-ErrorType": "ServiceException"})

    def _about(self, path: str) -> Response:
        """The state, for tests and tools."""
        if path == "/_health":
            return Response.of({"status": "running", "functions": len(self._store.all()), "logs": str(self._options.home / "logs")})
        if path == "/_fsd/stats":
            return Response.of({**self._stats, "queued": self._invoker.queued()})
        if path == "/_fsd/functions":
            shown: dict[str, list[dict[str, Any]]] = {f.name: [] for f in self._store.all()}
            for it in self._runtime.all.values():
                entry: dict[str, Any] = {"pid": it.pid, "state": it.state, "log": str(it.log), "request_id": None, "event": None}
                if it.current is not None:
                    entry["request_id"] = it.current.request_id
                    entry["event"] = json.loads(it.current.payload or b"{}") if len(it.current.payload) <= 1 << 16 else None
                shown.setdefault(it.function.name, []).append(entry)
            return Response.of(shown)
        return Response.of({"message": f"no {path} here"}, 404)

    async def _invoke(self, region: str, request: Request, name: str) -> Response:
        return await self._invoker.invoke(region, name, request)

    async def _create(self, region: str, request: Request) -> Response:
        _small("CreateFunction", request)
        body = _json(request)
        settings = self._runs(configuration(body))
        code = await self._code(region, body["Code"])
        name, qualifier = self._store.named(region, str(body["FunctionName"]))
        if qualifier:
            raise invalid(f"FunctionName {body['FunctionName']}: expected a name or an ARN without a qualifier")
        ready = time.monotonic() + self._options.pending_s
        function = Function(name, region, self._store.account, settings, code, tagged({}, body.get("Tags") or {}), ready)
        self._store.add(function)
        return Response.of(function.wire(), 201)

    def _runs(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``settings``, if this interpreter can run the code: compiled modules fit one Python version. Raises `ServiceError` otherwise."""
        here = f"python3.{sys.version_info.minor}"
        if self._options.code == "zip" and settings["Runtime"] != here:
            raise invalid(f"Runtime {settings['Runtime']}: the local Lambda runs uploaded code with this interpreter, {here}")
        return settings

    async def _code(self, region: str, code: dict[str, Any]) -> bytes:
        """The deployment package, from the request or from a bucket."""
        if other := lambda_claims.unclaimed(code, lambda_claims.CODE | {"Architectures", "RevisionId"}):
            raise unimplemented(f"Code.{other}")
        if code.get("ZipFile"):
            if code.get("S3Bucket") or code.get("S3Key"):
                raise invalid("ZipFile, and S3Bucket or S3Key: expected one source of the code")
            try:
                return check_code(base64.b64decode(code["ZipFile"], validate=True), sent=True)
            except binascii.Error:
                raise invalid("ZipFile: expected base64") from None
        if not code.get("S3Bucket") or not code.get("S3Key"):
            raise invalid("Please provide a source for function code: ZipFile, or S3Bucket and S3Key; images are not implemented")

        def fetch() -> bytes:
            client = sdk("s3", region)
            try:
                data: bytes = client.get_object(Bucket=code["S3Bucket"], Key=code["S3Key"])["Body"].read()
                return data
            finally:
                client.close()

        exceptions = importlib.import_module("botocore.exceptions")
        try:
            return check_code(await asyncio.to_thread(fetch), sent=False)
        except exceptions.ClientError as error:
            text = f"S3 Error Code: {error.response['Error']['Code']}. S3 Error Message: {error.response['Error'].get('Message', '')}"
            raise invalid(f"Error occurred while GetObject. {text}") from None
        except (OSError, exceptions.BotoCoreError) as error:
            raise invalid(f"Error occurred while GetObject. {error}") from None

    async def _list(self, region: str, request: Request) -> Response:
        marker, limit = request.query.get("Marker", [""])[0], request.query.get("MaxItems", [str(_PAGE)])[0]
        if not re.fullmatch(r"[1-9]\d{0,4}", limit):
            raise ServiceError(400, "ValidationException", f"Value '{limit}' at 'maxItems': expected a number from 1")
        size = min(_PAGE, int(limit))
        rest = [function for function in self._store.all(region) if function.name > marker]
        page: dict[str, Any] = {"Functions": [function.wire() for function in rest[:size]]}
        if len(rest) > size:
            page["NextMarker"] = rest[size - 1].name
        return Response.of(page)

    def _get(self, region: str, request: Request, name: str) -> Response:
        function, qualifier = self._store.find(region, name, _qualifier(request))
        shown: dict[str, Any] = {"Configuration": function.wire(qualifier), "Code": {"RepositoryType": "S3"}, "Tags": function.tags}
        if function.reserved is not None:
            shown["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved}
        return Response.of(shown)

    def _delete(self, region: str, request: Request, name: str) -> Response:
        short, qualifier = self._store.named(region, name, _qualifier(request))
        function, _ = self._store.find(region, short)
        if qualifier == "$LATEST":
            raise invalid("$LATEST version cannot be deleted without deleting the function.")
        if qualifier is None:
            self._store.remove(function)
        elif not qualifier.isdecimal():
            self._store.find(region, short, qualifier)  # aliases do not exist here; a version that does not exist counts as deleted
        return Response(204)

    def _get_configuration(self, region: str, request: Request, name: str) -> Response:
        function, qualifier = self._store.find(region, name, _qualifier(request))
        return Response.of(function.wire(qualifier))

    def _update_configuration(self, region: str, request: Request, name: str) -> Response:
        function, body = self._store.whole(region, name), _json(request)
        _revision(function, body)
        settings = self._runs(configuration(body, function.settings))
        function.change_allowed()
        function.settings = settings
        function.changed(time.monotonic() + self._options.pending_s)
        return Response.of(function.wire())

    async def _update_code(self, region: str, request: Request, name: str) -> Response:
        _small("UpdateFunctionCode", request)
        function, body = self._store.whole(region, name), _json(request)
        _revision(function, body)
        function.change_allowed()
        settings = function.settings | {"Architectures": architectures(body, function.settings["Architectures"])}
        function.code, function.settings = await self._code(region, body), settings
        function.changed(time.monotonic() + self._options.pending_s)
        return Response.of(function.wire())

    def _put_concurrency(self, region: str, request: Request, name: str) -> Response:
        function = self._store.whole(region, name)
        function.reserved = concurrency(self._store, function, _json(request))
        return Response.of({"ReservedConcurrentExecutions": function.reserved})

    def _delete_concurrency(self, region: str, request: Request, name: str) -> Response:
        self._store.whole(region, name).reserved = None
        return Response(204)

    def _get_concurrency(self, region: str, request: Request, name: str) -> Response:
        reserved = self._store.whole(region, name).reserved
        return Response.of({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    def _put_events(self, region: str, request: Request, name: str) -> Response:
        function, _ = self._store.find(region, name, _qualifier(request))
        function.events = {**event_invoke(_json(request)), "LastModified": time.time()}
        return self._get_events(region, request, name)

    def _update_events(self, region: str, request: Request, name: str) -> Response:
        function, _ = self._store.find(region, name, _qualifier(request))
        function.events = {**event_invoke(_json(request), _events(function)), "LastModified": time.time()}
        return self._get_events(region, request, name)

    def _get_events(self, region: str, request: Request, name: str) -> Response:
        function, _ = self._store.find(region, name, _qualifier(request))
        settings = _events(function)
        destinations = {"OnSuccess": {}, "OnFailure": {}, **settings.get("DestinationConfig", {})}
        return Response.of({"FunctionArn": f"{function.arn}:$LATEST", **settings, "DestinationConfig": destinations})

    def _delete_events(self, region: str, request: Request, name: str) -> Response:
        function, _ = self._store.find(region, name, _qualifier(request))
        _events(function)
        function.events = None
        return Response(204)

    def _put_recursion(self, region: str, request: Request, name: str) -> Response:
        function, value = self._store.whole(region, name), _json(request).get("RecursiveLoop")
        if value not in ("Allow", "Terminate"):
            raise ServiceError(400, "ValidationException", f"Value '{value}' at 'recursiveLoop': expected Allow or Terminate")
        function.recursion = value
        return Response.of({"RecursiveLoop": value})

    def _get_recursion(self, region: str, request: Request, name: str) -> Response:
        return Response.of({"RecursiveLoop": self._store.whole(region, name).recursion})

    def _add_permission(self, region: str, request: Request, name: str) -> Response:
        function, body = self._store.whole(region, name), _json(request)
        _revision(function, body)
        added = lambda_policy.statement(function, body)
        function.statements[added["Sid"]] = added
        return Response.of({"Statement": json.dumps(added)}, 201)

    def _get_policy(self, region: str, request: Request, name: str) -> Response:
        function = self._store.whole(region, name)
        return Response.of({"Policy": json.dumps(lambda_policy.document(function)), "RevisionId": function.revision})

    def _remove_permission(self, region: str, request: Request, name: str, sid: str) -> Response:
        lambda_policy.removed(self._store.whole(region, name), sid)
        return Response(204)

    def _list_aliases(self, region: str, request: Request, name: str) -> Response:
        self._store.whole(region, name)
        return Response.of({"Aliases": []})

    def _list_versions(self, region: str, request: Request, name: str) -> Response:
        function = self._store.whole(region, name)
        return Response.of({"Versions": [function.wire("$LATEST")]})

    def _account(self, region: str, request: Request) -> Response:
        functions = self._store.all(region)
        limit = {
            "TotalCodeSize": 80_530_636_800,
            "CodeSizeUnzipped": UNZIPPED_BYTES,
            "CodeSizeZipped": ZIPPED_BYTES,
            "ConcurrentExecutions": self._store.limit,
            "UnreservedConcurrentExecutions": self._store.unreserved(region),
        }
        usage = {"TotalCodeSize": sum(len(function.code) for function in functions), "FunctionCount": len(functions)}
        return Response.of({"AccountLimit": limit, "AccountUsage": usage})

    def _get_tags(self, region: str, request: Request, arn: str) -> Response:
        return Response.of({"Tags": self._store.whole(region, arn, "A tag").tags})

    def _tag(self, region: str, request: Request, arn: str) -> Response:
        function = self._store.whole(region, arn, "A tag")
        function.tags = tagged(function.tags, _json(request).get("Tags") or {})
        return Response(204)

    def _untag(self, region: str, request: Request, arn: str) -> Response:
        tags = self._store.whole(region, arn, "A tag").tags
        for key in request.query.get("tagKeys", []):
            tags.pop(key, None)
        return Response(204)


async def _call(operation: Callable[..., Any], region: str, request: Request, arguments: tuple[str, ...]) -> Response:
    answer = operation(region, request, *arguments)
    response: Response = await answer if asyncio.iscoroutine(answer) else answer
    response.headers = {"x-amzn-RequestId": str(uuid4()), **response.headers}
    return response


def _check(operation: Operation, request: Request) -> None:
    """Raise `ServiceError` for an unsupported part of the request that would change the answer."""
    for name in request.query:
        if name not in operation.parameters:
            raise unimplemented(f"parameter {name} of {operation.name}")
    for name in request.headers:
        if lambda_claims.controls(name) and name not in operation.headers:
            raise unimplemented(f"header {name} of {operation.name}")
    if operation.fields and len(request.body) <= REQUEST_BYTES and (field := lambda_claims.unclaimed(_json(request), operation.fields)):
        raise unimplemented(f"{field} of {operation.name}")


def _qualifier(request: Request) -> str | None:
    return request.query.get("Qualifier", [None])[0]


def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body or b"{}")
    except ValueError as error:
        raise ServiceError(400, "InvalidRequestContentException", f"Could not parse request body into json: {error}") from None
    if not isinstance(body, dict):
        raise ServiceError(400, "InvalidRequestContentException", "the request body: expected a JSON object")
    return body


def _small(operation: str, request: Request) -> None:
    if len(request.body) > REQUEST_BYTES:
        text = f"Request must be smaller than {REQUEST_BYTES} bytes for the {operation} operation"
        raise ServiceError(413, "RequestEntityTooLargeException", text)


def _revision(function: Function, body: dict[str, Any]) -> None:
    if body.pop("RevisionId", None) not in (None, function.revision):
        raise ServiceError(412, "PreconditionFailedException", "The RevisionId provided does not match the latest RevisionId.")


def _events(function: Function) -> dict[str, Any]:
    if function.events is None:
        raise ServiceError(404, "ResourceNotFoundException", f"The function {function.arn} doesn't have an EventInvokeConfig")
    return function.events
