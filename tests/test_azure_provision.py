"""An app on Azure, made and taken away: against the Service Bus stand-in, Azurite and the local Functions host."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import attrs
import pytest
from azure.storage.blob import BlobServiceClient

from azure_calls import Call, Canned, answering, recorded
from fsd_azure import PROVIDER, api, clients, connection_strings, function, limits, package, provision, queues
from fsd_azure import names as naming
from fsd_azure.api import Api
from fsd_azure.limits import TIERS
from fsd_azure.names import Names
from fsd_azure.provision import AzureProvisioner
from fsd_azure.settings import Settings, parse
from fsd_azure.variables import KEY, RESOURCES
from fsd_conformance import emulators
from fsd_conformance.emulators.emulator import pointed
from fsd_core.driver import WORKER, Code, Message, Provisioner, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers import requests
from fsd_core.providers.package import zipped

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
SETTINGS: Mapping[str, object] = {"package": False, "lease_s": 5}
SUBSCRIPTION = "00000000-0000-0000-0000-00000000000a"  # not the emulator's
CLEARS = ("AZURE_", "FSD_AZURE_", "IDENTITY_", "MSI_")


@pytest.fixture(scope="module", autouse=True)
def _emulator() -> Iterator[None]:
    with emulators.own(emulators.find("azure")):
        yield


@pytest.fixture
def app() -> Iterator[str]:
    name = f"p{secrets.token_hex(4)}"
    yield name
    provisioner().destroy(name)


@pytest.fixture
def azure() -> Iterator[Api]:
    with asking() as requests:
        yield requests


def provisioner(**settings: object) -> Provisioner:
    return PROVIDER.provisioner({**SETTINGS, **settings})


def asking() -> Api:
    requests = AzureProvisioner(SETTINGS, PROVIDER).requests()
    requests.within(120)
    return requests


def queue_names(app: str) -> list[str]:
    hosts = tuple(connection_strings.service_bus_hosts())
    found = []
    for number in range(len(hosts)):
        with clients.administration(hosts, number) as admin:
            found += [each.name for each in admin.list_queues() if naming.generation_of(app, each.name)]
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


ALL_OF_2_BY_1 = Counter(queue=2, container=2, group=1, sites=1, serverfarms=1)


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
    settings = function._settings(azure, app)
    assert settings
    assert json.loads(settings[RESOURCES]) == {"app": app, "ranks": 2, "slots": 2, "names": dict(told)}
    assert settings["AzureFunctionsJobHost__functionTimeout"] == "01:01:40"
    assert settings[KEY] == function.key(azure, app)

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


def test_what_is_there_costs_one_request(app: str) -> None:
    first = provisioner().ensure(app, 2, 1)
    with recorded() as calls:
        assert provisioner().ensure(app, 2, 1) == first
        assert provisioner().ensure(app, 1, 1) == first
        assert provisioner().find(app) == first
    what = f"Microsoft.Web/sites/{first.names['function']}/config/appsettings/list"
    assert [(call.method, call.path) for call in calls] == 3 * [("POST", what)]


def test_growing_keeps_what_is_there(app: str) -> None:
    small = provisioner().ensure(app, 1, 1)
    with closing(PROVIDER.messages(small, 0)) as messages:
        messages.publish([Message(0, b"kept")])
    before = set(queue_names(app))
    large = provisioner().ensure(app, 2, 2)
    assert (large.ranks, large.slots) == (2, 2)
    assert large.names == small.names
    assert before < set(queue_names(app))
    with closing(PROVIDER.messages(large, 0)) as messages:
        assert [each.body for each in messages.receive(0, 10, 5)] == [b"kept"]
    assert provisioner().ensure(app, 1, 1) == large


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
        ({"region": "westeurope"}, "made with eastus2, not westeurope: destroy the app first"),
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
    with pytest.raises(InputError, match=r"\[azure\] namespaces = 8: app 'x' was made with 1: destroy it first, or keep 1"):
        provisioner(namespaces=8).ensure("x", 1, 1)


def parsed() -> dict[str, str]:
    return AzureProvisioner(SETTINGS, PROVIDER).wanted()


def test_settings_that_others_gave_stay(app: str, azure: Api) -> None:
    made = provisioner().ensure(app, 1, 1)
    path = azure.id(app, f"Microsoft.Web/sites/{made.names['function']}/config/appsettings")
    azure.call("PUT", path, {"properties": {**(function._settings(azure, app) or {}), "THEIRS": "1"}})
    provisioner(concurrency=9).ensure(app, 1, 1)
    assert (function._settings(azure, app) or {})["THEIRS"] == "1"


def test_destroy_leaves_nothing(app: str) -> None:
    made = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1
    with closing(PROVIDER.objects(made)) as objects:
        for number in range(3):
            objects.put(f"left/{number}", b"x")
    lines = provisioner().destroy(app)
    assert Counter(line.rpartition(" ")[0] for line in lines) == {
        "function app": 1, "plan": 1, "queue": 2, "container": 2, "resource group": 1,
    }  # fmt: skip
    assert there(app) == Counter()
    assert provisioner().destroy(app) == []
    assert provisioner().find(app) is None
    anew = provisioner().ensure(app, 2, 1)
    assert anew.names["generation"] != made.names["generation"]
    assert PROVIDER.objects(anew).list("").keys == []


@pytest.mark.parametrize("gone", ["function", "containers", "group", "queues"])
def test_destroy_of_what_is_half_gone(app: str, azure: Api, gone: str) -> None:
    made = provisioner().ensure(app, 2, 1)
    if gone == "function":
        function.remove(azure, app)
    elif gone == "containers":
        with closing(clients.container(made.names["blob_url"], made.names["container"])) as container:
            container.delete_container()
    elif gone == "group":
        azure.delete(azure.id(app))
    else:
        queues.remove(azure, app, connection_strings.service_bus_hosts())
    assert provisioner().destroy(app)
    assert there(app) == Counter()


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


def test_apps_whose_names_begin_alike(app: str) -> None:
    longer = f"{app}-b"
    provisioner().ensure(app, 1, 1)
    provisioner().ensure(longer, 2, 1)
    provisioner().destroy(app)
    assert there(longer) == ALL_OF_2_BY_1
    provisioner().destroy(longer)
    assert there(longer) == Counter()


def test_a_long_name_a_short_one_and_one_with_two_hyphens() -> None:
    for app in ("x", "p" + secrets.token_hex(19) + "z", "a--b"):
        try:
            made = provisioner().ensure(app, 1, 1)
            assert len(made.names["function"]) <= 60
            assert len(made.names["container"]) <= 63 - len("-code")
        finally:
            provisioner().destroy(app)
            assert there(app) == Counter()


def test_one_that_was_cut_short_is_taken_up(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fsd_azure.provision.probe_queues", cut)
        with pytest.raises(KeyboardInterrupt):
            provisioner().ensure(app, 2, 1)
    assert provisioner().find(app) is None
    assert there(app) == ALL_OF_2_BY_1
    made = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1  # of one generation
    assert provisioner().find(app) == made


def test_a_destroy_that_was_cut_short_is_finished(app: str, azure: Api) -> None:
    provisioner().ensure(app, 2, 1)
    function.remove(azure, app)
    assert provisioner().find(app) is None
    second = provisioner().ensure(app, 2, 1)
    assert there(app) == ALL_OF_2_BY_1
    assert provisioner().find(app) == second


def test_a_sweep_finds_what_nobody_will_take_up(app: str, azure: Api) -> None:
    kept = provisioner().ensure(app, 2, 1)
    lost = Names(app, "0123abcd", tuple(connection_strings.service_bus_hosts()))
    queues.make(azure, lost, [(0, 0)], 10, 0)
    assert provisioner().sweep(app) == [f"queue {lost.queue(0, 0)}"]
    assert there(app) == ALL_OF_2_BY_1
    assert provisioner().find(app) == kept


def test_two_at_once_make_one(app: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: provisioner().ensure(app, 2, 1), range(2))
    assert first == second == provisioner().find(app)
    assert there(app) == ALL_OF_2_BY_1


def test_what_is_somebody_elses_is_refused_and_stays(app: str, azure: Api) -> None:
    with closing(clients.container("", f"fsd-{app}")) as container:
        container.create_container()
        with pytest.raises(InputError, match=f"a container fsd-{app} is there that fsd did not make"):
            provisioner().ensure(app, 1, 1)
        provisioner().destroy(app)
        assert container.exists()
        container.delete_container()

    made = provisioner().ensure(app, 1, 1)
    path = azure.id(app, f"Microsoft.Web/sites/{made.names['function']}/config/appsettings")
    settings = function._settings(azure, app)
    azure.call("PUT", path, {"properties": {"THEIRS": "1"}})
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match=rf"a function app fsd-{app}-\w+ is there that fsd did not make"):
            call(app)
    azure.call("PUT", path, {"properties": settings})


def test_a_function_that_dies_is_told(app: str) -> None:
    invoker = PROVIDER.invoker(provisioner().ensure(app, 1, 1))
    payload = json.dumps({"app": app, "probe": {"key": "probe/x", "exit": 3}}).encode()
    launch = invoker.invoke(WORKER, payload)
    until = time.monotonic() + 60
    while launch.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert launch.poll() is Code.UNAVAILABLE
    assert invoker.failures(lambda _: False) == []
    (failure,) = invoker.failures(lambda told: json.loads(told)["app"] == app)
    assert (failure.payload, failure.nonce) == (payload, launch.nonce)  # type: ignore[attr-defined]
    assert failure.reason.startswith("the function ended: 50")
    assert invoker.failures(lambda _: True) == []
    invoker.close()


def test_a_launch_without_the_key_is_denied(app: str) -> None:
    invoker = PROVIDER.invoker(provisioner().ensure(app, 1, 1))
    invoker._key = "wrong"  # type: ignore[attr-defined]
    launch = invoker.invoke(WORKER, b"{}")
    assert launch.ended.wait(30)  # type: ignore[attr-defined]
    assert launch.poll() is Code.DENIED
    invoker.close()


def test_code_that_the_sites_identity_may_not_store_yet_is_sent_again() -> None:
    sent: list[str] = []

    def answers(method: str, path: str) -> Canned:
        if method == "POST":
            sent.append(path)
            return Canned(202, json.dumps(str(len(sent))))
        refused = {"status": 3, "status_text": "[StorageAccessibleCheck] Error while checking access: Status: 403 (Forbidden)"}
        return Canned(200, json.dumps({"status": 4} if path.endswith("/3") else refused))

    with answering(answers) as address, asking() as requests:
        site = {"name": "f", "properties": {"hostNameSslStates": [{"name": address, "hostType": "Repository"}]}}
        with pytest.raises(DriverError, match=r"sending the code to function app f: failed: \[StorageAccessibleCheck\]"):
            function.publish(requests, site, package.stub())
        assert len(sent) == 1
        requests.settling()
        function.publish(requests, site, package.stub())
        assert len(sent) == 3


def test_code_is_sent_again_where_the_state_of_its_deployment_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that knew it is gone: what was told before is 404, or says nothing, from then on."""
    monkeypatch.setattr(function, "FORGOTTEN_S", 0.3)
    for nothing in (Canned(404), Canned(200, "{}")):
        sends, looks = [0], Counter[int]()

        def answers(method: str, path: str, nothing: Canned = nothing, sends: list[int] = sends, looks: Counter[int] = looks) -> Canned:
            if method == "POST":
                sends[0] += 1
                return Canned(202, json.dumps(str(sends[0])))
            looks[sends[0]] += 1
            if sends[0] == 3:
                return Canned(200, json.dumps({"status": 4}))
            return Canned(200, json.dumps({"status": 1})) if looks[sends[0]] == 1 else nothing

        with published(answers) as (publish, _):
            publish()
        assert sends == [3]


