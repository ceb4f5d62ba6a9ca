"""The local Cloud Run over HTTP, with real functions-framework processes: calls, instances, limits, identity, control plane."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("functions_framework")

from cloud_run_emulator import FLAVOR, PLACE, PROJECT, Emulator, function
from fsd_conformance.emulators import google
from fsd_conformance.emulators.process import started
from function_host import PATIENCE_S, ask, gone, package
from host_cases import HttpHostCases
from waiting import until

INVOKER = "roles/run.invoker"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """The usual one: a call waits long for an instance."""
    with Emulator.running("--queue-s", "60") as emulator:
        yield emulator


# calls


def test_a_call_reaches_the_function_and_an_idle_instance_is_used_again(emulator: Emulator) -> None:
    name = emulator.create()
    assert [it["state"] for it in emulator.instances(name)] == ["idle"]  # the one that the deployment tried
    status, body = emulator.post(name, {"X-Fsd-Nonce": "abc"}, "/deep/path?a=1&a=2", n=1)
    first, second = json.loads(body), emulator.call(name)
    assert status == 200
    assert first["event"] == {"n": 1}
    assert (first["path"], first["query"]) == ("/deep/path", {"a": ["1", "2"]})
    assert first["headers"]["X-Fsd-Nonce"] == "abc"
    assert first["headers"]["Authorization"].endswith(".SIGNATURE_REMOVED_BY_GOOGLE")
    assert (first["calls"], second["calls"]) == (1, 2)
    assert first["pid"] == second["pid"]
    [shown] = emulator.instances(name)
    assert shown["calls"] == 2
    assert "a function printed this" in Path(shown["log"]).read_text()


@pytest.mark.parametrize("cold", ["fork", "spawn"])
def test_what_a_function_finds_in_its_environment(cold: str) -> None:
    hosts = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1", "GOOGLE_CLOUD_PROJECT": "elsewhere"}
    with Emulator.running("--cold", cold, **hosts) as emulator:
        name = emulator.create(environmentVariables={"GIVEN": "value"})
        found = emulator.call(name, do="environment")
        [shown] = emulator.instances(name)
        assert found["GIVEN"] == "value"
        assert found["PUBSUB_EMULATOR_HOST"] == "127.0.0.1:1"
        assert found["CLOUD_RUN_TIMEOUT_SECONDS"] == "60"
        assert (found["K_SERVICE"], found["K_REVISION"], found["FUNCTION_TARGET"]) == (name, shown["revision"], "handle")
        assert found["PORT"] == str(shown["port"])
        assert found["OPENBLAS_NUM_THREADS"] == "1"
        assert found["GCE_METADATA_HOST"] not in ("", f"127.0.0.1:{emulator.ready['port']}")
        assert not {"EMULATOR_ONLY", "GOOGLE_CLOUD_PROJECT"} & set(found)
        assert emulator.stop() == 0


def test_a_call_waits_for_an_instance(emulator: Emulator, tmp_path: Path) -> None:
    name, gate, calls = emulator.create(maxInstanceCount=2), tmp_path / "gate", tmp_path / "calls"
    with ThreadPoolExecutor(5) as pool:
        results = [pool.submit(emulator.call, name, do="wait", until=str(gate), file=str(calls)) for _ in range(5)]
        until(lambda: calls.exists() and len(calls.read_text().splitlines()) == 2)
        assert len(emulator.instances(name)) == 2
        gate.touch()
        assert len({result.result()["pid"] for result in results}) == 2


@pytest.mark.parametrize("after", ["run", "kill", "one thread"])
def test_a_call_that_times_out(tmp_path: Path, after: str) -> None:
    gate, done = tmp_path / "gate", tmp_path / "done"
    with Emulator.running("--queue-s", "0.2", "--after-timeout", "kill" if after == "kill" else "run") as emulator:
        threads = {"THREADS": "1"} if after == "one thread" else {}
        seconds = 1 if threads else 3  # with threads, gunicorn needs a sign of life in that time
        name = emulator.create(timeoutSeconds=seconds, maxInstanceCount=1, environmentVariables=threads)
        [first] = emulator.instances(name)
        status, said = emulator.post(name, do="wait", until=str(gate), done=str(done))
        if not threads or status != 500:  # gunicorn may be first: it has the same time
            assert (status, f"no answer within {seconds} s".encode() in said) == (504, True)
        if after == "run":  # a zombie: it works on, and its instance takes no other call
            assert emulator.instances(name)[0]["state"] == "busy"
            assert emulator.post(name)[0] == 429
            gate.touch()
            until(done.exists)
            until(lambda: [(it["pid"], it["state"]) for it in emulator.instances(name)] == [(first["pid"], "idle")])
        elif threads:  # gunicorn itself ends the worker, and starts another in the same instance
            until(lambda: "WORKER TIMEOUT" in Path(first["log"]).read_text())
            until(lambda: emulator.post(name)[0] == 200)
            assert emulator.instances(name)[0]["pid"] == first["pid"] or gone(first["pid"])  # as when it was too busy to end it gently
        else:
            assert until(lambda: gone(first["pid"]))
            until(lambda: not emulator.instances(name))
            assert not done.exists()
            assert emulator.look("stats")["time_kills"] == 1


def test_an_instance_finishes_its_work_when_the_caller_is_gone(emulator: Emulator, tmp_path: Path) -> None:
    name, gate, done, calls = emulator.create(), tmp_path / "gate", tmp_path / "done", tmp_path / "calls"
    body = json.dumps({"do": "wait", "until": str(gate), "done": str(done), "file": str(calls)})
    head = [f"POST /run/{name} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    head += [f"{key}: {value}" for key, value in emulator.identity(emulator.url(name)).items()]
    with socket.create_connection(("127.0.0.1", emulator.ready["port"])) as caller:
        caller.sendall("\r\n".join([*head, "", body]).encode())
        until(calls.exists)
    gate.touch()
    until(done.exists)
    until(lambda: [it["state"] for it in emulator.instances(name)] == ["idle"])


def test_sizes(emulator: Emulator) -> None:
    name = emulator.create(availableMemory="1Gi")
    header = emulator.identity(emulator.url(name))
    event = json.dumps({"do": "echo", "filler": ""}).encode()
    fits = event[:-2] + b"x" * ((32 << 20) - len(event)) + event[-2:]
    assert emulator.ask("POST", f"/run/{name}", fits, header)[0] == 200
    status, said = emulator.ask("POST", f"/run/{name}", fits + b" ", header)
    assert (status, b"over 33554432 bytes" in said) == (413, True)
    assert len(emulator.post(name, do="large", bytes=1 << 20)[1]) == 1 << 20
    status, said = emulator.post(name, do="large", bytes=(32 << 20) + (1 << 17))
    assert (status, b"the answer is too large" in said) == (500, True)
    assert emulator.post(name)[0] == 200


def test_a_changed_function_starts_anew(emulator: Emulator, tmp_path: Path) -> None:
    name, gate, calls = emulator.create(environmentVariables={"A": "1", "B": "1"}), tmp_path / "gate", tmp_path / "calls"
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(emulator.call, name, do="wait", until=str(gate), file=str(calls))
        until(calls.exists)
        old = emulator.instances(name)[0]["revision"]
        assert "error" not in emulator.update(name, "serviceConfig.environmentVariables", environmentVariables={"A": "2"})
        found = emulator.call(name, do="environment")
        assert (found["A"], found.get("B")) == ("2", None)
        assert found["K_REVISION"] != old
        assert "error" not in emulator.update(name, "service_config.timeout_seconds", timeoutSeconds=30)
        assert emulator.call(name, do="environment")["A"] == "2"
        gate.touch()
        assert held.result()["calls"] == 1  # what ran meanwhile ran to its end
    until(lambda: len({it["revision"] for it in emulator.instances(name)}) == 1)


def test_every_call_twice_and_late(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with Emulator.running("--duplicate", "1", "--late", "1:0.05") as emulator:
        name = emulator.create()
        emulator.call(name, file=str(calls))
        until(lambda: calls.exists() and len(calls.read_text().splitlines()) == 2)
        assert emulator.look("stats")["late"] == 1


# identity


def test_who_may_call(emulator: Emulator) -> None:
    name = emulator.create()
    path, right = f"/run/{name}", emulator.identity(emulator.url(name))
    assert emulator.ask("POST", path, b"{}", right)[0] == 200
    assert emulator.ask("POST", path, b"{}")[0] == 403
    assert emulator.ask("POST", path, b"{}", emulator.identity(emulator.url("other")))[0] == 401
    assert emulator.ask("POST", path, b"{}", emulator.access)[0] == 401
    assert emulator.ask("POST", path, b"{}", {"Authorization": right["Authorization"][:-2] + "xx"})[0] == 401
    assert emulator.ask("POST", path, b"{}", {"Authorization": "Basic abc"})[0] == 401
    assert emulator.ask("POST", "/run/no-such-function", b"{}", right)[0] == 404


def test_a_reader_of_an_older_policy_version_does_not_see_conditions(emulator: Emulator) -> None:
    account = emulator.control("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "has-conditions"})[1]
    for method, where in (("POST", f"/v1/{account['name']}"), ("GET", f"{PLACE}/services/{emulator.create()}")):
        condition = {"title": "t", "expression": "true"}
        bindings = [{"role": INVOKER, "members": ["user:a@b.example"], "condition": condition}]
        assert emulator.control("POST", f"{where}:setIamPolicy", {"policy": {"bindings": bindings}})[0] == 400
        assert emulator.control("POST", f"{where}:setIamPolicy", {"policy": {"version": 3, "bindings": bindings}})[0] == 200
        old = emulator.control(method, f"{where}:getIamPolicy")[1]
        assert (old["version"], [each.get("condition") for each in old["bindings"]]) == (1, [None])
        assert old["bindings"][0]["role"].startswith(f"{INVOKER}_withcond_")
        assert emulator.control("POST", f"{where}:setIamPolicy", {"policy": old})[0] == 400
        new = emulator.control(method, f"{where}:getIamPolicy?options.requestedPolicyVersion=3")[1]
        assert (new["version"], new["bindings"]) == (3, bindings)
        for wrong in ("2", "x"):
            assert emulator.control(method, f"{where}:getIamPolicy?options.requestedPolicyVersion={wrong}")[0] == 400
        assert emulator.control("POST", f"{where}:setIamPolicy", {"policy": {**new, "version": 1}})[0] == 400
        assert emulator.control("POST", f"{where}:setIamPolicy", {"policy": {**new, "bindings": []}})[0] == 200


def test_a_role_on_a_condition_is_never_given_here(emulator: Emulator) -> None:
    name = emulator.create()
    binding = {"role": INVOKER, "members": ["allUsers"], "condition": {"title": "t", "expression": "true"}}
    policy = {"version": 3, "bindings": [binding]}
    assert emulator.control("POST", f"{PLACE}/services/{name}:setIamPolicy", {"policy": policy})[0] == 200
    assert emulator.ask("POST", f"/run/{name}", b"{}")[0] == 403  # conditions are kept and returned, and not evaluated


def test_functions_call_each_other_as_their_service_account(emulator: Emulator) -> None:
    status, account = emulator.control("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "the-workers"})
    assert status == 200
    assert emulator.control("POST", f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "the-workers"})[0] == 409
    email = account["email"]
    assert emulator.control("GET", f"/v1/projects/-/serviceAccounts/{email}")[1]["uniqueId"] == account["uniqueId"]
    name = emulator.create(serviceAccountEmail=email)
    told = emulator.call(name, do="identity", audience=emulator.url(name))
    assert (told["project"], told["email"]) == (PROJECT, email)
    mine = {"Authorization": f"Bearer {told['identity']}"}
    assert emulator.ask("POST", f"/run/{name}", b"{}", mine)[0] == 403
    policy = f"{PLACE}/services/{name}"
    assert emulator.control("GET", f"{policy}:getIamPolicy")[1]["bindings"] == []
    binding = {"role": INVOKER, "members": [f"serviceAccount:{email}"]}
    status, now = emulator.control("POST", f"{policy}:setIamPolicy", {"policy": {"bindings": [binding]}})
    assert (status, now["bindings"]) == (200, [binding])
    assert emulator.ask("POST", f"/run/{name}", b"{}", mine)[0] == 200
    stale = {"policy": {"etag": "old", "bindings": []}}
    assert emulator.control("POST", f"{policy}:setIamPolicy", stale)[1]["error"]["status"] == "ABORTED"
    nobody = {"policy": {"bindings": [{"role": INVOKER, "members": [f"serviceAccount:nobody@{PROJECT}.iam.gserviceaccount.com"]}]}}
    assert emulator.control("POST", f"{policy}:setIamPolicy", nobody)[0] == 400
    theirs = {"Authorization": f"Bearer {told['access']}"}
    assert emulator.ask("GET", f"{PLACE}/functions", headers=theirs)[0] == 403
    assert emulator.ask("GET", f"{PLACE}/functions")[0] == 401
    everyone = {"policy": {"bindings": [{"role": INVOKER, "members": ["allUsers"]}]}}
    assert emulator.control("POST", f"{policy}:setIamPolicy", everyone)[0] == 200
    assert emulator.ask("POST", f"/run/{name}", b"{}")[0] == 200
    assert emulator.control("DELETE", f"/v1/projects/{PROJECT}/serviceAccounts/{email}")[0] == 200
    assert emulator.control("GET", f"/v1/projects/{PROJECT}/serviceAccounts/{email}")[0] == 404


def test_google_auth_works_unchanged(emulator: Emulator, tmp_path: Path) -> None:
    name = emulator.create()
    program = textwrap.dedent("""
        import sys
        import google.auth
        from google.auth.transport.requests import AuthorizedSession, Request
        from google.oauth2 import id_token
        credentials, project = google.auth.default()
        listed = AuthorizedSession(credentials).get(sys.argv[1] + sys.argv[2])
        token = id_token.fetch_id_token(Request(), sys.argv[3])
        called = AuthorizedSession(google.auth.credentials.AnonymousCredentials()).post(
            sys.argv[3], data=b"{}", headers={"Authorization": f"Bearer {token}"})
        print(project, listed.status_code, len(listed.json()["functions"]) > 0, called.status_code)
    """)
    host = f"127.0.0.1:{emulator.ready['port']}"
    passed = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "CLOUDSDK_CONFIG": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GOOGLE_", "CLOUDSDK_"))} | passed
    command = [sys.executable, "-c", program, emulator.ready["endpoint"], f"{PLACE}/functions", emulator.url(name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout.split() == [PROJECT, "200", "True", "200"], done.stderr


def test_the_metadata_server(emulator: Emulator) -> None:
    root = "/computeMetadata/v1"
    assert emulator.ask("GET", "/", headers=FLAVOR)[0] == 200
    assert emulator.ask("GET", f"{root}/project/project-id")[0] == 403
    assert emulator.ask("GET", f"{root}/project/project-id", headers=FLAVOR) == (200, PROJECT.encode())
    assert emulator.ask("GET", f"{root}/instance/service-accounts/default/email", headers=FLAVOR)[1].startswith(b"owner@")
    for path in ("instance/service-accounts/other/token", "instance/service-accounts/default/identity", "any"):
        assert emulator.ask("GET", f"{root}/{path}", headers=FLAVOR)[0] == 404


# control plane


def test_the_control_plane(emulator: Emulator) -> None:
    name = f"projects/{PROJECT}/locations/us-central1/functions/controlled"
    status, operation = emulator.control("POST", f"{PLACE}/functions?functionId=controlled", function())
    assert (status, operation["done"], operation["metadata"]["target"]) == (200, False, name)
    assert emulator.control("GET", f"/v2/{name}")[1]["state"] == "DEPLOYING"
    status, said = emulator.control("DELETE", f"/v2/{name}")
    assert (status, said["error"]["status"]) == (409, "ABORTED")
    ended = emulator.done(operation)
    assert ended["response"]["name"] == name
    status, shown = emulator.control("GET", f"/v2/{name}")
    assert (shown["state"], shown["labels"]) == ("ACTIVE", {"fsd-app": "x"})
    assert shown["serviceConfig"]["uri"] == emulator.url("controlled")
    assert shown["serviceConfig"]["maxInstanceRequestConcurrency"] == 1
    status, said = emulator.control("POST", f"{PLACE}/functions?functionId=controlled", function())
    assert (status, said["error"]["status"]) == (409, "ALREADY_EXISTS")
    emulator.create("other")
    listed, token = [], ""
    while True:
        page = emulator.control("GET", f"{PLACE}/functions?pageSize=1&pageToken={token}")[1]
        listed += page["functions"]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert {name, name.replace("controlled", "other")} <= {each["name"] for each in listed}
    written_back = emulator.control("PATCH", f"/v2/{name}?updateMask=labels", {**shown, "labels": {"a": "b"}})[1]
    assert "error" not in emulator.done(written_back)
    assert emulator.control("GET", f"/v2/{name}")[1]["labels"] == {"a": "b"}
    pid = emulator.call("controlled")["pid"]
    assert emulator.done(emulator.control("DELETE", f"/v2/{name}")[1])["response"]
    assert emulator.control("GET", f"/v2/{name}")[0] == 404
    assert emulator.post("controlled")[0] == 404
    assert until(lambda: gone(pid))
    assert emulator.control("GET", f"/v1/projects/{PROJECT}")[1]["projectId"] == PROJECT


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"memory": "2Gi"}, "Unknown name \"memory\" at 'function.service_config'"),
        ({"availableMemory": "2GB"}, "expected a whole number with k, M, G, Mi or Gi"),
        ({"availableMemory": "64Gi"}, "expected 128M to 32Gi"),
        ({"availableMemory": "2Gi", "availableCpu": "0.5"}, "needs at least 1"),
        ({"availableCpu": "3"}, "1, 2, 4, 6, 8"),
        ({"availableCpu": 1}, "expected text"),
        ({"availableCpu": "8"}, "too little"),
        ({"availableCpu": "0.5", "maxInstanceRequestConcurrency": 2}, "needs available_cpu of at least 1"),
        ({"timeoutSeconds": 3601}, "from 1 to 3600"),
        ({"maxInstanceCount": 0}, "maxInstanceCount 0"),
        ({"ingressSettings": "ALL"}, "ALLOW_ALL"),
        ({"environmentVariables": {"PORT": "1"}}, "reserved"),
        ({"environmentVariables": {"A": 1}}, "an object of text"),
        ({"environmentVariables": {"A": "x" * (32 << 10)}}, "more than 32768 bytes"),
        ({"vpcConnector": "x"}, "not implemented"),
        ({"minInstanceCount": 1}, "not implemented"),
    ],
)
def test_settings_that_are_refused(emulator: Emulator, service: dict[str, Any], message: str) -> None:
    status, said = emulator.control("POST", f"{PLACE}/functions?functionId=refused", function(**service))
    assert status in (400, 501)
    assert message in said["error"]["message"]
    assert emulator.control("GET", f"{PLACE}/functions/refused")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (f"{PLACE}/functions?functionId=Large", {}, 400, "lower-case"),
        (f"{PLACE}/functions?functionId=f", {"buildConfig": {}}, 400, "bucket and object are required"),
        (f"{PLACE}/functions?functionId=f", {"labels": {"App": "x"}}, 400, "labels"),
        (f"{PLACE}/functions?functionId=f", {"any": 1}, 400, "Unknown name"),
        (f"{PLACE}/functions?functionId=f", {"eventTrigger": {"trigger": "x"}}, 501, "eventTrigger is not implemented"),
        (f"{PLACE}/functions?functionId=f", {"buildConfig": {**function()["buildConfig"], "runtime": "nodejs22"}}, 400, "Python runtime"),
        (f"{PLACE}/functions:generateUploadUrl", {}, 501, "not implemented"),
        (PLACE.replace("us-central1", "mars") + "/functions?functionId=f", {}, 403, "Location mars"),
        (PLACE.replace(PROJECT, "other") + "/functions?functionId=f", {}, 403, "project other"),
        (f"/v1/projects/{PROJECT}/serviceAccounts", {"accountId": "abc"}, 400, "6 to 30"),
    ],
)
def test_requests_that_are_refused(emulator: Emulator, path: str, body: dict[str, Any], status: int, message: str) -> None:
    whole = {**function(), **body} if "functionId" in path else body
    answered, said = emulator.control("POST", path, whole)
    assert (answered, message in said["error"]["message"]) == (status, True), said


def test_a_mask_that_names_no_field(emulator: Emulator) -> None:
    name = emulator.create()
    status, said = emulator.control("PATCH", f"{PLACE}/functions/{name}?updateMask=serviceConfig.memory", {})
    assert (status, "Invalid update mask" in said["error"]["message"]) == (400, True)


def test_deployments_that_fail(emulator: Emulator) -> None:
    def error(short: str, **service: Any) -> Any:
        return emulator.done(emulator.control("POST", f"{PLACE}/functions?functionId={short}", function(**service))[1])["error"]

    missing = error("no-account", serviceAccountEmail=f"nobody@{PROJECT}.iam.gserviceaccount.com")
    assert (missing["code"], "iam.serviceaccounts.actAs" in missing["message"]) == (7, True)
    broken = error("broken", environmentVariables={"BROKEN": "1"})
    assert (broken["code"], "Container Healthcheck failed" in broken["message"]) == (3, True)
    assert emulator.control("GET", f"{PLACE}/functions/broken")[1]["state"] == "FAILED"
    assert emulator.post("broken")[0] == 404
    much = error("much", maxInstanceCount=1001)
    assert "Max instances must be set to 1000 or fewer in order to set the requested total CPU" in much["message"]
    name = emulator.create()
    assert "error" in emulator.update(name, "serviceConfig.environmentVariables", environmentVariables={"BROKEN": "1"})
    assert emulator.call(name)["calls"] == 1  # the revision before serves on
    assert "error" not in emulator.update("broken", "serviceConfig.environmentVariables", environmentVariables={})
    assert emulator.post("broken")[0] == 200


def test_the_quota_of_a_new_project() -> None:
    with Emulator.running("--quota-scale", "0.02") as emulator:
        name = emulator.create(maxInstanceCount=20)
        assert "20 or fewer" in emulator.update(name, "serviceConfig.maxInstanceCount", maxInstanceCount=21)["error"]["message"]


def test_an_api_that_is_not_enabled() -> None:
    with Emulator.running("--disabled", "cloudfunctions.googleapis.com,run") as emulator:
        status, said = emulator.control("GET", f"{PLACE}/functions")
        [info] = said["error"]["details"]
        assert (status, info["reason"], info["metadata"]["service"]) == (403, "SERVICE_DISABLED", "cloudfunctions.googleapis.com")
        service = f"/v1/projects/{PROJECT}/services/cloudfunctions.googleapis.com"
        assert emulator.control("GET", service)[1]["state"] == "DISABLED"
        operation = emulator.control("POST", f"{service}:enable", {})[1]
        assert emulator.control("GET", f"/v1/{operation['name']}")[1]["done"]
        assert emulator.control("GET", service)[1]["state"] == "ENABLED"
        assert emulator.control("GET", f"{PLACE}/functions") == (200, {"functions": []})
        assert emulator.control("GET", f"{PLACE}/services/any:getIamPolicy")[0] == 403


# code


def test_uploaded_code_runs_without_what_is_in_this_checkout(tmp_path: Path) -> None:
    main = """
        import importlib.util
        import numpy
        import beside

        def handle(request):
            return {"file": __file__, "beside": beside.NAME, "core": importlib.util.find_spec("fsd_core") is not None}
    """
    storage = started(lambda: google.CloudStorage(tmp_path / "storage"))
    try:
        with Emulator.running("--code", "zip", STORAGE_EMULATOR_HOST=storage.url) as emulator:
            kind = {"Content-Type": "application/json"}
            assert ask(storage.port, "POST", "/storage/v1/b?project=x", b'{"name": "some-bucket"}', kind)[0] == 200
            for name, data in {
                "code.zip": package({"main.py": textwrap.dedent(main), "beside.py": "NAME = 'from the zip'"}),
                "no.zip": b"no zip",
                "empty.zip": package({"other.py": ""}),
            }.items():
                upload = f"/upload/storage/v1/b/some-bucket/o?uploadType=media&name={name}"
                assert ask(storage.port, "POST", upload, data, {"Content-Type": "application/zip"})[0] == 200
            found = emulator.call(emulator.create())
            assert (found["beside"], found["core"]) == ("from the zip", False)
            assert str(Path(emulator.ready["logs"]).parent / "code") in found["file"]
            for name, message in {"no.zip": "not a zip", "empty.zip": "missing main.py", "none.zip": "HTTP 404"}.items():
                body = function()
                body["buildConfig"]["source"]["storageSource"]["object"] = name
                operation = emulator.control("POST", f"{PLACE}/functions?functionId={name.removesuffix('.zip')}", body)[1]
                assert message in emulator.done(operation)["error"]["message"]
    finally:
        storage.stop()


def test_a_module_that_is_not_installed() -> None:
    with Emulator.running("--source", "no_such.module") as emulator:
        operation = emulator.control("POST", f"{PLACE}/functions?functionId=f", function())[1]
        assert "module no_such.module is not installed" in emulator.done(operation)["error"]["message"]


class TestShared(HttpHostCases):
    host = Emulator
    small, one, too_much_mb = {"availableMemory": "256Mi"}, {"maxInstanceCount": 1}, 400
    ends: ClassVar = {
        "raise": "500 .*",
        **dict.fromkeys(("kill", "exit 3", "exit 0", "exit 139"), "503 .*the process ended.*"),
        "grow": "500 .*256 MiB exceeded with .*",
    }
