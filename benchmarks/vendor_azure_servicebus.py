"""A pytest plugin for the vendor's tests of azure-servicebus: it starts our stand-in, which takes the place of an Azure subscription.

The tests request resources with decorators from modules that Microsoft does not publish. This plugin provides these modules; their
decorators make queues through the administration API of the stand-in, and take topics from its configuration file. The SDK connects to the
ports of the stand-in without TLS, and is unmodified otherwise. `vendor_suites` runs this plugin.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusClient
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from azure.servicebus.aio import ServiceBusClient as AioClient
from azure.servicebus.aio._transport._pyamqp_transport_async import PyamqpTransportAsync
from azure.servicebus.management import ServiceBusAdministrationClient

from fsd_conformance.emulators.process import Guard
from fsd_conformance.emulators.service_bus.config import FOREVER
from fsd_conformance.emulators.service_bus.server import ServiceBusServer

TOPICS = 60  # for each test process
_LIFE = {"DefaultMessageTimeToLive": FOREVER, "MaxDeliveryCount": 10}


class Standin(ServiceBusServer):
    """The stand-in with topics, each of which has a subscription s."""

    def command(self) -> list[str]:
        """The command of the server; its configuration file gets the topics."""
        command = [*super().command()]
        file = self.folder / "Config.json"
        config = json.loads(file.read_text())
        subscription = {"Name": "s", "Properties": _LIFE}
        config["UserConfig"]["Namespaces"][0]["Topics"] = [
            {"Name": f"topic{number}", "Properties": {"DefaultMessageTimeToLive": FOREVER}, "Subscriptions": [subscription]}
            for number in range(TOPICS)
        ]
        file.write_text(json.dumps(config))
        return command


class Credential:
    """A credential for the stand-in, which checks no tokens."""

    def get_token(self, *scopes: str, **more: object) -> AccessToken:
        """One that lasts."""
        return AccessToken("token", int(time.time()) + 3600)


class AioCredential:
    """The same for asynchronous clients."""

    async def get_token(self, *scopes: str, **more: object) -> AccessToken:
        """One that lasts."""
        return AccessToken("token", int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> AioCredential:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Nothing is open."""


topics = itertools.count()
KEY = "RootManageSharedAccessKey"


def connection_string(more: str = "") -> str:
    """The connection string of the stand-in, in the form that the service gives for a key; ``more`` is appended."""
    return f"Endpoint=sb://127.0.0.1:{amqp()};SharedAccessKeyName={KEY};SharedAccessKey=none;UseDevelopmentEmulator=true{more}"


def amqp() -> int:
    """The AMQP port of the stand-in."""
    return next(iter(server.ports.values()))[0]


class Plain(RequestsTransport):  # type: ignore[misc]
    """A transport that sends requests of the administration API to the stand-in's port for them, without TLS."""

    def send(self, request: Any, **more: Any) -> Any:
        """Send one request."""
        request.url = re.sub(r"^https://127\.0\.0\.1(:\d+)?", f"http://127.0.0.1:{server.port}", request.url)
        return super().send(request, **more)


def always(kind: Any, given: Callable[[], Mapping[str, Any]]) -> None:
    """Make every client of class ``kind`` with the arguments that ``given`` returns; they override those of a test."""
    made = kind.__init__

    @functools.wraps(made)
    def init(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **{**named, **given()})

    kind.__init__ = init


# The resources that the decorators give.


