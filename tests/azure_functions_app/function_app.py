"""A function app for the tests of the local Functions host: the request says what to do."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import Any

import azure.functions as func

from behaviour import behave

CALLS = 0

if os.environ.get("BROKEN"):
    raise RuntimeError("broken on purpose")

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)

if os.environ.get("TIMER"):

    @app.timer_trigger(schedule="0 0 * * * *", arg_name="timer")
    def hourly(timer: func.TimerRequest) -> None:
        logging.info("%s", timer)


@app.route(route="worker", methods=["POST"])
def worker(req: func.HttpRequest) -> func.HttpResponse:
    global CALLS
    CALLS += 1
    event = json.loads(req.get_body() or b"{}") if len(req.get_body()) < 1 << 20 else {}
    behave(event)
    if event.get("do") == "environment":
        return _json(dict(os.environ))
    return _json(
        {
            "event": event,
            "bytes": len(req.get_body()),
            "pid": os.getpid(),
            "calls": CALLS,
            "type": type(req).__module__,
            "method": req.method,
            "url": req.url,
            "headers": dict(req.headers),
            "params": dict(req.params),
            "thread": threading.current_thread() is threading.main_thread(),
        }
    )


@app.route(route="items/{item}/{*rest}", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def item(req: func.HttpRequest, context: func.Context) -> str:
    return f"{context.function_name} {dict(req.route_params)}"


@app.route(auth_level=func.AuthLevel.ADMIN)
def status(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(req.method, status_code=418, headers={"X-Kind": "teapot"})


def _json(value: Any) -> func.HttpResponse:
    return func.HttpResponse(json.dumps(value), mimetype="application/json")