def test_a_deployment_that_is_always_forgotten_is_said_long_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "FORGOTTEN_S", 0.1)
    with (
        published(lambda method, path: Canned(202, '"1"') if method == "POST" else Canned(404)) as (publish, calls),
        pytest.raises(DriverError, match=r"function app f: Azure forgot the deployment 3 times: run 'fsd deploy' again") as raised,
    ):
        publish()
    assert raised.value.code is Code.UNAVAILABLE
    assert sum(call.method == "POST" for call in calls) == 3


@pytest.mark.parametrize(
    "words",
    [
        "InaccessibleStorageException: Failed to access storage account for deployment: BlobUploadFailedException",
        "MSITokenUnavailableException: no token",
        "[StorageAccessibleCheck] Unable to fetch MSI token",
        "Name or service not known (fsdx.blob.core.windows.net:443)",
    ],
)
def test_what_is_refused_while_an_account_and_an_identity_settle_passes(words: str) -> None:
    sent: list[str] = []

    def answers(method: str, path: str) -> Canned:
        if method == "POST":
            sent.append(path)
            return Canned(202, '"1"')
        return Canned(200, json.dumps({"status": 4} if len(sent) == 2 else {"status": 3, "status_text": words}))

    with published(answers) as (publish, _):
        publish()
    assert len(sent) == 2


