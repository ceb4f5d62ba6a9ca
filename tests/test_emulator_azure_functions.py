"""The local Functions host over HTTP, with real instances of a real FunctionApp: calls, instances, limits, keys, control plane."""

from __future__ import annotations

import json
import sys
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("azure.functions")

from azure_functions_emulator import BEARER, WEB, Emulator, G, S, site, zipped
from function_host import PATIENCE_S, gone, needs_proc
from host_cases import HttpHostCases
from waiting import until

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """The usual one: a call waits long for an instance."""
    with Emulator.running("--queue-s", "60") as emulator:
        yield emulator


# calls


def test_a_call_reaches_the_function_as_the_platform_would_make_it(emulator: Emulator) -> None:
    name = emulator.create()
    key = emulator.keys(name)["functionKeys"]["default"]
    headers = {"X-Fsd-Nonce": "abc", "x-functions-key": key, "X-Fsd-Call": "{}"}
    status, body = emulator.ask("POST", f"/sites/{name}/api/worker?a=1&a=2&b", b'{"n": 1}', headers)
    first, second = json.loads(body), emulator.call(name)
    assert status == 200
    assert (first["event"], first["method"], first["type"]) == ({"n": 1}, "POST", "azure.functions.http")
    assert first["params"] == {"a": "1,2", "b": ""}
    assert first["headers"]["x-fsd-nonce"] == "abc"
    assert "x-fsd-call" not in first["headers"]
    assert urllib.parse.urlsplit(first["url"]).path == f"/sites/{name}/api/worker"
    assert not first["thread"]  # a synchronous function runs beside the worker's loop
    assert (first["calls"], second["calls"], first["pid"]) == (1, 2, second["pid"])
    [shown] = emulator.instances(name)
    assert shown["calls"] == 2
    assert "a function printed this" in Path(shown["log"]).read_text()


def test_routes(emulator: Emulator) -> None:
    name = emulator.create()
    assert emulator.ask("GET", f"/sites/{name}/api/items/a%20b/c/d") == (200, b"item {'item': 'a b', 'rest': 'c/d'}")
    assert emulator.ask("GET", f"/sites/{name}/API/Items/x/")[0] == 200
    key = emulator.keys(name)["functionKeys"]["default"]
    for method, path in (("GET", "api/worker"), ("POST", "worker"), ("POST", "api/worker/more"), ("POST", "api"), ("POST", "api/items/x")):
        assert emulator.ask(method, f"/sites/{name}/{path}?code={key}") == (404, b"")
    assert emulator.ask("POST", "/sites/no-such-site/api/worker")[0] == 404


def test_keys(emulator: Emulator) -> None:
    name, other = emulator.create(), emulator.create()
    key, master = emulator.keys(name)["functionKeys"]["default"], emulator.keys(name)["masterKey"]
    path = f"/sites/{name}/api/worker"
    for wrong in ("", "x", key[:-1], emulator.keys(other)["functionKeys"]["default"]):
        assert emulator.ask("POST", f"{path}?code={wrong}") == (401, b"")
        assert emulator.ask("POST", path, headers={"x-functions-key": wrong}) == (401, b"")
    for right in (key, master):
        assert emulator.ask("POST", f"{path}?code={right}")[0] == 200
        assert emulator.ask("POST", path, headers={"x-functions-key": right})[0] == 200
    assert emulator.ask("DELETE", f"/sites/{name}/api/status?code={key}")[0] == 401  # of the level ADMIN
    assert emulator.ask("DELETE", f"/sites/{name}/api/status?code={master}") == (418, b"DELETE")


@pytest.mark.parametrize("cold", ["fork", "spawn"])
def test_what_a_function_finds_in_its_environment(cold: str) -> None:
    with Emulator.running("--cold", cold, AZURE_STORAGE_CONNECTION_STRING="the emulator's") as emulator:
        name = emulator.create(settings={"FSD_AZURE_RESOURCES": "{}"})
        found = emulator.call(name, do="environment")
        [shown] = emulator.instances(name)
        assert found["FSD_AZURE_RESOURCES"] == "{}"
        assert (found["WEBSITE_SITE_NAME"], found["WEBSITE_INSTANCE_ID"], found["FUNCTIONS_WORKER_RUNTIME"]) == (
            name,
            shown["id"],
            "python",
        )
        assert found["WEBSITE_HOSTNAME"] == f"127.0.0.1:{emulator.ready['port']}/sites/{name}"
        assert found["OPENBLAS_NUM_THREADS"] == "1"
        assert not {"EMULATOR_ONLY", "FSD_AZURE_KEY", "AZURE_STORAGE_CONNECTION_STRING"} & set(found)