def queue(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A new queue for each test, with the settings of its decorator. If the stand-in refuses one, the test fails."""
    name = f"q{uuid.uuid4().hex[:12]}"
    wanted = {key: value for key, value in settings.items() if key in _QUEUE}
    with ServiceBusAdministrationClient.from_connection_string(connection_string(), retry_total=0) as admin:
        admin.create_queue(name, **wanted)
    return {"servicebus_queue": SimpleNamespace(name=name, id=name)}


def topic(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The next unused topic."""
    number = next(topics)
    assert number < TOPICS, f"the tests use more than {TOPICS} topics: increase TOPICS"
    name = f"topic{number}"
    return {"servicebus_topic": SimpleNamespace(name=name, id=name)}


def subscription(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The subscription of the topic."""
    if settings.get("requires_session"):
        raise NotImplementedError("sessions are not implemented here")
    if settings.get("lock_duration", "PT60S") != "PT60S":
        raise NotImplementedError("a subscription with another lock duration is not implemented here")
    return {"servicebus_subscription": SimpleNamespace(name="s", id="s")}


def namespace(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The only namespace of the stand-in."""
    name = "servicebus_namespace"
    given = {name: SimpleNamespace(name="127.0.0.1", id="n"), f"{name}_connection_string": connection_string()}
    return {**given, f"{name}_key_name": KEY, f"{name}_primary_key": "none"}


def rule(name: str, entity: bool) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """An authorization rule, which is a name and a key; the stand-in checks neither."""

    def give(settings: Mapping[str, Any]) -> Mapping[str, Any]:
        path = f";EntityPath={settings['servicebus_queue'].name}" if entity else ""
        return {name: SimpleNamespace(name=KEY), f"{name}_connection_string": connection_string(path)}

    return give


def environment(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values that a setup script of the vendor provides."""
    return {
        "servicebus_connection_str": connection_string(),
        "servicebus_fully_qualified_namespace": f"127.0.0.1:{amqp()}",
        "servicebus_sas_policy": KEY,
        "servicebus_sas_key": "none",
    }


_QUEUE = {
    "lock_duration",
    "requires_duplicate_detection",
    "dead_lettering_on_message_expiration",
    "requires_session",
    "enable_partitioning",
}


class Preparer:
    """A decorator that gives a test the resources that its parameters name."""

    def __init__(self, give: Callable[[Mapping[str, Any]], Mapping[str, Any]], names: tuple[str, ...]) -> None:
        self._give, self._names = give, names

    def __call__(self, *given: Any, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """The decorator with these settings."""

        def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(test)
            whatever = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())

            def found(named: Mapping[str, Any]) -> dict[str, Any]:
                made = self._give({**settings, **named})
                if name := settings.get("parameter_name"):  # a second resource of the same kind
                    made = {name: next(iter(made.values()))}
                return {**named, **{name: each for name, each in made.items() if whatever or name in signature.parameters}}

            if inspect.iscoroutinefunction(test):

                @functools.wraps(test)
                async def later(case: Any, **named: Any) -> Any:
                    return await test(case, **found(named))

                wrapper: Callable[..., Any] = later
            else:

                @functools.wraps(test)
                def now(case: Any, **named: Any) -> Any:
                    return test(case, **found(named))

                wrapper = now
            given_here = {*self._names, settings.get("parameter_name")}  # pytest has no fixtures for them
            kept = [each for name, each in signature.parameters.items() if name not in given_here]
            wrapper.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
            return wrapper

        return decorate


def module(name: str, **members: Any) -> None:
    """Make a module of this name and these members, which the tests can import."""
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made


def make_modules() -> None:
    """Make the modules that the tests import, and have the SDK connect to the stand-in."""
    for kind in (ServiceBusClient, AioClient):
        always(kind, lambda: {"use_tls": False})
    always(ServiceBusAdministrationClient, lambda: {"transport": Plain(use_env_settings=False)})
    group = Preparer(lambda settings: {"resource_group": SimpleNamespace(name="g")}, ("resource_group", "location"))
    case = type("AzureRecordedTestCase", (), {"is_live": True, "await_prepared_test": staticmethod(same)})
    module(
        "devtools_testutils",
        AzureMgmtRecordedTestCase=case,
        AzureRecordedTestCase=case,
        CachedResourceGroupPreparer=group,
        PowerShellPreparer=Preparer(environment, tuple(environment({}))),
        RandomNameResourceGroupPreparer=group,
        get_credential=lambda is_async=False, **named: AioCredential() if is_async else Credential(),
        recorded_by_proxy=same,
        set_custom_default_matcher=nothing,
    )
    module("devtools_testutils.aio", recorded_by_proxy_async=same)
    names = ("add_remove_header_sanitizer", "add_general_regex_sanitizer", "add_oauth_response_sanitizer")
    module("devtools_testutils.sanitizers", **dict.fromkeys(names, nothing))
    one, other = "servicebus_authorization_rule", "servicebus_queue_authorization_rule"
    kinds = {
        "ServiceBusResourceGroupPreparer": group,
        "ServiceBusNamespacePreparer": Preparer(namespace, tuple(namespace({}))),
        "ServiceBusQueuePreparer": Preparer(queue, ("servicebus_queue",)),
        "ServiceBusTopicPreparer": Preparer(topic, ("servicebus_topic",)),
        "ServiceBusSubscriptionPreparer": Preparer(subscription, ("servicebus_subscription",)),
        "ServiceBusNamespaceAuthorizationRulePreparer": Preparer(rule(one, False), (one, f"{one}_connection_string")),
        "ServiceBusQueueAuthorizationRulePreparer": Preparer(rule(other, True), (other, f"{other}_connection_string")),
    }
    cached = {f"Cached{name}": kind for name, kind in kinds.items()}
    module("servicebus_preparer", SERVICEBUS_ENDPOINT_SUFFIX=f":{amqp()}", **kinds, **cached)
    for name in ("azure.mgmt", "azure.mgmt.servicebus"):
        module(name, __path__=[])
    module("azure.mgmt.servicebus.models", AccessRights=SimpleNamespace(manage="Manage", send="Send", listen="Listen"))


def same(test: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that changes nothing."""
    return test


def nothing(*given: object, **named: object) -> None:
    """Do nothing: the tests configure the vendor's HTTP recorder with functions that this one replaces."""


folder = Path(tempfile.mkdtemp(prefix="vendor-"))
guard = Guard(folder)
server = Standin(folder, guard)
make_modules()  # before pytest imports the tests


def pytest_configure(config: pytest.Config) -> None:
    """Start the stand-in in each process that runs tests."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        server.start()
        config.add_cleanup(server.stop)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(guard.end)


@pytest.fixture(autouse=True)
def whole_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back, after each test, the parser of the SDK that two tests replace for the whole process: their parser loses lock tokens."""
    for transport in (PyamqpTransport, PyamqpTransportAsync):
        monkeypatch.setattr(transport, "parse_received_message", staticmethod(transport.parse_received_message))


@pytest.fixture(scope="session")
def test_proxy() -> Iterator[None]:
    """The vendor's HTTP recorder, which records nothing here."""
    return iter(())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that the suite leaves out."""
    patterns = os.environ.get("VENDOR_LEFT_OUT")
    out = [item for item in items if patterns and re.search(patterns, item.name)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
