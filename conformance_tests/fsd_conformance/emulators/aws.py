"""What the emulators of AWS share: the local Lambda beside them, and how a client is pointed at both."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fsd_conformance.emulators.emulator import Emulator
from fsd_conformance.emulators.install import packages
from fsd_conformance.emulators.process import Guard, Server

__all__ = ["Aws"]


class _Lambda(Server):
    name = "lambda"
    health = "/2016-08-19/account-settings/"

    def __init__(self, folder: Path, guard: Guard | None, arguments: Sequence[str], env: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(folder, guard)
        self._arguments = arguments
        self._env = env

    def command(self) -> Sequence[str]:
        home = self.folder / "functions"  # their logs
        return [sys.executable, "-m", "fsd_conformance.emulators.lambda_", "--port", str(self.port), "--home", str(home), *self._arguments]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self._env()}  # its functions are clients of the other services


class Aws(Emulator):
    """One server for queues, topics and objects, and ours for functions."""

    clears = ("AWS_",)
    settings: ClassVar[Mapping[str, object]] = {"package": False}  # functions run what is installed here
    service: ClassVar[type[Server]]
    functions: ClassVar[Sequence[str]] = ()  # arguments of the local Lambda

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
            "AWS_CONFIG_FILE": os.devnull,  # a profile may name endpoints and credentials of its own
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """The SDK, moto and Lambda's runtime client, where this interpreter lacks them."""
        packages(("aws", "emulators"), tell)
