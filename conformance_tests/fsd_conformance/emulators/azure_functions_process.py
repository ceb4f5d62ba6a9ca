"""An instance of the local Functions host: ``azure_functions_process.py FOLDER`` serves FOLDER/function_app.py on the inherited socket.

Like the platform's Python worker it indexes the module's only `FunctionApp`, and gives each call an `azure.functions.HttpRequest` from the
SDK's converter. A synchronous function runs in a second thread, a coroutine in an event loop. It needs azure-functions only. The
dispatcher's requests are GET /index for the list of functions, and POST /call/NAME for one call, which headers describe.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import socket
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import azure.functions as func
from azure.functions.decorators.function_app import Function, FunctionRegister
from azure.functions.http import HttpRequestConverter, HttpResponseConverter
from azure.functions.meta import Datum

__all__: list[str] = []

_LISTENER = 3


class Unfit(Exception):
    """The app cannot run here; the text is one line."""


class Context(func.Context):
    """The value of a function's parameter ``context``."""

    def __init__(self, name: str, folder: str) -> None:
        self._name, self._folder = name, folder
        self._invocation = str(uuid4())
        self._local = threading.local()
        self._local.invocation_id = self._invocation

    invocation_id = property(lambda self: self._invocation)
    thread_local_storage = property(lambda self: self._local)
    function_name = property(lambda self: self._name)
    function_directory = property(lambda self: self._folder)
    trace_context = property(lambda self: None)
    retry_context = property(lambda self: None)


def load(folder: str) -> dict[str, Function]:
    """The functions of the app in ``folder`` by name. Raises `Unfit` where the platform or this process cannot run the app."""
    sys.path[:0] = [each for each in (folder, os.path.join(folder, ".python_packages/lib/site-packages")) if os.path.isdir(each)]
    module = importlib.import_module("function_app")
    apps = {id(value): value for value in vars(module).values() if isinstance(value, FunctionRegister)}
    if len(apps) != 1:
        raise Unfit(f"function_app.py: {len(apps)} instances of FunctionApp: expected one")
    [app] = apps.values()
    functions = {str(each.get_function_name()): each for each in app.get_functions()}
    if not functions:
        raise Unfit("function_app.py: no functions")
    for name, function in functions.items():
        _check(name, function)
    return functions


def _check(name: str, function: Function) -> None:
    bindings = json.loads(function.get_function_json())["bindings"]
    kinds = {binding["type"] for binding in bindings}
    if kinds != {"httpTrigger", "http"}:
        strange = ", ".join(sorted(kinds - {"httpTrigger", "http"})) or "no HTTP output"
        raise Unfit(f"function {name}: {strange}: only HTTP triggers are implemented here")
    if function.get_settings_dict("retry_policy"):
        raise Unfit(f"function {name}: a retry policy is not implemented here")
    taken = set(inspect.signature(function.get_user_function()).parameters) - {"context"}
    given = {binding["name"] for binding in bindings if binding["name"] != "$return"}
    if taken != given:
        raise Unfit(f"function {name}: its parameters are {sorted(taken)}, its bindings {sorted(given)}")


def described(function: Function) -> dict[str, Any]:
    """The description of a function for the dispatcher. ``methods``: empty means all."""
    bindings = json.loads(function.get_function_json())["bindings"]
    [trigger] = [binding for binding in bindings if binding["type"] == "httpTrigger"]
    name = str(function.get_function_name())
    return {
        "name": name,
        "trigger": trigger["type"],
        "route": trigger.get("route") or name,
        "methods": [str(method).upper() for method in trigger.get("methods") or ()],
        "level": str(trigger.get("authLevel") or "FUNCTION").upper(),
        "config": {"scriptFile": "function_app.py", "language": "python", "bindings": bindings},
    }


class Handler(BaseHTTPRequestHandler):
    """Answers one request of the dispatcher."""

    functions: ClassVar[dict[str, Function]]
    folder: ClassVar[str]
    threads = ThreadPoolExecutor(1, thread_name_prefix="ThreadPoolExecutor-0")

    def do_GET(self) -> None:
        self._answer(200, json.dumps([described(each) for each in self.functions.values()]).encode(), {"Content-Type": "application/json"})

    def do_POST(self) -> None:
        name = self.path.rpartition("/")[2]
        call = json.loads(self.headers["x-fsd-call"])
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts: dict[str, Any] = {key: {n: Datum(v, "string") for n, v in call[key].items()} for key in ("headers", "query", "params")}
        parts |= {"method": Datum(call["method"], "string"), "url": Datum(call["url"], "string"), "body": Datum(body, "bytes")}
        try:
            self._answer(*self._run(self.functions[name], HttpRequestConverter.decode(Datum(parts, "http"), trigger_metadata=None)))
        except Exception:
            traceback.print_exc()  # the platform does not send it to the caller
            self._answer(500, b"", {})

    def _run(self, function: Function, request: Any) -> tuple[int, bytes, dict[str, str]]:
        """Run one call, and return its status, body and headers."""
        call = function.get_user_function()
        trigger = function.get_trigger()
        assert trigger is not None
        named = {trigger.name: request}
        if "context" in inspect.signature(call).parameters:
            named["context"] = Context(str(function.get_function_name()), self.folder)
        if inspect.iscoroutinefunction(call):
            result = asyncio.run(call(**named))
        else:
            result = self.threads.submit(call, **named).result()
        if result is None:
            return 204, b"", {}
        datum = HttpResponseConverter.encode(result, expected_type=None)
        if datum.type == "string":
            return 200, datum.value.encode(), {"Content-Type": "text/plain; charset=utf-8"}
        value = datum.value
        return int(value["status_code"].value), value["body"].value, {name: each.value for name, each in value["headers"].items()}

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log no requests: the log holds only the function's output."""


class Server(HTTPServer):
    """Serves on the socket that the parent of the instances bound."""

    request_queue_size = 16

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=_LISTENER)
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections without a request: the dispatcher only checked that this server listens, or the dispatcher has ended."""


if __name__ == "__main__":
    Handler.folder = str(Path(sys.argv[1]))
    Handler.functions = load(Handler.folder)
    Server().serve_forever()
