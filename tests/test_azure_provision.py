"""An app on Azure, made and taken away: against the Service Bus stand-in, Azurite and the local Functions host."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from azure.storage.blob import BlobServiceClient

from azure_calls import Call, recorded
from fsd_azure import PROVIDER, RESOURCES, api, clients, connection_strings, function, limits, provision, queues, variables
from fsd_azure.api import Api
from fsd_azure.limits import TIERS
from fsd_azure.names import Names
from fsd_azure.provision import AzureProvisioner
from fsd_conformance import emulators
from fsd_conformance.emulators.azure import Functions
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import started
from fsd_core.driver import WORKER, Code, Provisioner, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.names import generation_of
from fsd_core.providers.package import Recipe, stub, zipped
from provision_cases import Cloud, ProvisionCases

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
SETTINGS: Mapping[str, object] = {"package": False, "lease_s": 5}
SUBSCRIPTION = "00000000-0000-0000-0000-00000000000a"  # not the emulator's


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("azure")):
        yield


@pytest.fixture
def azure() -> Iterator[Api]:
    with asking() as requests:
        yield requests


@contextmanager
def functions(folder: Path, *flags: str) -> Iterator[None]:
    """Within the block another local Functions host plays the Resource Manager; the other services are the file's own."""
    server = started(lambda: Functions(folder, None, flags))
    try:
        with pointed({**os.environ, api.ENDPOINT: server.url}, ()):
            yield
    finally:
        server.stop()


def provisioner(**settings: object) -> Provisioner:
    return AZURE.provisioner(**settings)


def asking() -> Api:
    requests = AzureProvisioner(SETTINGS, PROVIDER).requests()
    requests.within(120)
    return requests


def queue_names(app: str) -> list[str]:
    hosts = tuple(connection_strings.service_bus_hosts())
    found = []
    for number in range(len(hosts)):
        with clients.administration(hosts, number) as admin:
            found += [each.name for each in admin.list_queues() if generation_of(app, each.name)]
    return found


def there(app: str) -> Counter[str]:
    """How much of an app is there, by kind."""
    string = connection_strings.storage_string()
    assert string
    with asking() as requests, BlobServiceClient.from_connection_string(string) as blobs:
        mine, _ = requests.owned(app)
        found = Counter(path.split("/")[-2] for path in mine)
        found["queue"] = len(queue_names(app))
        found["container"] = sum(f"{each.name}-".startswith(f"fsd-{app}-") for each in blobs.list_containers())
        found["group"] = int(requests.find(requests.id(app)) is not None)
        return +found


def with_api(remove: Callable[[Api, Resources], object]) -> Callable[[Resources], None]:
    """``remove`` as what removes a part of an app."""

    def removes(made: Resources) -> None:
        with asking() as requests:
            remove(requests, made)

    return removes


def remove_container(made: Resources) -> None:
    with closing(clients.container(made.names["blob_url"], made.names["container"])) as container:
        container.delete_container()


def lose(kept: Resources) -> list[str]:
    lost = Names(kept.app, "0123abcd", tuple(connection_strings.service_bus_hosts()))
    with asking() as requests:
        queues.make(requests, lost, [(0, 0)], 10, 0)
    return [f"queue {lost.queue(0, 0)}"]


def deploy_idle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(provision.AzureProvisioner, "ready_s", 3.0)
    patch.setattr(function, "ROUTE", "api/nothing")


def is_look(call: Call, made: Resources) -> bool:
    return call == Call("POST", f"Microsoft.Web/sites/{made.names['function']}/config/appsettings/list")


AZURE = Cloud(
    provider=PROVIDER,
    settings=SETTINGS,
    there=there,
    whole=Counter(queue=2, container=2, group=1, sites=1, serverfarms=1),
    lines={"function app": 1, "plan": 1, "queue": 2, "container": 2, "resource group": 1},
    recorded=recorded,
    look=is_look,
    makes_queue=None,
    parts={
        "function": with_api(lambda requests, made: function.remove(requests, made.app)),
        "containers": remove_container,
        "group": with_api(lambda requests, made: requests.delete(requests.id(made.app))),
        "queues": with_api(lambda requests, made: queues.remove(requests, made.app, connection_strings.service_bus_hosts())),
    },
    lose=lose,
    endpoint=api.ENDPOINT,
    fits=lambda made: len(made.names["function"]) <= 60 and len(made.names["container"]) <= 63 - len("-code"),
    idle=deploy_idle,
    idle_says=r"started and failed \(not_found\): the log stream of function app fsd-{app}-\w+ shows why",
    died="the function ended: 50",
)