def test_an_answer_that_is_cut_ends_nothing(tmp_path: Path) -> None:
    gate, done = tmp_path / "gate", tmp_path / "done"
    with Emulator.running("--answer-s", "0.5") as emulator:
        name = emulator.create()
        [first] = emulator.instances(name)
        status, said = emulator.post(name, do="wait", until=str(gate), done=str(done))
        assert (status, b"no answer within 0.5 s" in said) == (504, True)
        assert emulator.instances(name)[0]["state"] == "busy"
        gate.touch()
        until(done.exists)
        until(lambda: [(it["pid"], it["state"]) for it in emulator.instances(name)] == [(first["pid"], "idle")])


@needs_proc
def test_a_function_that_is_over_its_time_is_killed(emulator: Emulator, tmp_path: Path) -> None:
    name = emulator.create(settings={"AzureFunctionsJobHost__functionTimeout": "00:00:01"})
    [first] = emulator.instances(name)
    kills = emulator.look("stats").get("time_kills", 0)
    assert emulator.post(name, do="wait", until=str(tmp_path / "never"))[0] == 504
    until(lambda: gone(first["pid"]))
    assert emulator.look("stats")["time_kills"] == kills + 1
    until(lambda: emulator.post(name)[0] == 200)  # in a second, a new one's start included
    assert first["pid"] not in [it["pid"] for it in emulator.instances(name)]


def test_the_answer_of_a_process_that_ended_quotes_its_last_call_only(emulator: Emulator) -> None:
    name = emulator.create()
    emulator.call(name, say="in an earlier call")
    assert b"the process ended: it wrote nothing" in emulator.post(name, do="kill", say="")[1]


@pytest.mark.timeout(120)
def test_sizes(emulator: Emulator) -> None:
    name = emulator.create(instanceMemoryMB=2048)
    path = f"/sites/{name}/api/worker?code={emulator.keys(name)['functionKeys']['default']}"
    fits = b"x" * 104_857_600
    status, said = emulator.ask("POST", path, fits)
    assert (status, json.loads(said)["bytes"]) == (200, len(fits))
    assert emulator.ask("POST", path, fits + b"x")[0] == 413
    assert emulator.ask("POST", f"{path}&more={'x' * 20000}")[0] == 414
    assert emulator.post(name)[0] == 200


# the control plane


def test_a_site_and_its_settings(emulator: Emulator, tmp_path: Path) -> None:
    name, gate, calls = emulator.create(settings={"A": "1"}), tmp_path / "gate", tmp_path / "calls"
    where = f"{WEB}/sites/{name}"
    status, shown = emulator.control("GET", where.upper().replace("/SUBSCRIPTIONS", "/subscriptions"))
    assert (status, shown["type"], shown["properties"]["state"]) == (200, "Microsoft.Web/sites", "Running")
    assert "siteConfig" not in shown["properties"]
    assert shown["identity"]["principalId"]
    host = f"127.0.0.1:{emulator.ready['port']}"
    kinds = {each["hostType"]: each["name"] for each in shown["properties"]["hostNameSslStates"]}
    assert kinds == {"Standard": f"{host}/sites/{name}", "Repository": f"{host}/scm/{name}"}
    assert emulator.control("POST", f"{where}/config/appsettings/list")[1]["properties"] == {"A": "1"}
    keys = emulator.keys(name)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(emulator.call, name, do="wait", until=str(gate), file=str(calls))
        until(calls.exists)
        assert emulator.control("PUT", f"{where}/config/appsettings", {"properties": {"B": "2"}})[1]["properties"] == {"B": "2"}
        found = emulator.call(name, do="environment")
        assert (found.get("A"), found["B"]) == (None, "2")
        gate.touch()
        assert held.result()["calls"] == 1  # what ran meanwhile ran to its end
    body = site(instanceMemoryMB=2048)
    del body["properties"]["siteConfig"]
    assert emulator.control("PUT", where, body)[0] == 200
    assert emulator.call(name, do="environment")["B"] == "2"  # settings stay where a request has none
    assert emulator.keys(name) == keys
    functions = {each["name"]: each["properties"] for each in emulator.control("GET", f"{where}/functions")[1]["value"]}
    assert functions.keys() == {f"{name}/worker", f"{name}/item", f"{name}/status"}
    assert functions[f"{name}/worker"]["invoke_url_template"] == f"http://{host}/sites/{name}/api/worker"
    assert functions[f"{name}/worker"]["config"]["bindings"][0]["methods"] == ["POST"]
    assert name in [each["name"] for each in emulator.control("GET", f"{WEB}/sites")[1]["value"]]
    assert [emulator.control("DELETE", where)[0] for _ in range(2)] == [200, 204]
    assert emulator.control("GET", where)[1]["error"]["code"] == "ResourceNotFound"
    assert emulator.ask("POST", f"/sites/{name}/api/worker?code={keys['masterKey']}")[0] == 404


