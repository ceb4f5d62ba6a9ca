"""The Lambda service's HTTP API as boto3 speaks it: functions, their settings, Invoke; what is not here is refused by name."""

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

from fsd_conformance.emulators.lambda_invoke import Invoker
from fsd_conformance.emulators.lambda_runtime import Runtime
from fsd_conformance.emulators.lambda_sandbox import Options, sdk
from fsd_conformance.emulators.lambda_store import (
    CODE_BYTES,
    UNZIPPED_BYTES,
    Function,
    ServiceError,
    Store,
    check_code,
    concurrency,
    configuration,
    event_invoke,
    invalid,
)
from fsd_conformance.emulators.web import Request, Response

__all__ = ["REQUEST_BYTES", "Api"]

REQUEST_BYTES = 2 * CODE_BYTES  # read, so that what is over the limit is refused with the service's own words
_PAGE = 50
_F = "/functions/([^/]+)"
_ROUTES = [
    ("POST", "/2015-03-31/functions", "create"),
    ("GET", "/2015-03-31/functions", "list"),
    ("POST", f"/2015-03-31{_F}/invocations", "invoke"),
    ("GET", f"/2015-03-31{_F}", "get"),
    ("DELETE", f"/2015-03-31{_F}", "delete"),
    ("GET", f"/2015-03-31{_F}/configuration", "get_configuration"),
    ("PUT", f"/2015-03-31{_F}/configuration", "update_configuration"),
    ("PUT", f"/2015-03-31{_F}/code", "update_code"),
    ("PUT", f"/2017-10-31{_F}/concurrency", "put_concurrency"),
    ("DELETE", f"/2017-10-31{_F}/concurrency", "delete_concurrency"),
    ("GET", f"/2019-09-30{_F}/concurrency", "get_concurrency"),
    ("PUT", f"/2019-09-25{_F}/event-invoke-config", "put_events"),
    ("POST", f"/2019-09-25{_F}/event-invoke-config", "update_events"),
    ("GET", f"/2019-09-25{_F}/event-invoke-config", "get_events"),
    ("DELETE", f"/2019-09-25{_F}/event-invoke-config", "delete_events"),
    ("PUT", f"/2024-08-31{_F}/recursion-config", "put_recursion"),
    ("GET", f"/2024-08-31{_F}/recursion-config", "get_recursion"),
    ("GET", "/2016-08-19/account-settings", "account"),
    ("GET", "/2017-03-31/tags/(.+)", "get_tags"),
    ("POST", "/2017-03-31/tags/(.+)", "tag"),
    ("DELETE", "/2017-03-31/tags/(.+)", "untag"),
]


