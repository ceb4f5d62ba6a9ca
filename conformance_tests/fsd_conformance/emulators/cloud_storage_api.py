"""Cloud Storage's JSON API as its Python client uses it. Other operations are refused by name."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from fsd_conformance.emulators.cloud_storage_batch import joined, requests_in
from fsd_conformance.emulators.cloud_storage_claims import FLAGS_REFUSED, OPERATIONS, PARAMETERS_ANYWHERE, Operation, controls
from fsd_conformance.emulators.cloud_storage_fields import ServiceError, invalid
from fsd_conformance.emulators.cloud_storage_forms import (
    answer,
    base,
    bucket_form,
    conditions,
    header_sums,
    listing,
    media,
    number,
    object_form,
    policy_form,
)
from fsd_conformance.emulators.cloud_storage_store import Store
from fsd_conformance.emulators.cloud_storage_upload import Sessions, json_of, related
from fsd_conformance.emulators.web import Request, Response

__all__ = ["Api"]


@dataclass(slots=True)
class _Fault:
    """Answers the next ``times`` requests with ``status``. ``method``: "" for any; ``path``: a regular expression to find in the path."""

    status: int
    times: int = 1
    method: str = ""
    path: str = ""

    def hits(self, request: Request) -> bool:
        """Whether this request gets the fault; counts it."""
        if self.times < 1 or self.method not in ("", request.method) or not re.search(self.path, request.path):
            return False
        self.times -= 1
        return True


class Api:
    """Answers requests. Besides the service's paths: GET /_health; POST /_fsd/faults with the fields of a fault; DELETE ends all faults."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._store = Store()
        self._sessions = Sessions(max_bytes)
        self._faults: list[_Fault] = []
        self._routes = [(each, re.compile(each.path), getattr(self, f"_{each.name}")) for each in OPERATIONS]

    async def route(self, request: Request) -> Response:
        """Answer one request. There is one thread and no await, so requests do not overlap."""
        return self._about(request) if request.path.startswith("/_") else self._answer(request)

    def _about(self, request: Request) -> Response:
        asked = (request.method, request.path)
        if asked == ("GET", "/_health"):
            return Response.of({"status": "running"})
        if asked == ("POST", "/_fsd/faults"):
            self._faults.append(_Fault(**json_of(request.body)))
        elif asked == ("DELETE", "/_fsd/faults"):
            self._faults.clear()
        else:
            return Response(404)
        return Response(204)

    def _answer(self, request: Request) -> Response:
        """The service's answer, or its error."""
        try:
            if fault := next((each for each in self._faults if each.hits(request)), None):
                raise ServiceError(fault.status, "This answer is a planned fault of the local Cloud Storage.")
            for operation, pattern, method in self._routes:
                match = pattern.fullmatch(request.path)
                if match and operation.method == request.method:
                    _known(operation, request)
                    call: Callable[..., Response] = method
                    return call(request, *map(unquote, match.groups()))
            raise ServiceError(501, f"{request.method} {request.path} is not implemented by the local Cloud Storage")
        except ServiceError as error:
            if request.query.get("alt") == ["media"] or "Content-Type" in error.headers:
                return Response(error.status, error.message.encode(), {"Content-Type": "text/html; charset=UTF-8", **error.headers})
            return Response.of(error.body, error.status, error.headers)
        except Exception as error:
            traceback.print_exc()
            return Response.of(ServiceError(500, f"the local Cloud Storage failed: {type(error).__name__}: {error}").body, 500)

    def _batch(self, request: Request) -> Response:
        def one(inner: Request) -> Response:
            if not inner.path.startswith("/storage/v1/") or inner.query.get("alt") == ["media"]:
                return Response.of(invalid(f"{inner.method} {inner.path}: a batch must not hold it.").body, 400)
            return self._answer(inner)

        return joined([one(inner) for inner in requests_in(request)])

    # buckets

    def _create_bucket(self, request: Request) -> Response:
        asked = json_of(request.body)
        if "project" not in request.query:
            raise invalid("Required parameter: project")
        return answer(request, bucket_form(request, self._store.create(str(asked.get("name", "")), request.query["project"][0], asked)))

    def _list_buckets(self, request: Request) -> Response:
        if "project" not in request.query:
            raise invalid("Required parameter: project")
        mine = sorted(name for name, each in self._store.buckets.items() if [each.project] == request.query.get("project"))
        names, _, token = listing(request).page(mine)
        items = [bucket_form(request, self._store.buckets[name]) for name in names]
        return answer(request, {"kind": "storage#buckets"} | _some(items=items, nextPageToken=token))

    def _get_bucket(self, request: Request, name: str) -> Response:
        bucket = self._store.find(name)
        conditions(request).check(bucket, reading=True)
        return answer(request, bucket_form(request, bucket))

    def _update_bucket(self, request: Request, name: str) -> Response:
        bucket = self._store.find(name)
        conditions(request).check(bucket, reading=False)
        bucket.update(json_of(request.body), replace=request.method == "PUT")
        return answer(request, bucket_form(request, bucket))

    def _delete_bucket(self, request: Request, name: str) -> Response:
        bucket = self._store.find(name)
        conditions(request).check(bucket, reading=False)
        self._store.remove(bucket)
        return Response(204)

    def _get_policy(self, request: Request, name: str) -> Response:
        return answer(request, policy_form(self._store.find(name), number(request, "optionsRequestedPolicyVersion") or 0))

    def _set_policy(self, request: Request, name: str) -> Response:
        bucket = self._store.find(name)
        asked = json_of(request.body)
        if unknown := asked.keys() - {"bindings", "etag", "kind", "resourceId", "version"}:
            raise ServiceError(501, f"Policy.{min(unknown)} is not implemented by the local Cloud Storage")
        bucket.set_policy(asked)
        return answer(request, policy_form(bucket, asked.get("version") or 0))

    def _test_permissions(self, request: Request, name: str) -> Response:
        self._store.find(name)
        return answer(request, {"kind": "storage#testIamPermissionsResponse", "permissions": request.query.get("permissions", [])})

    # objects

    def _list(self, request: Request, name: str) -> Response:
        bucket = self._store.find(name)
        names, prefixes, token = listing(request).page(bucket.names)
        items = [object_form(request, bucket, bucket.objects[each]) for each in names]
        return answer(request, {"kind": "storage#objects"} | _some(items=items, prefixes=prefixes, nextPageToken=token))

    def _get(self, request: Request, bucket_name: str, name: str) -> Response:
        bucket = self._store.find(bucket_name)
        found = bucket.find(name, number(request, "generation"))
        conditions(request).check(found, reading=True)
        if request.query.get("alt") == ["media"]:
            return media(request, found)
        return answer(request, object_form(request, bucket, found))

    def _update(self, request: Request, bucket_name: str, name: str) -> Response:
        bucket = self._store.find(bucket_name)
        found = bucket.find(name, number(request, "generation"))
        conditions(request).check(found, reading=False)
        found.update(json_of(request.body), replace=request.method == "PUT", default=bucket.fields["storageClass"])
        return answer(request, object_form(request, bucket, found))

    def _delete(self, request: Request, bucket_name: str, name: str) -> Response:
        bucket = self._store.find(bucket_name)
        found = bucket.find(name, number(request, "generation"))
        conditions(request).check(found, reading=False)
        bucket.remove(found.name)
        return Response(204)

    # uploads

    def _upload(self, request: Request, bucket_name: str) -> Response:
        bucket = self._store.find(bucket_name)
        kind = request.query.get("uploadType", [""])[0]
        body, asked = b"", dict[str, Any]()
        if kind == "media":
            body, asked = request.body, {"contentType": request.headers.get("content-type", "application/octet-stream")}
        elif kind == "multipart":
            asked, body = related(request.headers.get("content-type", ""), request.body)
        elif kind == "resumable":
            asked = {"contentType": request.headers.get("x-upload-content-type", "application/octet-stream")} | json_of(request.body)
        else:
            raise invalid(f"Invalid value for uploadType: {kind!r}")
        name = request.query.get("name", [asked.get("name")])[0]
        if not isinstance(name, str):
            raise invalid("Required parameter: name")
        if kind == "resumable":
            size = request.headers.get("x-upload-content-length")
            if size is not None and not re.fullmatch(r"\d{1,19}", size):
                raise invalid(f"Invalid value for X-Upload-Content-Length: {size!r}")
            whole = int(size) if size is not None else None
            key = self._sessions.begin(bucket, name, asked, header_sums(request), whole, conditions(request))
            address = f"{base(request)}/upload/storage/v1/b/{bucket_name}/o?uploadType=resumable&upload_id={key}"
            return Response(200, b"", {"Location": address, "X-GUploader-UploadID": key})
        if len(body) > self._max_bytes:
            raise ServiceError(413, f"An object of {len(body)} bytes: expected at most {self._max_bytes}.")
        made = bucket.put(name, body, asked, [header_sums(request)], conditions(request))
        return answer(request, object_form(request, bucket, made))

    def _resume(self, request: Request, bucket_name: str) -> Response:
        bucket, key = self._store.find(bucket_name), request.query.get("upload_id", [""])[0]
        session = self._sessions.take(bucket, key, request.headers.get("content-range"), request.body, header_sums(request))
        if session.made:
            return answer(request, object_form(request, bucket, session.made))
        kept = {"Range": f"bytes=0-{len(session.body) - 1}"} if session.body else {}
        return Response(308, b"", {"X-GUploader-UploadID": key, **kept})

    def _cancel(self, request: Request, bucket_name: str) -> Response:
        self._sessions.cancel(self._store.find(bucket_name), request.query.get("upload_id", [""])[0])
        return Response(499)


def _known(operation: Operation, request: Request) -> None:
    """Raise `ServiceError` for an unsupported part of the request that would change the answer. A false flag counts as missing."""
    known = operation.parameters | PARAMETERS_ANYWHERE
    for name, values in request.query.items():
        if name not in known and not (name in FLAGS_REFUSED and [value.lower() for value in values] == ["false"]):
            raise ServiceError(501, f"parameter {name} of {operation.name} is not implemented by the local Cloud Storage")
    for name in request.headers:
        if controls(name) and name not in operation.headers:
            raise ServiceError(501, f"header {name} of {operation.name} is not implemented by the local Cloud Storage")
    if request.query.get("alt", ["json"])[0] not in ("json", "media" if operation.name == "get" else "json"):
        raise invalid(f"Invalid value for alt of {operation.name}: {request.query['alt'][0]!r}")


def _some(**fields: Any) -> dict[str, Any]:
    """The fields that are not empty: the service leaves out the others."""
    return {name: value for name, value in fields.items() if value}
