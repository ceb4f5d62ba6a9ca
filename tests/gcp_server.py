"""Google's Pub/Sub emulator and the local Cloud Storage for the tests of `fsd_gcp`, and an app made by hand."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from fsd_conformance.emulators import pubsub
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.google import CloudStorage
from fsd_conformance.emulators.process import POINTERS, Server, started
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError
from fsd_core.providers.addresses import address
from fsd_core.providers.names import new_generation
from fsd_gcp import names
from fsd_gcp.api import Api
from fsd_gcp.clients import Session

PROJECT = "test-project"


class Rest(Api):
    """Of Pub/Sub and Cloud Storage too, whose state tests look at, and change, by other ways than the adapter's."""

    def service(self, name: str) -> Session:
        emulator = {"pubsub": "PUBSUB_EMULATOR_HOST", "storage": "STORAGE_EMULATOR_HOST"}.get(name)
        if emulator and name not in self._sessions:
            self._sessions[name] = Session(address(emulator, bare=True), signed=False)
            self.closing.callback(self._sessions[name].close)
        return super().service(name)

    def pages(self, service: str, path: str, items: str) -> Iterator[dict[str, Any]]:
        """The ``items`` of all pages."""
        query = {"pageSize": "1000"}
        while True:
            answer = self.call(service, "GET", path, **query)
            yield from answer.get(items, ())
            if not answer.get("nextPageToken"):
                return
            query["pageToken"] = answer["nextPageToken"]


def env(**pointers: str) -> Mapping[str, str]:
    return {**pointers, "GOOGLE_CLOUD_PROJECT": PROJECT, "CLOUDSDK_CONFIG": "/nowhere", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def running(kind: type[Server], client: Callable[[Server], Mapping[str, str]]) -> Iterator[Server]:
    """Within the block a server runs, and this process is its client by the variables of ``client``."""
    with TemporaryDirectory() as folder:
        server = started(lambda: kind(Path(folder)))
        try:
            with pointed(env(**client(server)), POINTERS["gcp"]):
                yield server
        finally:
            server.stop()


@contextmanager
def messages() -> Iterator[Server]:
    """Google's emulator; where it is not, a skip that says how to get it, and a failure where CI is true."""
    try:
        pubsub.check()
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with running(pubsub.PubSub, lambda server: {pubsub.HOST: f"127.0.0.1:{server.port}"}) as server:
        yield server


@contextmanager
def storage() -> Iterator[Server]:
    """The local Cloud Storage."""
    with running(CloudStorage, lambda server: {"STORAGE_EMULATOR_HOST": server.url}) as server:
        yield server


def app(ranks: int = 3, slots: int = 2, **settings: str) -> Resources:
    """An app that no other test uses, on those of the servers that run."""
    name = f"t-{secrets.token_hex(4)}"
    told = {"project": PROJECT, "generation": new_generation(), "lease_s": "10", "bucket": names.bucket(name, PROJECT)}
    made = Resources(name, ranks, slots, told | settings)
    if "PUBSUB_EMULATOR_HOST" in os.environ:
        at = f"http://{os.environ['PUBSUB_EMULATOR_HOST']}"
        for topic, subscription in names.Names.of(made).queues(ranks, slots):
            ask(at, "PUT", f"/v1/{topic}", {})
            ask(at, "PUT", f"/v1/{subscription}", {"topic": topic, "ackDeadlineSeconds": int(told["lease_s"])})
    if "STORAGE_EMULATOR_HOST" in os.environ:
        ask(os.environ["STORAGE_EMULATOR_HOST"], "POST", f"/storage/v1/b?project={PROJECT}", {"name": told["bucket"]})
    return made


def ask(url: str, method: str, path: str, body: object) -> None:
    """One request of JSON."""
    with Session(url, signed=False) as session:
        session.request(method, path, json=body)


def code_of(driver: object, request: object, *arguments: object, **named: object) -> Code:
    """The code of what a request raises, as its driver sees it."""
    try:
        request(*arguments, **named)  # type: ignore[operator]
    except Exception as error:
        return driver.classify(error)  # type: ignore[attr-defined,no-any-return]
    raise AssertionError("nothing was raised")