def test_a_deployment_that_met_another_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "AGAIN_S", 0.1)
    sent: list[str] = []

    def answers(method: str, path: str) -> Canned:
        if method == "POST":
            sent.append(path)
            return Canned(202, '"1"') if len(sent) > 1 else Canned(409, "There is a deployment currently in progress.")
        return Canned(200, json.dumps({"status": 4 if len(sent) == 3 else 5}))

    with published(answers) as (publish, _):
        publish()
    assert len(sent) == 3


@contextmanager
def published(answers: Callable[[str, str], Canned]) -> Iterator[tuple[Callable[[], None], list[Call]]]:
    """A way to send code to a deployment service that answers so, and what was asked of it. Roles may not be in force yet."""
    with answering(answers) as address, asking() as requests, recorded() as calls:
        requests.settling()
        site = {"name": "f", "properties": {"hostNameSslStates": [{"name": address, "hostType": "Repository"}]}}
        yield lambda: function.publish(requests, site, package.stub()), calls


def test_a_region_that_takes_no_few_instances_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Least: type[emulators.Emulator] = type("Least", (emulators.find("azure"),), {"arguments": ("--min-instances", "40")})
    with emulators.own(Least):
        says = r"\[azure\] concurrency = 39: eastus2 accepts no function app of so few instances: expected 40 to 1000"
        with pytest.raises(InputError, match=says):
            provisioner(concurrency=39).ensure("few", 1, 1)
        assert provisioner(concurrency=40).ensure("few", 1, 1).names["concurrency"] == "40"
        assert provisioner().destroy("few")


