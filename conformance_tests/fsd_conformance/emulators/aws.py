"""The common part of AWS's emulators: the local Lambda, the environment variables of clients, and a watch on a client's requests."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from fsd_conformance.emulators.emulator import Emulator, pointed
from fsd_conformance.emulators.install import packages
from fsd_conformance.emulators.process import POINTERS, Guard, Server
from fsd_conformance.emulators.proxy import Proxy, Request, See
from fsd_core.providers.proxies import local_only

__all__ = ["Aws", "operation", "watched"]


class _Lambda(Server):
    name = "lambda"
    health = "/2016-08-19/account-settings/"

    def __init__(self, folder: Path, guard: Guard | None, arguments: Sequence[str], env: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(folder, guard)
        self._arguments = arguments
        self._env = env

    def command(self) -> Sequence[str]:
        home = self.folder / "functions"  # of the functions' logs
        return [sys.executable, "-m", "fsd_conformance.emulators.lambda_", "--port", str(self.port), "--home", str(home), *self._arguments]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self._env()}  # its functions use the other services


class Aws(Emulator):
    """One server for queues, topics and objects, and this project's Lambda for functions."""

    clears = POINTERS["aws"]
    settings: ClassVar[Mapping[str, object]] = {"package": False}  # functions run the code that is installed here
    service: ClassVar[type[Server]]
    functions: ClassVar[Sequence[str]] = ()  # flags of the local Lambda

    def __init__(self, folder: Path, guard: Guard | None = None) -> None:
        service = self.service(folder, guard)
        functions = _Lambda(folder, guard, self.functions, lambda: self.env)
        self.servers = (service, functions)
        self.env = {
            "AWS_ENDPOINT_URL": service.url,
            "AWS_ENDPOINT_URL_LAMBDA": functions.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,  # the user's profile may name other endpoints and credentials
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **local_only(os.environ),
        }

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Install the SDK, moto and Lambda's runtime client where they are missing."""
        packages(("aws", "emulators"), tell)


def operation(request: Request) -> str:
    """The service and the operation of a request, like ``sqs:ReceiveMessage``; for operations that no run uses, only the HTTP method."""
    signed = request.headers.get("authorization", "").partition("Credential=")[2].split("/", 4)  # key/date/region/service/...
    service = signed[3] if len(signed) == 5 else "?"
    url = urlsplit(request.path)
    name = request.method
    if target := request.headers.get("x-amz-target"):  # AmazonSQS.ReceiveMessage
        name = target.rpartition(".")[2]
    elif request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        name = parse_qs(request.body.decode())["Action"][0]
    elif service == "lambda" and url.path.endswith("/invocations"):
        name = "Invoke"
    elif service == "s3" and "list-type=2" in url.query.split("&"):
        name = "ListObjectsV2"
    elif service == "s3" and "/" in url.path.strip("/"):  # bucket/key
        name = {"GET": "GetObject", "PUT": "PutObject"}.get(name, name)
    return f"{service}:{name}"


@contextlib.contextmanager
def watched(running: Aws, see: See) -> Iterator[None]:
    """Within the block this process and its functions use a running emulator through proxies that call ``see``.

    Functions run in a new local Lambda: an app must be deployed inside the block.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="fsd-watched-")))
        guard = Guard(folder)
        stack.callback(guard.end)
        functions = _Lambda(folder, guard, running.functions, lambda: env)
        services, invokes = (stack.enter_context(contextlib.closing(Proxy(url, see))) for url in (running.servers[0].url, functions.url))
        env = {**running.env, "AWS_ENDPOINT_URL": services.url, "AWS_ENDPOINT_URL_LAMBDA": invokes.url}
        stack.callback(functions.stop)
        functions.start()
        with pointed(env, running.clears):
            yield