def test_groups(emulator: Emulator) -> None:
    group = f"{S}/resourcegroups/fsd-other"
    plan, account = f"{group}/providers/Microsoft.Web/serverfarms/p", f"{group}/providers/Microsoft.Storage/storageAccounts/a"
    assert emulator.control("GET", group)[1]["error"]["code"] == "ResourceGroupNotFound"
    assert emulator.control("PUT", plan, {"location": "x"})[1]["error"]["code"] == "ResourceGroupNotFound"
    assert [emulator.control("PUT", group, {"location": "eastus2", "tags": {"a": "b"}})[0] for _ in range(2)] == [201, 200]
    assert emulator.control("PUT", group, {"location": "westeurope"})[0] == 409
    assert emulator.control("PUT", plan, {"location": "eastus2", "sku": {"name": "FC1"}})[1]["properties"] == {
        "provisioningState": "Succeeded"
    }
    assert emulator.control("PUT", account, {"location": "eastus2", "tags": {"c": "d"}})[0] == 200
    assert emulator.control("PUT", f"{account}/managementPolicies/default", {"properties": {"policy": {}}})[0] == 200
    role = f"{account}/providers/Microsoft.Authorization/roleAssignments"
    granted = {"properties": {"principalId": "p", "roleDefinitionId": "r"}}
    assert [emulator.control("PUT", f"{role}/{name}", granted)[0] for name in ("one", "one", "two")] == [201, 201, 409]
    assert len(emulator.control("GET", role)[1]["value"]) == 1
    there = emulator.control("GET", f"{group}/resources")[1]["value"]
    assert [(each["type"], each.get("tags")) for each in there][:2] == [
        ("Microsoft.Web/serverfarms", None),
        ("Microsoft.Storage/storageAccounts", {"c": "d"}),
    ]
    named = emulator.create()
    inside = f"{group}/providers/Microsoft.Web/sites/inside"
    assert emulator.control("PUT", inside, site())[0] == 200
    status, _ = emulator.control("DELETE", group)
    assert status == 202
    until(lambda: emulator.control("GET", group)[0] == 404)
    assert emulator.control("DELETE", plan)[0] == 204
    assert emulator.ask("GET", "/sites/inside/api/items/x/y")[0] == 404
    assert emulator.post(named)[0] == 200