class TestShared(ProvisionCases):
    cloud = AZURE


@pytest.fixture
def app() -> Iterator[str]:
    yield from AZURE.app()


def test_what_is_made_and_how(app: str, azure: Api) -> None:
    made = provisioner(memory_mb=512, timeout_s=3700, concurrency=7, lease_s=20).ensure(app, 2, 2)
    own, told = Names.of(made), made.names
    assert there(app) == Counter(queue=4, container=2, group=1, sites=1, serverfarms=1)
    assert all(isinstance(value, str) for value in told.values())

    for number, queue in own.queues(2, 2):
        with clients.administration(own.namespaces, number) as admin:
            found = admin.get_queue(queue)
            assert (found.lock_duration, found.max_delivery_count) == (timedelta(seconds=20), 2000)
            assert found.default_message_time_to_live == timedelta(seconds=queues.TTL_S)
            assert admin.get_queue_runtime_properties(queue).total_message_count == 0  # of the probes; a lock hides, a count does not

    with closing(clients.container(told["blob_url"], told["container"])) as container:
        properties = container.get_container_properties()
        assert properties.metadata == {"fsdapp": app, "generation": told["generation"]}
        assert properties.public_access is None

    site = azure.call("GET", azure.id(app, f"Microsoft.Web/sites/{told['function']}"))
    config = site["properties"]["functionAppConfig"]
    assert config["scaleAndConcurrency"] == {
        "maximumInstanceCount": 7,
        "instanceMemoryMB": 512,
        "triggers": {"http": {"perInstanceConcurrency": 1}},
    }
    assert config["runtime"] == {"name": "python", "version": "3.12"}
    assert site["tags"] == {"fsd-app": app}
    assert site["properties"]["httpsOnly"] is True
    settings = function.settings(azure, app)
    assert settings
    assert json.loads(settings[RESOURCES]) == {"app": app, "ranks": 2, "slots": 2, "names": dict(told)}
    assert settings["AzureFunctionsJobHost__functionTimeout"] == "01:01:40"
    assert settings[variables.KEY] == function.key(azure, app)

    assert PROVIDER.objects(made).list("").keys == []  # nothing of the probes is left
    with closing(PROVIDER.messages(made, 0)) as messages:
        assert messages.receive(0, 10, 0) == []
    invoker = PROVIDER.invoker(made)
    assert (invoker.limits.concurrency, invoker.limits.memory_bytes) == (7, 512 << 20)
    assert (invoker.limits.timeout_s, invoker.limits.failures) == (3700, "launcher")


def test_no_secret_is_in_the_names(app: str, azure: Api) -> None:
    text = json.dumps(dict(provisioner().ensure(app, 1, 1).names))
    assert function.key(azure, app) not in text
    for string in [*connection_strings.service_bus_strings(), connection_strings.storage_string() or ""]:
        assert string not in text
        assert "SharedAccessKey" not in text
        assert "AccountKey" not in text


def test_a_changed_setting_is_applied(app: str, azure: Api) -> None:
    before = provisioner(concurrency=5).ensure(app, 1, 1)
    after = provisioner(memory_mb=4096, lease_s=30).ensure(app, 1, 1)
    assert {**before.names, "memory_mb": "4096", "lease_s": "30", "concurrency": "100"} == after.names
    site = azure.call("GET", azure.id(app, f"Microsoft.Web/sites/{after.names['function']}"))
    scale = site["properties"]["functionAppConfig"]["scaleAndConcurrency"]
    assert (scale["instanceMemoryMB"], scale["maximumInstanceCount"]) == (4096, 100)
    own = Names.of(after)
    with clients.administration(own.namespaces, 0) as admin:
        assert admin.get_queue(own.queue(0, 0)).lock_duration == timedelta(seconds=30)
    assert provisioner(memory_mb=4096, lease_s=30).find(app) == after


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"region": "westeurope"}, "made with eastus2, not westeurope: expected eastus2"),
        ({"tier": "premium"}, "made with standard, not premium"),
    ],
)
def test_what_cannot_be_changed_is_said(app: str, table: dict[str, object], says: str) -> None:
    made = provisioner().ensure(app, 1, 1)
    with pytest.raises(InputError, match=says):
        provisioner(**table).ensure(app, 1, 1)
    assert provisioner().find(app) == made


