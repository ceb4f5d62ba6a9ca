"""Proxies: the clouds are reached by them, this machine never is, and one that is no proxy is named without its password."""

from __future__ import annotations

import os
import socket
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsd_conformance import emulators
from fsd_core import providers, run
from fsd_core.driver import WORKER, Code, InvokeLimits
from fsd_core.errors import InputError
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.providers.http_invoke import HttpInvoker
from fsd_core.providers.proxies import LOCAL, keep_local, local_only, proxy_for, shown
from waiting import until

NAMES = [each for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY", "NO_PROXY") for each in (name, name.lower())]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what a test leads to is taken back
        monkeypatch.delenv(name)


class Recorder:
    """A proxy that notes what it is asked for, and by whom, and refuses."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://me:p%40ss@127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError):
                    connection.settimeout(30)
                    head = b""
                    while b"\r\n\r\n" not in head and (part := connection.recv(65536)):
                        head += part
                    lines = head.decode("latin-1").split("\r\n")
                    known = next((b64decode(line.split()[-1]).decode() for line in lines if line.lower().startswith("proxy-auth")), "")
                    self.seen.append((" ".join(lines[0].split()[:2]), known))
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with closing(Recorder()) as made:
        yield made


# by a proxy to the clouds


def aws() -> None:
    from fsd_aws.clients import client

    client("sqs", "eu-west-1").list_queues()


def google() -> None:
    from fsd_gcp.objects import client

    with closing(client()) as storage:
        storage._http._sign = lambda _: {}
        storage.get_bucket("x", retry=None)


def pubsub() -> None:
    from google.pubsub_v1 import types

    from fsd_gcp.pubsub import Pubsub

    with closing(Pubsub()) as service:
        service._sign = lambda _: {}
        service.ask(service.publisher.publish, types.PublishRequest.pb()(topic="projects/p/topics/t"), "topic")


def azure() -> None:
    from fsd_azure.clients import container

    container("", "things").get_container_properties()


def launch() -> None:
    limits = InvokeLimits(1 << 20, 1, None, 5.0, "", "")
    invoker = HttpInvoker(["https://function.example/run"], dict, limits, lambda _: Code.UNAVAILABLE)
    launched = invoker.invoke(WORKER, b"{}")
    until(launched.ended.is_set)
    assert launched.code is Code.UNAVAILABLE


CLOUDS: list[tuple[Callable[[], None], str]] = [
    (aws, "sqs.eu-west-1.amazonaws.com:443"),
    (google, "storage.googleapis.com:443"),
    (pubsub, "pubsub.googleapis.com:443"),
    (azure, "acc.blob.core.windows.net:443"),
    (launch, "function.example:443"),
]


WAYS = [
    pytest.param(variable, ask, host, id=f"{ask.__name__}-{variable}")
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")
    for ask, host in CLOUDS
    if (ask, variable) != (aws, "ALL_PROXY")  # which botocore does not know: docs/how-to-aws.md says so
]


@pytest.mark.parametrize(("variable", "ask", "host"), WAYS)
def test_each_way_to_a_cloud_goes_by_the_proxy(
    variable: str, ask: Callable[[], None], host: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, recorder.url)
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.windows.net")
    with suppress(Exception):  # it is refused, with errors of several classes
        ask()
    assert set(recorder.seen) == {(f"CONNECT {host}", "me:p@ss")}


@pytest.mark.parametrize("ask", [google, azure, launch, aws], ids=lambda each: each.__name__)
def test_hosts_of_no_proxy_are_left_to_the_network(ask: Callable[[], None], recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", recorder.url)
    monkeypatch.setenv("NO_PROXY", ".googleapis.com,.windows.net,function.example,amazonaws.com")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.windows.net")
    monkeypatch.setattr(socket, "getaddrinfo", _nobody)
    with suppress(Exception, AssertionError):
        ask()
    assert recorder.seen == []


def test_grpc_is_told_what_the_others_know(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsd_gcp.pubsub import _by_proxy

    assert _by_proxy() == (("grpc.enable_http_proxy", 0),)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pw@proxy.example:1")
    assert _by_proxy() == (("grpc.http_proxy", "http://me:pw@proxy.example:1"),)
    monkeypatch.setenv("NO_PROXY", "pubsub.googleapis.com")
    assert _by_proxy() == (("grpc.enable_http_proxy", 0),)
    monkeypatch.setenv("grpc_proxy", "http://proxy.example:2")  # its own, which it reads itself
    assert _by_proxy() == ()


def _nobody(*_: Any, **__: Any) -> list[Any]:
    raise socket.gaierror(socket.EAI_NONAME, "nobody is asked in this test")


# none before this machine


@pytest.mark.emulator
@pytest.mark.timeout(240)
@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_an_emulator_and_its_functions_are_reached_without_the_proxy(cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = emulators.find(cloud)
    found.install(lambda text: None)  # which may go by a proxy, if one is set
    for name in NAMES:
        monkeypatch.setenv(name, "corp.example" if name.lower() == "no_proxy" else NOWHERE)
    model, inputs = radixnet(1024, 2), open_inputs("random:6:0.4:1", 1024)
    with emulators.own(found) as emulator:
        result = run(model, inputs, provider=cloud, workers=2, partition="block", settings=emulator.settings, home=tmp_path, timeout=150)
        assert os.environ["NO_PROXY"].split(",")[0] == os.environ["no_proxy"].split(",")[0] == "corp.example"
    assert os.environ["HTTPS_PROXY"] == NOWHERE
    np.testing.assert_allclose(result.output.toarray(), serial(model, inputs).toarray(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("host", ["127.0.0.1:4566", "localhost", "[::1]:80", "169.254.169.254", "metadata.google.internal"])
def test_this_machine_and_metadata_have_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)
    assert proxy_for(f"http://{host}/x") is None
    assert proxy_for("http://example.com/x") is not None


def test_sdks_are_told_so_once_a_provider_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    providers.find("local")
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("https_proxy", NOWHERE)
    monkeypatch.setenv("NO_PROXY", "corp.example")
    providers.find("local")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == ",".join(["corp.example", *LOCAL])


def test_what_no_proxy_has_stays() -> None:
    both = {"NO_PROXY": "a, b", "no_proxy": "c"}
    assert local_only(both)["no_proxy"].split(",")[:3] == ["c", "a", "b"]
    assert both == {"NO_PROXY": "a, b", "no_proxy": "c"}
    everything = {"no_proxy": "*", "HTTPS_PROXY": NOWHERE}
    keep_local(everything)
    assert everything == {"no_proxy": "*", "HTTPS_PROXY": NOWHERE}
    again = local_only({})
    assert local_only(again) == again


# what is no proxy


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("socks5://me:secret@host:1080", "HTTPS_PROXY=socks5://host:1080: expected http://HOST:PORT"),
        ("http://me:secret@host:port", "HTTPS_PROXY=http://host:port: expected"),
        ("http://me:sec/ret@host:x", "HTTPS_PROXY=http://host:x: expected"),
        ("https://host:1", "HTTPS_PROXY=https://host:1: expected"),
        ("http://", "HTTPS_PROXY=http://: expected"),
    ],
)
def test_what_is_no_proxy_is_named_without_its_password(value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(InputError) as caught:
        proxy_for("https://example.com")
    assert str(caught.value).startswith(says)
    assert "sec" not in str(caught.value)


def test_a_proxy_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "http://other.example")
    found, other = proxy_for("https://example.com"), proxy_for("http://example.com")
    assert found is not None
    assert other is not None
    assert (found.url, found.headers, other.url) == ("http://proxy.example:3128", {}, "http://other.example:80")
    assert shown("https://me:pw@host/path?sig=x") == "https://host/path"
    assert shown("host:1") == "host:1"