@pytest.mark.parametrize(
    ("kind", "body", "statuses", "stated"),
    [
        ("Microsoft.Web/serverfarms/status", {"location": "eastus2"}, [200, 200], True),
        ("Microsoft.Storage/storageAccounts/status", {"location": "eastus2"}, [200, 200], True),
        ("Microsoft.Storage/storageAccounts/status/managementPolicies/default", {"properties": {"policy": {}}}, [200, 200], False),
        ("Microsoft.Storage/storageAccounts/status/blobServices/default/containers/c", {}, [201, 200], False),
        ("Microsoft.ServiceBus/namespaces/status", {"location": "eastus2"}, [201, 200], True),
        ("Microsoft.ManagedIdentity/userAssignedIdentities/status", {"location": "eastus2"}, [201, 200], False),
        (
            "Microsoft.Authorization/roleAssignments/status",
            {"properties": {"principalId": "status", "roleDefinitionId": "r"}},
            [201, 201],
            False,
        ),
    ],
)
def test_a_put_is_answered_as_the_vendor_describes_it(
    emulator: Emulator, kind: str, body: dict[str, Any], statuses: list[int], stated: bool
) -> None:
    """Its status, when it makes something and when that is there; and whether that has its own state."""
    answers = [emulator.control("PUT", f"{G}/providers/{kind}", body) for _ in range(2)]
    assert [status for status, _ in answers] == statuses
    shown = [*(each for _, each in answers), emulator.control("GET", f"{G}/providers/{kind}")[1]]
    assert [each["properties"].get("provisioningState") for each in shown] == [("Succeeded" if stated else None)] * 3


def test_an_empty_plan_goes_with_its_last_site(emulator: Emulator) -> None:
    plan = f"{WEB}/serverfarms/goes"
    for kept in (False, True):
        assert emulator.control("PUT", plan, {"location": "eastus2"})[0] == 200
        for name in ("first", "last"):
            body = site()
            body["properties"]["serverFarmId"] = plan.upper() if name == "last" else plan
            assert emulator.control("PUT", f"{WEB}/sites/{name}", body)[0] == 200
        assert emulator.control("DELETE", plan)[1]["error"]["code"] == "Conflict"
        assert emulator.control("DELETE", f"{WEB}/sites/first")[0] == 200
        assert emulator.control("GET", plan)[0] == 200
        query = f"?api-version=2024-04-01&deleteEmptyServerFarm={str(not kept).lower()}"
        assert emulator.ask("DELETE", f"{WEB}/sites/last{query}", headers=BEARER)[0] == 200
        assert emulator.control("GET", plan)[0] == (200 if kept else 404)
    assert emulator.control("DELETE", plan)[0] == 200


def test_who_sends_code_while_other_code_comes_is_told_of_the_conflict() -> None:
    with Emulator.running("--pending-s", "3") as emulator:
        name = emulator.create()
        headers = {**BEARER, "Content-Type": "application/zip"}
        for _ in range(5):  # a machine that stood still for 3 s sends the second when the first is in place
            assert emulator.ask("POST", f"/scm/{name}/api/publish", zipped(), headers)[0] == 202
            second = emulator.publish(name, zipped())
            until(lambda: json.loads(emulator.ask("GET", f"/scm/{name}/api/deployments/latest", headers=BEARER)[1])["status"] == 4 or None)
            if second["status"] != 4:
                break
        assert (second["status"], second["complete"]) == (5, True)
        assert emulator.publish(name, zipped())["status"] == 4


def test_a_region_that_takes_no_few_instances() -> None:
    with Emulator.running("--min-instances", "40") as emulator:
        assert emulator.control("PUT", f"{WEB}/sites/few", site(maximumInstanceCount=39))[0] == 400
        assert emulator.control("PUT", f"{WEB}/sites/few", site(maximumInstanceCount=40))[0] == 200