class Api:
    """Answers requests. Beside the service's own paths: /_health, /_fsd/functions, /_fsd/stats."""

    def __init__(self, store: Store, runtime: Runtime, invoker: Invoker, options: Options, stats: Counter[str]) -> None:
        self._store = store
        self._runtime = runtime
        self._invoker = invoker
        self._options = options
        self._stats = stats
        self._routes = [(method, re.compile(f"{path}/?"), getattr(self, f"_{name}")) for method, path, name in _ROUTES]

    async def route(self, request: Request) -> Response:
        """One request of any kind."""
        path = "/" + "/".join(request.parts())
        if request.method == "GET" and path.startswith("/_"):
            return self._about(path)
        try:
            for method, pattern, operation in self._routes:
                match = pattern.fullmatch(path)
                if match and method == request.method:
                    region = re.search(r"Credential=[^/]*/\d+/([a-z0-9-]+)/lambda/", request.headers.get("authorization", ""))
                    return await _call(operation, region[1] if region else self._options.region, request, match.groups())
            raise ServiceError(501, "NotImplemented", f"{request.method} {path} is not implemented by the local Lambda")
        except ServiceError as error:
            headers = {"x-amzn-ErrorType": error.code, "x-amzn-RequestId": str(uuid4())}
            return Response.of(error.body, error.status, headers)
        except Exception as error:
            traceback.print_exc()
            said = {"Type": "Service", "Message": f"the local Lambda failed: {type(error).__name__}: {error}"}
            return Response.of(said, 500, {"x-amzn-ErrorType": "ServiceException"})

    def _about(self, path: str) -> Response:
        """What tests and tools look at."""
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
        found = re.fullmatch(r"(?:.*:function:)?([A-Za-z0-9_-]{1,64})", str(body["FunctionName"]))
        if found is None:
            raise ServiceError(400, "ValidationException", f"Value '{body['FunctionName']}' at 'functionName' is not a function's name")
        ready = time.monotonic() + self._options.pending_s
        function = Function(found[1], region, self._store.account, settings, code, dict(body.get("Tags") or {}), ready)
        self._store.add(function)
        return Response.of(function.wire(), 201)

    def _runs(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``settings`` if this interpreter can run the code that comes with them: compiled modules are of one version."""
        here = f"python3.{sys.version_info.minor}"
        if self._options.code == "zip" and settings["Runtime"] != here:
            raise invalid(f"Runtime {settings['Runtime']}: the local Lambda runs uploaded code with this interpreter, {here}")
        return settings

    async def _code(self, region: str, code: dict[str, Any]) -> bytes:
        """The deployment package, given or in a bucket."""
        if code.get("ZipFile"):
            try:
                return check_code(base64.b64decode(code["ZipFile"], validate=True))
            except binascii.Error:
                raise invalid("ZipFile is not base64") from None
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
            return check_code(await asyncio.to_thread(fetch))
        except exceptions.ClientError as error:
            said = f"S3 Error Code: {error.response['Error']['Code']}. S3 Error Message: {error.response['Error'].get('Message', '')}"
            raise invalid(f"Error occurred while GetObject. {said}") from None
        except (OSError, exceptions.BotoCoreError) as error:
            raise invalid(f"Error occurred while GetObject. {error}") from None

    async def _list(self, region: str, request: Request) -> Response:
        marker = request.query.get("Marker", [""])[0]
        size = min(_PAGE, int(request.query.get("MaxItems", [str(_PAGE)])[0]))
        rest = [function for function in self._store.all(region) if function.name > marker]
        page: dict[str, Any] = {"Functions": [function.wire() for function in rest[:size]]}
        if len(rest) > size:
            page["NextMarker"] = rest[size - 1].name
        return Response.of(page)

    def _get(self, region: str, request: Request, name: str) -> Response:
        function = self._store.find(region, name)
        shown: dict[str, Any] = {"Configuration": function.wire(), "Code": {"RepositoryType": "S3"}, "Tags": function.tags}
        if function.reserved is not None:
            shown["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved}
        return Response.of(shown)

    def _delete(self, region: str, request: Request, name: str) -> Response:
        self._store.remove(self._store.find(region, name))
        return Response(204)

    def _get_configuration(self, region: str, request: Request, name: str) -> Response:
        return Response.of(self._store.find(region, name).wire())

    def _update_configuration(self, region: str, request: Request, name: str) -> Response:
        function, body = self._store.find(region, name), _json(request)
        _revision(function, body)
        settings = self._runs(configuration(body, function.settings))
        function.change_allowed()
        function.settings = settings
        function.changed(time.monotonic() + self._options.pending_s)
        return Response.of(function.wire())

    async def _update_code(self, region: str, request: Request, name: str) -> Response:
        _small("UpdateFunctionCode", request)
        function, body = self._store.find(region, name), _json(request)
        _revision(function, body)
        other = set(body) - {"ZipFile", "S3Bucket", "S3Key", "Publish", "Architectures"}
        if other or body.get("Publish"):
            raise invalid(f"{', '.join(sorted(other)) or 'Publish'} is not implemented by the local Lambda")
        function.change_allowed()
        function.code = await self._code(region, body)
        function.changed(time.monotonic() + self._options.pending_s)
        return Response.of(function.wire())

    def _put_concurrency(self, region: str, request: Request, name: str) -> Response:
        function = self._store.find(region, name)
        function.reserved = concurrency(self._store, function, _json(request))
        return Response.of({"ReservedConcurrentExecutions": function.reserved})

    def _delete_concurrency(self, region: str, request: Request, name: str) -> Response:
        self._store.find(region, name).reserved = None
        return Response(204)

    def _get_concurrency(self, region: str, request: Request, name: str) -> Response:
        reserved = self._store.find(region, name).reserved
        return Response.of({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    def _put_events(self, region: str, request: Request, name: str) -> Response:
        function = self._store.find(region, name)
        function.events = {**event_invoke(_json(request)), "LastModified": time.time()}
        return self._get_events(region, request, name)

    def _update_events(self, region: str, request: Request, name: str) -> Response:
        function = self._store.find(region, name)
        function.events = {**event_invoke(_json(request), _events(function)), "LastModified": time.time()}
        return self._get_events(region, request, name)

    def _get_events(self, region: str, request: Request, name: str) -> Response:
        function = self._store.find(region, name)
        return Response.of({"FunctionArn": f"{function.arn}:$LATEST", **_events(function)})

    def _delete_events(self, region: str, request: Request, name: str) -> Response:
        function = self._store.find(region, name)
        _events(function)
        function.events = None
        return Response(204)

    def _put_recursion(self, region: str, request: Request, name: str) -> Response:
        function, value = self._store.find(region, name), _json(request).get("RecursiveLoop")
        if value not in ("Allow", "Terminate"):
            raise ServiceError(400, "ValidationException", f"Value '{value}' at 'recursiveLoop' is none of [Allow, Terminate]")
        function.recursion = value
        return Response.of({"RecursiveLoop": value})

    def _get_recursion(self, region: str, request: Request, name: str) -> Response:
        return Response.of({"RecursiveLoop": self._store.find(region, name).recursion})

    def _account(self, region: str, request: Request) -> Response:
        functions = self._store.all(region)
        limit = {
            "TotalCodeSize": 80_530_636_800,
            "CodeSizeUnzipped": UNZIPPED_BYTES,
            "CodeSizeZipped": 52_428_800,
            "ConcurrentExecutions": self._store.limit,
            "UnreservedConcurrentExecutions": self._store.unreserved(region),
        }
        usage = {"TotalCodeSize": sum(len(function.code) for function in functions), "FunctionCount": len(functions)}
        return Response.of({"AccountLimit": limit, "AccountUsage": usage})

    def _get_tags(self, region: str, request: Request, arn: str) -> Response:
        return Response.of({"Tags": self._store.find(region, arn).tags})

    def _tag(self, region: str, request: Request, arn: str) -> Response:
        self._store.find(region, arn).tags.update(_json(request).get("Tags", {}))
        return Response(204)

    def _untag(self, region: str, request: Request, arn: str) -> Response:
        tags = self._store.find(region, arn).tags
        for key in request.query.get("tagKeys", []):
            tags.pop(key, None)
        return Response(204)


async def _call(operation: Callable[..., Any], region: str, request: Request, arguments: tuple[str, ...]) -> Response:
    answer = operation(region, request, *arguments)
    response: Response = await answer if asyncio.iscoroutine(answer) else answer
    response.headers = {"x-amzn-RequestId": str(uuid4()), **response.headers}
    return response


def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise ServiceError(400, "InvalidRequestContentException", f"Could not parse request body into json: {error}") from None
    if not isinstance(body, dict):
        raise ServiceError(400, "InvalidRequestContentException", "the request body is not a JSON object")
    return body


def _small(operation: str, request: Request) -> None:
    if len(request.body) > CODE_BYTES:
        said = f"Request must be smaller than {CODE_BYTES} bytes for the {operation} operation"
        raise ServiceError(413, "RequestEntityTooLargeException", said)


def _revision(function: Function, body: dict[str, Any]) -> None:
    if body.pop("RevisionId", None) not in (None, function.revision):
        raise ServiceError(412, "PreconditionFailedException", "The RevisionId provided does not match the latest RevisionId.")


def _events(function: Function) -> dict[str, Any]:
    if function.events is None:
        raise ServiceError(404, "ResourceNotFoundException", f"The function {function.arn} doesn't have an EventInvokeConfig")
    return function.events