def test_more_namespaces_for_an_app_that_is_there_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not anything else is asked for."""
    made = Resources("x", 1, 1, {**parsed(), "bus": "made", "namespaces": "one.servicebus.windows.net"})
    monkeypatch.setattr(function, "read", lambda requests, app: made)
    monkeypatch.delenv(connection_strings.SERVICE_BUS)
    assert provisioner(namespaces=1).ensure("x", 1, 1) == provisioner().ensure("x", 1, 1) == made
    with pytest.raises(InputError, match=r"\[azure\] namespaces = 8: app 'x' has 1: expected 1, or destroy the app"):
        provisioner(namespaces=8).ensure("x", 1, 1)


def parsed() -> dict[str, str]:
    return AzureProvisioner(SETTINGS, PROVIDER).wanted()


def test_settings_that_others_gave_stay(app: str, azure: Api) -> None:
    made = provisioner().ensure(app, 1, 1)
    path = azure.id(app, f"Microsoft.Web/sites/{made.names['function']}/config/appsettings")
    azure.call("PUT", path, {"properties": {**(function.settings(azure, app) or {}), "THEIRS": "1"}})
    provisioner(concurrency=9).ensure(app, 1, 1)
    assert (function.settings(azure, app) or {})["THEIRS"] == "1"


def test_a_key_that_was_renewed_is_written_by_a_deploy_that_changes_something(app: str, azure: Api) -> None:
    provisioner().ensure(app, 1, 1)
    path = f"{function._site(azure, app)}/config/appsettings"
    azure.call("PUT", path, {"properties": {**(function.settings(azure, app) or {}), variables.KEY: "old"}})
    provisioner().ensure(app, 2, 1)
    assert (function.settings(azure, app) or {})[variables.KEY] == function.key(azure, app)


def test_a_group_of_ones_own_stays(app: str, azure: Api) -> None:
    group = f"own-{app}"
    path = f"/subscriptions/{azure.subscription}/resourceGroups/{group}"
    azure.put(path, {"location": "eastus2", "tags": {"whose": "mine"}})
    assert provisioner(resource_group=group).ensure(app, 1, 1).names["resource_group"] == group
    assert provisioner(resource_group=group).destroy(app)
    assert (azure.find(path) or {}).get("tags") == {"whose": "mine"}
    azure.delete(path)


def test_what_others_put_into_the_group_stays(app: str, azure: Api) -> None:
    provisioner().ensure(app, 1, 1)
    theirs = azure.id(app, "Microsoft.Storage/storageAccounts/theirs")
    azure.put(theirs, {"location": "eastus2"})
    assert not [line for line in provisioner().destroy(app) if "group" in line]
    assert azure.find(theirs)
    azure.delete(theirs)
    assert provisioner().destroy(app) == [f"resource group fsd-{app}"]


def test_what_is_somebody_elses_is_refused_and_stays(app: str, azure: Api) -> None:
    with closing(clients.container("", f"fsd-{app}")) as container:
        container.create_container()
        with pytest.raises(InputError, match=f"a container fsd-{app} exists that fsd did not make"):
            provisioner().ensure(app, 1, 1)
        provisioner().destroy(app)
        assert container.exists()
        container.delete_container()

    made = provisioner().ensure(app, 1, 1)
    path = azure.id(app, f"Microsoft.Web/sites/{made.names['function']}/config/appsettings")
    settings = function.settings(azure, app)
    azure.call("PUT", path, {"properties": {"THEIRS": "1"}})
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match=rf"a function app fsd-{app}-\w+ exists that fsd did not make"):
            call(app)
    azure.call("PUT", path, {"properties": settings})


def test_a_launch_without_the_key_is_denied(app: str) -> None:
    invoker = PROVIDER.invoker(provisioner().ensure(app, 1, 1))
    invoker._key = "wrong"  # type: ignore[attr-defined]
    launch = invoker.invoke(WORKER, b"{}")
    assert launch.ended.wait(30)  # type: ignore[attr-defined]
    assert launch.poll() is Code.DENIED
    invoker.close()


def test_a_region_that_takes_no_few_instances_is_said(tmp_path: Path) -> None:
    with functions(tmp_path, "--min-instances", "40"):
        says = r"\[azure\] concurrency = 39: eastus2 accepts no function app of so few instances: expected 40 to 1000"
        with pytest.raises(InputError, match=says):
            provisioner(concurrency=39).ensure("few", 1, 1)
        assert provisioner(concurrency=40).ensure("few", 1, 1).names["concurrency"] == "40"
        assert provisioner().destroy("few")


def test_a_deployment_waits_for_what_settles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just made is not there yet, then not ready; its host has no keys and its identity no role for some time."""
    sent = evolve(stub("azure"), body=zipped({"function_app.py": b"", "host.json": b"{}"}))  # what runs is installed
    monkeypatch.setattr(Recipe, "build", lambda recipe, within_s: sent)
    with functions(tmp_path, "--settle", "2"), recorded() as calls:
        made = provisioner(package=True).ensure("settles", 1, 1)
        assert provisioner(package=True).find("settles") == made
        assert sum(call.path.endswith("/api/publish") for call in calls) > 1
        assert provisioner().ensure("keys", 1, 1)  # sends no code, and so comes to the keys sooner
        assert sum("/fsd-keys" in call.path and call.path.endswith("/listkeys") for call in calls) > 1
        assert provisioner().destroy("settles")
        assert provisioner().destroy("keys")