def test_a_deletion_tells_when_it_is_done(emulator: Emulator) -> None:
    import http.client

    group = f"{S}/resourceGroups/brief"
    assert emulator.control("PUT", group, {"location": "eastus2"})[0] == 201
    connection = http.client.HTTPConnection("127.0.0.1", emulator.ready["port"], timeout=PATIENCE_S)
    connection.request("DELETE", f"{group}?api-version=1", headers=BEARER)
    answer = connection.getresponse()
    answer.read()
    where = urllib.parse.urlsplit(answer.headers["Location"])
    connection.close()
    assert answer.status == 202
    until(lambda: emulator.ask("GET", f"{where.path}?{where.query}", headers=BEARER)[0] == 200)
    assert emulator.control("GET", group)[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/subscriptions/other/resourcegroups/x", None, 404, "SubscriptionNotFound"),
        ("GET", f"{S}/any", None, 404, "NotFound"),
        ("GET", "/any", None, 404, "NotFound"),
        ("PUT", f"{G}/providers/Microsoft.Sql/servers/x", {}, 404, "NotFound"),
        ("POST", f"{WEB}/serverfarms/x/restart", {}, 404, "NotFound"),
        ("PUT", f"{S}/resourceGroups/bad.", {"location": "x"}, 400, "InvalidResourceGroup"),
        ("PUT", f"{S}/resourceGroups/x", {}, 400, "LocationRequired"),
        ("PUT", f"{S}/resourceGroups/x", [], 400, "InvalidRequestContent"),
        ("POST", f"{WEB}/sites/none/host/default/listkeys", None, 404, "ResourceNotFound"),
        ("GET", f"{WEB}/serverfarms/none", None, 404, "ResourceNotFound"),
        ("PUT", f"{G}/providers/Microsoft.Authorization/roleAssignments/x", {}, 400, "InvalidCreateRoleAssignmentRequest"),
    ],
)
def test_requests_that_are_refused(emulator: Emulator, method: str, path: str, body: Any, status: int, code: str) -> None:
    answered, said = emulator.control(method, path, body)
    assert (answered, said["error"]["code"]) == (status, code), said


def test_every_request_needs_a_token_and_a_version(emulator: Emulator) -> None:
    assert emulator.ask("GET", f"{G}?api-version=1")[0] == 401
    status, said = emulator.ask("GET", G, headers=BEARER)
    assert (status, json.loads(said)["error"]["code"]) == (400, "MissingApiVersionParameter")
    assert emulator.ask("POST", "/scm/none/api/publish", headers=BEARER)[0] == 404


@pytest.mark.parametrize(
    ("settings", "scale", "words"),
    [
        ({}, {"instanceMemoryMB": 1024}, "one of 512, 2048, 4096"),
        ({}, {"maximumInstanceCount": 1001}, "1 to 1000"),
        ({}, {"triggers": {"http": {"perInstanceConcurrency": 4}}}, "only 1 is implemented"),
        ({}, {"alwaysReady": [{"name": "http", "instanceCount": 1}]}, "not implemented"),
        ({"FUNCTIONS_WORKER_RUNTIME": "python"}, {}, "for Flex Consumption sites is invalid"),
        ({"A-B": "1"}, {}, "letters, digits"),
        ({"BROKEN": "1"}, {}, "could not be indexed: RuntimeError: broken on purpose"),
        ({"TIMER": "1"}, {}, "function hourly: timerTrigger: only HTTP triggers are implemented here"),
        ({"AzureFunctionsJobHost__functionTimeout": "900"}, {}, "functionTimeout is '900'"),
    ],
)
def test_sites_that_are_refused(emulator: Emulator, settings: dict[str, str], scale: dict[str, Any], words: str) -> None:
    status, said = emulator.control("PUT", f"{WEB}/sites/refused", site(settings, **scale))
    assert (status, words in said["error"]["message"]) == (400, True), said
    assert emulator.control("GET", f"{WEB}/sites/refused")[0] == 404


def test_a_change_that_fails_leaves_what_runs(emulator: Emulator) -> None:
    name = emulator.create(settings={"A": "1"})
    assert emulator.control("PUT", f"{WEB}/sites/{name}/config/appsettings", {"properties": {"BROKEN": "1"}})[0] == 400
    assert emulator.control("POST", f"{WEB}/sites/{name}/config/appsettings/list")[1]["properties"] == {"A": "1"}
    assert emulator.call(name, do="environment")["A"] == "1"