def test_a_deployment_waits_for_what_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just made is not there yet, then not ready; its host has no keys and its identity no role for some time."""
    azure = emulators.find("azure")
    Settling: type[emulators.Emulator] = type("Settling", (azure,), {"arguments": ("--settle", "2")})
    sent = replace(package.stub(), body=zipped({"function_app.py": b"", "host.json": b"{}"}))  # what runs is installed
    monkeypatch.setattr(package, "build", lambda runtime, within_s: sent)
    with emulators.own(Settling), recorded() as calls:
        made = provisioner(package=True).ensure("settles", 1, 1)
        assert provisioner(package=True).find("settles") == made
        assert sum(call.path.endswith("/api/publish") for call in calls) > 1
        assert provisioner().ensure("keys", 1, 1)  # sends no code, and so comes to the keys sooner
        assert sum("/fsd-keys" in call.path and call.path.endswith("/listkeys") for call in calls) > 1
        assert provisioner().destroy("settles")
        assert provisioner().destroy("keys")


def test_an_app_whose_function_does_not_write_is_no_deployment(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "SETTLE_S", 3.0)
    monkeypatch.setattr(function, "ROUTE", "api/nothing")
    with pytest.raises(DriverError, match=rf"did not end well \(not_found\): the log stream of function app fsd-{app}-\w+ shows why"):
        provisioner().ensure(app, 1, 1)
    assert provisioner().find(app) is None


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


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"regoin": "x"}, r"\[azure\] regoin: unknown key; did you mean region\?"),
        ({"zzz": 1}, r"\[azure\] zzz: unknown key; known are subscription, region, resource_group"),
        ({"subscription": "mine"}, r"\[azure\] subscription = 'mine': expected a subscription's id"),
        ({"region": "East US"}, r"\[azure\] region = 'East US': expected a region's short name"),
        ({"tier": "basic"}, r"tier = 'basic': expected one of standard, premium"),
        ({"memory_mb": 1024}, r"\[azure\] memory_mb = 1024: expected one of 512, 2048, 4096"),
        ({"memory_mb": True}, r"memory_mb = True"),
        ({"namespaces": 101}, r"namespaces = 101: expected a whole number from 0 to 100"),
        ({"timeout_s": 0}, r"timeout_s = 0: expected a whole number of seconds from 1 to 86399"),
        ({"lease_s": 301}, r"lease_s = 301: expected a whole number of seconds from 5 to 300"),
        ({"runtime": "python312"}, r"runtime = 'python312': expected one of 3.12"),
        ({"storage_account": "My_Account"}, r"storage_account = 'My_Account': expected 3 to 24"),
        ({"concurrency": 1001}, r"concurrency = 1001: expected a whole number from 1 to 1000"),
        ({"message_kb": 2048}, r"message_kb = 2048: expected 0 in the standard tier"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PROVIDER.provisioner(table)


def test_settings_have_defaults_and_take_whole_floats() -> None:
    assert parse({"lease_s": 10.0}) == Settings()
    assert parse({}, {"FSD_AZURE_PACKAGE": "0"}).package is False


def test_how_many_namespaces_is_the_tiers_credits() -> None:
    """Of what ranks receive and send, whoever their peers are: a namespace's own ranks hear from all others."""
    assert [queues.count("standard", ranks) for ranks in (1, 8, 9, 16, 20, 23, 62)] == [1, 1, 2, 4, 7] + [queues.MAX_NAMESPACES] * 2
    assert queues.count("premium", 62) == 1
    for ranks in range(1, 23):
        spaces = queues.count("standard", ranks)
        assert 2 * ranks * (ranks - 1) * queues.LAYERS_S <= spaces * (TIERS["standard"].credits or 0)


