"""The entry point that Azure calls: ``app``, in ``function_app.py`` at the root of the package, has one function, ``worker``."""

from __future__ import annotations

import json

import azure.functions as func

from fsd_azure import PROVIDER, invoke, messages, objects  # noqa: F401  # imported while the instance starts, opened by the worker
from fsd_core.providers.http_invoke import NONCE
from fsd_core.worker import handle

__all__ = ["app", "worker"]

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


@app.function_name("worker")
@app.route(route="worker", methods=["POST"])
def worker(req: func.HttpRequest) -> func.HttpResponse:
    """Run one launch: the body is its payload. A code other than 0 has been reported to client and peers, so it is no error here."""
    code = handle(req.get_body(), PROVIDER, nonce=req.headers.get(NONCE))
    return func.HttpResponse(json.dumps({"code": code}), mimetype="application/json")