def test_what_was_just_made_settles() -> None:
    """As on the platform, when asked for: not there, not ready, no keys, no role; and a host without storage has no keys ever."""
    with Emulator.running("--settle", "1") as emulator:
        plan = f"{WEB}/serverfarms/p"
        assert emulator.control("PUT", plan, {"location": "eastus2"})[0] == 200
        name = emulator.create(settings={"AzureWebJobsStorage__accountName": "a"})
        assert [emulator.control("GET", path)[0] for path in (plan, f"{WEB}/sites/{name}")] == [404, 404]
        assert "403 (Forbidden)" in emulator.publish(name, zipped())["status_text"]
        states = [emulator.control("GET", plan)[1]["properties"]["provisioningState"] for _ in range(2)]
        assert states == ["Accepted", "Succeeded"]
        assert emulator.control("GET", f"{WEB}/sites/{name}")[0] == 200
        assert emulator.publish(name, zipped())["status"] == 4
        assert emulator.keys(name)["error"]["code"] == "BadRequest"
        assert "functionKeys" in emulator.keys(name)
        bare = emulator.create()
        assert [emulator.keys(bare)["error"]["code"] for _ in range(3)] == ["BadRequest"] * 3


def test_a_namespace_says_its_tls_in_a_version_that_knows_it(emulator: Emulator) -> None:
    path, headers = f"{G}/providers/Microsoft.ServiceBus/namespaces/tls", {**BEARER, "Content-Type": "application/json"}
    body = json.dumps({"location": "eastus2", "properties": {"minimumTlsVersion": "1.2"}}).encode()
    assert [emulator.ask("PUT", f"{path}?api-version={version}", body, headers)[0] for version in ("2021-11-01", "2024-01-01")] == [
        400,
        201,
    ]


# code


def test_published_code_runs_with_nothing_but_itself() -> None:
    with Emulator.running("--code", "zip") as emulator:
        name = emulator.create()
        assert emulator.post(name)[0] == 404  # nothing is published
        own = zipped(
            **{
                "host.json": '{"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}',
                "function_app.py": "import json\nimport azure.functions as func\nimport importlib.util\nfrom vendored import NAME\n"
                "app = func.FunctionApp()\n@app.route(route='worker')\ndef worker(req: func.HttpRequest) -> str:\n"
                "    found = {name: importlib.util.find_spec(name) is not None for name in ('numpy', 'fsd_core')}\n"
                "    return json.dumps({'name': NAME, 'file': __file__, **found})\n",
                ".python_packages/lib/site-packages/vendored.py": "NAME = 'from the zip'\n",
            }
        )
        assert emulator.publish(name, own)["status"] == 4
        key = emulator.keys(name)["functionKeys"]["default"]
        status, body = emulator.ask("PUT", f"/sites/{name}/worker?code={key}")
        found = json.loads(body)
        assert (status, found["name"], found["numpy"], found["fsd_core"]) == (200, "from the zip", False, False)
        assert str(Path(emulator.ready["logs"]).parent / "code") in found["file"]
        for package, words in (
            (b"no zip", "expected a zip"),
            (zipped(**{"host.json": ""}), "expected host.json at its root"),
            (zipped(**{"host.json": "{}"}), 'version: expected "2.0"'),
            (zipped(**{"function_app.py": "import numpy\n"}), "No module named 'numpy'"),
            (zipped(**{"function_app.py": "x = 1\n"}), "0 instances of FunctionApp"),
        ):
            deployment = emulator.publish(name, package)
            assert (deployment["status"], words in deployment["status_text"]) == (3, True), deployment
        assert emulator.ask("PUT", f"/sites/{name}/worker?code={key}")[0] == 200  # what was published before serves on
        body_of_another = site()
        body_of_another["properties"]["functionAppConfig"]["runtime"]["version"] = "3.10"
        assert emulator.control("PUT", f"{WEB}/sites/older", body_of_another)[0] == 200
        assert f"by its own Python {HERE} only" in emulator.publish("older", own)["status_text"]


def test_a_package_that_is_not_installed() -> None:
    with Emulator.running("--source", "no_such.package") as emulator:
        status, said = emulator.control("PUT", f"{WEB}/sites/other", site())
        assert (status, "package no_such.package is not installed" in said["error"]["message"]) == (400, True)


class TestShared(HttpHostCases):
    host = Emulator
    small, one, too_much_mb = {"instanceMemoryMB": 512}, {"maximumInstanceCount": 1}, 700
    ends: ClassVar = {
        "raise": "500 ",
        **dict.fromkeys(("kill", "exit 3", "exit 0"), "500 .*the process ended.*"),
        "grow": "500 .*512 MiB exceeded with .*",
    }