@pytest.mark.parametrize("app", ["", "Upper", "-x", "x-", "a_b", "x" * 41])
def test_a_wrong_name_is_refused(app: str) -> None:
    for call in (provisioner().find, provisioner().destroy, lambda name: provisioner().ensure(name, 1, 1)):
        with pytest.raises(InputError, match="expected a lower-case letter"):
            call(app)


def test_nothing_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="ranks 0"):
        provisioner().ensure("x", 0, 1)


def test_too_many_queues_are_refused_before_anything_is_made() -> None:
    says = "1000 ranks, 21 slots over 2 Service Bus namespaces need 10500 queues in one: expected at most 10000 in the standard tier"
    with pytest.raises(InputError, match=says):
        provisioner().ensure("x", 1000, 21)
    assert there("x") == Counter()


def test_more_ranks_than_queues_connect_are_deployed_for_the_object_channel(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(limits.TIERS, "standard", attrs.evolve(limits.TIERS["standard"], connections=5))  # type: ignore[call-overload]
    made = provisioner().ensure(app, 3, 1)
    with pytest.raises(InputError, match=r"3 ranks over 2 .* with 3 connection strings in FSD_AZURE_SERVICE_BUS, or none and \[azure\]"):
        PROVIDER.admit(made, 3)


XML = {"Content-Type": "application/xml"}
NOBODY = {"PATH": "/nonexistent", "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION, "IDENTITY_ENDPOINT": "http://127.0.0.1:9/"}


def test_missing_credentials_say_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_FIRST_S", 2.0)
    chain = {"AZURE_TOKEN_CREDENTIALS": "AzureCliCredential"}  # the chain of one: others would ask the network
    with (
        pointed({**NOBODY, **chain}, CLEARS),
        pytest.raises(InputError, match="no Azure credentials are found that work: run 'az login'") as raised,
    ):
        provisioner().find("x")
    assert "\n" not in str(raised.value)


def test_a_missing_subscription_says_what_helps() -> None:
    with pointed({}, CLEARS), pytest.raises(InputError, match=r"no Azure subscription is set: \[azure\] subscription in fsd.toml"):
        provisioner().find("x")


def test_a_wrong_subscription_says_so() -> None:
    with pytest.raises(DriverError, match=r"set \[azure\] subscription in fsd.toml to one that 'az account list' shows"):
        provisioner(subscription=SUBSCRIPTION).ensure("x", 1, 1)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (connection_strings.SERVICE_BUS, "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=k", "SharedAccessKey: missing"),
        (connection_strings.SERVICE_BUS, "Endpoint=https://x;SharedAccessKeyName=k;SharedAccessKey=v", "Endpoint is 'https://x'"),
        (connection_strings.STORAGE, "AccountName=x;AccountKey=%%%", "AccountKey: is not base64"),
        (connection_strings.STORAGE, "nonsense", "part 1: expected NAME=VALUE"),
        (connection_strings.STORAGE, "BlobEndpoint=https://h/;SharedAccessSignature=x", "SharedAccessSignature: has no sig="),
        (
            connection_strings.STORAGE,
            "AccountName=x;AccountKey=eA==;EndpointSuffix=",
            "EndpointSuffix: is empty: expected core.windows.net",
        ),
        (
            connection_strings.SERVICE_BUS,
            "Endpoint=sb://x.servicebus.windows.net/;SharedAccessSignature=",
            "SharedAccessSignature: has no sig=",
        ),
    ],
)
def test_a_malformed_connection_string_is_told_and_nothing_is_made(
    app: str, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(variable, value)
        with pytest.raises(InputError, match=says) as raised:
            provisioner().ensure(app, 1, 1)
        assert str(raised.value).startswith(variable)
    assert there(app) == Counter()


FAILED = {"status": "Failed", "error": {"code": "QuotaExceeded", "message": "no room"}}


@pytest.mark.parametrize("header", ["Azure-AsyncOperation", "Location"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_an_operation_that_fails_later_says_why(monkeypatch: pytest.MonkeyPatch, method: str, header: str) -> None:
    """And leaves nothing, or what was to go: the resource alone would be waited for until the deadline."""

    def answers(asked: str, path: str) -> Canned:
        if asked == method:
            return Canned(202, "{}", {header: f"http://{address}/subscriptions/s/operationresults/1?api-version=1"})
        if "operationresults" in path:
            return Canned(200 if header == "Azure-AsyncOperation" else 409, json.dumps(FAILED))
        return Canned(404) if method == "PUT" else Canned(200, "{}")

    with answering(answers) as address:
        monkeypatch.setenv(api.ENDPOINT, f"http://{address}")
        with asking() as requests, pytest.raises(DriverError, match=r"ing /serverfarms/x: .*QuotaExceeded.*no room"):
            requests.put("/serverfarms/x", {}) if method == "PUT" else requests.delete("/serverfarms/x")


def test_what_an_operation_does_not_tell_the_resource_does(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def answers(method: str, path: str) -> Canned:
        if method == "PUT":
            return Canned(202, "{}", {"Azure-AsyncOperation": f"http://{address}/subscriptions/s/operationresults/1"})
        if "operationresults" in path:
            return Canned(403)
        shown.append(path)
        states = {2: "Accepted", 3: "Succeeded"}
        return Canned(404) if len(shown) == 1 else Canned(200, json.dumps({"properties": {"provisioningState": states[len(shown)]}}))

    with answering(answers) as address:
        monkeypatch.setenv(api.ENDPOINT, f"http://{address}")
        with asking() as requests:
            assert requests.put("/serverfarms/x", {})
    assert len(shown) == 3


def test_a_group_of_many_resources_is_listed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(method: str, path: str) -> Canned:
        assert "/resourceGroups/fsd-x/resources" in path
        last = "skiptoken" in path
        item = {"id": f"/r/{int(last)}", "tags": {"fsd-app": "x"}}
        more = {} if last else {"nextLink": f"http://{address}{path}&$skiptoken=1"}
        return Canned(200, json.dumps({"value": [item], **more}))

    with answering(answers) as address:
        monkeypatch.setenv(api.ENDPOINT, f"http://{address}")
        with asking() as requests:
            assert requests.owned("x") == (["/r/0", "/r/1"], [])


def test_a_queue_that_is_being_changed_is_no_queue_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answers(method: str, path: str) -> Canned:
        asked.append(method)
        detail = (
            "SubCode=40901. Another conflicting operation is in progress." if len(asked) < 3 else "SubCode=40900. Conflict. It is there."
        )
        return Canned(409, f"<Error><Code>409</Code><Detail>{detail}</Detail></Error>", XML)

    with answering(answers) as address, asking() as requests:
        monkeypatch.setenv(
            connection_strings.SERVICE_BUS, "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=v"
        )
        monkeypatch.setenv(connection_strings.ADMINISTRATION, address)
        with clients.administration(("x",), 0) as admin:
            assert requests.unless(Code.ALREADY_EXISTS, "queue q", lambda: admin.create_queue("q")) is None
    assert asked == 3 * ["PUT"]


def test_strings_with_signatures_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (
        f"Endpoint=sb://{name}.servicebus.windows.net/;SharedAccessSignature=SharedAccessSignature sr=sb%3a%2f%2f{name}&sig=x%3d&se=9&skn=k"
        for name in ("one", "two")
    )
    for between in (" ", "\n", "\n\n  "):
        monkeypatch.setenv(connection_strings.SERVICE_BUS, f" {one}{between}{two.replace('Endpoint', 'endpoint')} ")
        assert connection_strings.service_bus_hosts() == ["one.servicebus.windows.net", "two.servicebus.windows.net"]
        clients.service_bus(("one", "two"), 1).close()
        clients.administration(("one", "two"), 1).close()
    monkeypatch.setenv(connection_strings.STORAGE, "BlobEndpoint=https://own.example.org/;SharedAccessSignature=sv=1&sig=x%3D")
    clients.container("", "any").close()


UNAUTHORIZED = "<Error><Code>401</Code><Detail>Manage,EntityRead claims required for this operation. TrackingId:1_G2</Detail></Error>"
FORBIDDEN = "<Error><Code>403</Code><Detail>Authorization failed for specified action: Manage,EntityRead. TrackingId:1_G2</Detail></Error>"


@pytest.mark.parametrize("refusal", [Canned(401, UNAUTHORIZED, XML), Canned(403, FORBIDDEN, XML)])
def test_the_administration_of_queues_settles_like_the_rest(monkeypatch: pytest.MonkeyPatch, refusal: Canned) -> None:
    """Its refusal while a role is not in force yet, with the SDK that there is."""
    asked: list[str] = []

    def answers(method: str, path: str) -> Canned:
        asked.append(method)
        return refusal if len(asked) % 3 else Canned(200, '<feed xmlns="http://www.w3.org/2005/Atom"/>', XML)

    with answering(answers) as address, asking() as requests:
        monkeypatch.setenv(
            connection_strings.SERVICE_BUS, "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=v"
        )
        monkeypatch.setenv(connection_strings.ADMINISTRATION, address)
        with pytest.raises(DriverError, match="lack the role Azure Service Bus Data Owner") as raised:
            queues.remove(requests, "x", connection_strings.service_bus_hosts())
        assert raised.value.code is Code.DENIED
        asked.clear()
        requests.settling()
        assert queues.remove(requests, "x", connection_strings.service_bus_hosts()) == []
        assert len(asked) == 3


def test_a_service_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_FIRST_S", 0.5)
    monkeypatch.setenv(api.ENDPOINT, "http://127.0.0.1:9")
    with pytest.raises(DriverError, match="cannot be reached") as raised:
        provisioner().find("x")
    assert raised.value.code is Code.UNAVAILABLE


def test_names_are_enough_for_every_driver(app: str) -> None:
    made = provisioner().ensure(app, 1, 1)
    with recorded() as calls:
        for driver in (PROVIDER.messages(made, 0), PROVIDER.objects(made), PROVIDER.invoker(made)):
            driver.close()
    assert not calls
    assert Resources(**json.loads(json.dumps({"app": made.app, "ranks": 1, "slots": 1, "names": dict(made.names)}))) == made


def test_who_deploys_is_read_from_the_token(azure: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def token(**claims: str) -> str:
        return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"

    monkeypatch.setenv("FSD_AZURE_TOKEN", token(oid="1", upn="me@example.org"))
    assert azure.member() == ("1", "User")
    monkeypatch.setenv("FSD_AZURE_TOKEN", token(oid="2", idtyp="app"))
    assert azure.member() == ("2", "ServicePrincipal")
    assert os.environ["FSD_AZURE_TOKEN"] not in str(azure.__dict__)