def test_a_queue_that_does_not_deliver_is_no_deployment(app: str, azure: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real = queues.make

    def disabled(requests: Api, own: Names, pairs: Any, lease_s: int, message_kb: int) -> None:
        real(requests, own, pairs, lease_s, message_kb)
        queues.remove(requests, own.app, own.namespaces)

    monkeypatch.setattr(queues, "make", disabled)
    with pytest.raises(DriverError) as raised:
        provisioner().ensure(app, 2, 1)
    assert raised.value.code is Code.NOT_FOUND
    assert "probe of slot 0" in str(raised.value)


def test_how_many_namespaces_is_the_tiers_credits() -> None:
    """Of what ranks receive and send, whoever their peers are: a namespace's own ranks hear from all others."""
    assert [queues.count("standard", ranks) for ranks in (1, 8, 9, 16, 20, 23, 62)] == [
        1,
        1,
        2,
        4,
        7,
        queues.MAX_NAMESPACES,
        queues.MAX_NAMESPACES,
    ]
    assert queues.count("premium", 62) == 1
    for ranks in range(1, 23):
        spaces = queues.count("standard", ranks)
        assert 2 * ranks * (ranks - 1) * queues.LAYERS_S <= spaces * (TIERS["standard"].credits or 0)


def test_too_many_queues_are_refused_before_anything_is_made() -> None:
    says = "1000 ranks, 21 slots over 2 Service Bus namespaces need 10500 queues in one: expected at most 10000 in the standard tier"
    with pytest.raises(InputError, match=says):
        provisioner().ensure("x", 1000, 21)
    assert there("x") == Counter()


def test_more_ranks_than_queues_connect_are_deployed_for_the_object_channel(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limits.TIERS, "standard", evolve(limits.TIERS["standard"], connections=5))  # type: ignore[call-overload]
    made = provisioner().ensure(app, 3, 1)
    with pytest.raises(InputError, match=r"3 ranks over 2 .* with 3 connection strings in FSD_AZURE_SERVICE_BUS, or none and \[azure\]"):
        PROVIDER.admit(made, 3)


def test_a_wrong_subscription_says_so() -> None:
    with pytest.raises(DriverError, match=r"set \[azure\] subscription in fsd.toml to one that 'az account list' shows"):
        provisioner(subscription=SUBSCRIPTION).ensure("x", 1, 1)


@pytest.mark.parametrize("variable", [connection_strings.SERVICE_BUS, connection_strings.STORAGE])
def test_a_malformed_connection_string_is_told_and_nothing_is_made(app: str, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(variable, "nonsense")
        with pytest.raises(InputError, match=f"{variable}: "):
            provisioner().ensure(app, 1, 1)
    assert there(app) == Counter()
