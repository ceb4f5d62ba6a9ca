"""What was asked of Azure within a block: every request of the provisioner and every launch, in their order; and answers made up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from azure.core.rest import HttpRequest

from fsd_azure import api, invoke


@dataclass(frozen=True)
class Call:
    """One request. ``path`` begins after the resource group."""

    method: str
    path: str


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The Resource Manager's requests of this process within the block, as they are made; launches are "LAUNCH"."""
    calls: list[Call] = []
    launch = invoke.AzureInvoker.invoke

    def asked(method: str, url: str, **more: Any) -> HttpRequest:
        calls.append(Call(method, api._short("/" + url.partition("://")[2].partition("/")[2])))
        return HttpRequest(method, url, **more)

    def launched(self: Any, function: str, payload: bytes) -> Any:
        calls.append(Call("LAUNCH", self.native().rpartition("/")[2]))
        return launch(self, function, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "HttpRequest", asked)
        patch.setattr(invoke.AzureInvoker, "invoke", launched)
        yield calls


@dataclass(frozen=True)
class Canned:
    """One answer of `answering`."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def answering(answers: Callable[[str, str], Canned]) -> Iterator[str]:
    """A server, by its host:port, whose answer to each method and path is what ``answers`` says then."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = answers(self.command, self.path)
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body.encode())

        do_GET = do_PUT = do_DELETE = do_POST = do

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
