"""The surroundings of azure-servicebus's own tests, as a plugin of pytest: our stand-in instead of a subscription of Azure.

The tests ask for resources by decorators, from modules that are not published: those are made here, and make queues by the stand-in's
administration. Topics are those of a configuration file. The SDK is made to speak without TLS to the stand-in's ports, and is else as
it is. `vendor_suites` runs this.
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
from azure.servicebus.aio import ServiceBusClient as AioClient
from azure.servicebus.management import ServiceBusAdministrationClient

from fsd_conformance.emulators.process import Guard
from fsd_conformance.emulators.service_bus.config import FOREVER
from fsd_conformance.emulators.service_bus.server import ServiceBusServer

TOPICS = 60  # of a process
_LIFE = {"DefaultMessageTimeToLive": FOREVER, "MaxDeliveryCount": 10}


class Standin(ServiceBusServer):
    """With topics, each with a subscription s."""

    def command(self) -> list[str]:
        """As the server has it, and topics in its file."""
        command = [*super().command()]
        file = self.folder / "Config.json"
        told = json.loads(file.read_text())
        subscription = {"Name": "s", "Properties": _LIFE}
        told["UserConfig"]["Namespaces"][0]["Topics"] = [
            {"Name": f"topic{number}", "Properties": {"DefaultMessageTimeToLive": FOREVER}, "Subscriptions": [subscription]}
            for number in range(TOPICS)
        ]
        file.write_text(json.dumps(told))
        return command


class Credential:
    """Any token is good."""

    def get_token(self, *scopes: str, **more: object) -> AccessToken:
        """One that lasts."""
        return AccessToken("token", int(time.time()) + 3600)


class AioCredential:
    """Likewise."""

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
    """Of the stand-in, as the service gives it for a key."""
    return f"Endpoint=sb://127.0.0.1:{amqp()};SharedAccessKeyName={KEY};SharedAccessKey=none;UseDevelopmentEmulator=true{more}"


def amqp() -> int:
    """The port of messages."""
    return next(iter(server.ports.values()))[0]


class Plain(RequestsTransport):  # type: ignore[misc]
    """The administration's way to the stand-in, which has a port of its own for it and no TLS."""

    def send(self, request: Any, **more: Any) -> Any:
        """One request."""
        request.url = re.sub(r"^https://127\.0\.0\.1(:\d+)?", f"http://127.0.0.1:{server.port}", request.url)
        return super().send(request, **more)


def always(kind: Any, given: Callable[[], Mapping[str, Any]]) -> None:
    """Clients of this kind are made with these arguments, whatever a test says."""
    made = kind.__init__

    @functools.wraps(made)
    def init(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **{**named, **given()})

    kind.__init__ = init


# What the decorators give.


def queue(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A queue of its own for each test, as its decorator asks for it; what the stand-in refuses ends the test."""
    name = f"q{uuid.uuid4().hex[:12]}"
    asked = {key: value for key, value in settings.items() if key in _QUEUE}
    with ServiceBusAdministrationClient.from_connection_string(connection_string(), retry_total=0) as admin:
        admin.create_queue(name, **asked)
    return {"servicebus_queue": SimpleNamespace(name=name, id=name)}


def topic(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The next topic."""
    number = next(topics)
    assert number < TOPICS, "more topics than there are"
    name = f"topic{number}"
    return {"servicebus_topic": SimpleNamespace(name=name, id=name)}


def subscription(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the topic."""
    if settings.get("requires_session"):
        raise NotImplementedError("sessions are not implemented here")
    if settings.get("lock_duration", "PT60S") != "PT60S":
        raise NotImplementedError("a subscription with a lock of its own is made by a file, and not implemented here")
    return {"servicebus_subscription": SimpleNamespace(name="s", id="s")}


def namespace(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stand-in's only one."""
    name = "servicebus_namespace"
    given = {name: SimpleNamespace(name="127.0.0.1", id="n"), f"{name}_connection_string": connection_string()}
    return {**given, f"{name}_key_name": KEY, f"{name}_primary_key": "none"}


def rule(name: str, entity: bool) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """A rule of authorization, which is a name and a key: the stand-in looks at neither."""

    def give(settings: Mapping[str, Any]) -> Mapping[str, Any]:
        path = f";EntityPath={settings['servicebus_queue'].name}" if entity else ""
        return {name: SimpleNamespace(name=KEY), f"{name}_connection_string": connection_string(path)}

    return give


def environment(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a script of the vendor's would have set up."""
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
    """A decorator that gives a test what it asks for, by name."""

    def __init__(self, give: Callable[[Mapping[str, Any]], Mapping[str, Any]], names: tuple[str, ...]) -> None:
        self._give, self._names = give, names

    def __call__(self, *given: Any, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """The decorator with these settings."""

        def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(test)
            whatever = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())

            def found(named: Mapping[str, Any]) -> dict[str, Any]:
                made = self._give({**settings, **named})
                if name := settings.get("parameter_name"):  # a second one of its kind
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
            ours = {*self._names, settings.get("parameter_name")}  # for which pytest has no fixture
            kept = [each for name, each in signature.parameters.items() if name not in ours]
            wrapper.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
            return wrapper

        return decorate


def module(name: str, **members: Any) -> None:
    """A module by this name, as the tests import it."""
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made


def surroundings() -> None:
    """The modules that the tests import, and an SDK that speaks to the stand-in."""
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
    """A decorator that decorates nothing."""
    return test


def nothing(*given: object, **named: object) -> None:
    """For what the tests tell the vendor's recorder."""


folder = Path(tempfile.mkdtemp(prefix="vendor-"))
guard = Guard(folder)
server = Standin(folder, guard)
surroundings()  # before anything of the tests is imported


def pytest_configure(config: pytest.Config) -> None:
    """Start the stand-in in each process that runs tests."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        server.start()
        config.add_cleanup(server.stop)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(guard.end)


@pytest.fixture(scope="session")
def test_proxy() -> Iterator[None]:
    """The vendor's recorder of HTTP: nothing is recorded."""
    return iter(())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no claim is about."""
    patterns = os.environ.get("VENDOR_LEFT_OUT")
    out = [item for item in items if patterns and re.search(patterns, item.name)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
