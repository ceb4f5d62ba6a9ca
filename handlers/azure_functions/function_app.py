"""The entry point that Azure calls: ``app``, in ``function_app.py`` at the root of the package, with one function, ``worker``."""

from __future__ import annotations

import json

import azure.functions as func

from fsd_azure import PROVIDER, invoke, messages, objects  # noqa: F401  # imported at the cold start; the worker connects
from fsd_core.providers.http_invoke import NONCE
from fsd_core.worker import handle

__all__ = ["app", "worker"]

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


@app.function_name("worker")
@app.route(route="worker", methods=["POST"])
def worker(req: func.HttpRequest) -> func.HttpResponse:
    """Run one launch with the request's body as payload. A failed worker itself informs the client and the other workers, so the answer is
    200.
    """
    code = handle(req.get_body(), PROVIDER, nonce=req.headers.get(NONCE))
    return func.HttpResponse(json.dumps({"code": code}), mimetype="application/json")
