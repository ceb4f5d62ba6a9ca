"""Functions as processes: real ones, killed in every way; nothing may stay behind."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from fsd_core.driver import WORKER, Code, Resources
from fsd_local import PROVIDER
from fsd_local.invoke import LocalInvoker
from fsd_local.objects import LocalObjects
from waiting import until

FUNCTIONS = "local_functions"
T = TypeVar("T")


class App:
    """One app with its invoker, and the words to speak to its functions."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.resources: Resources = PROVIDER.provisioner({"root": str(root), **settings}).ensure("app", 1, 1)
        self.objects = LocalObjects(self.resources.names["root"])
        self.invoker = LocalInvoker(self.resources, FUNCTIONS)

    def do(self, what: str, key: str, **more: object) -> bytes:
        payload = json.dumps({"app": "app", "do": what, "key": key, **more}).encode()
        self.launch = self.invoker.invoke(WORKER, payload)
        return payload

    def told(self, key: str) -> str:
        """The object at ``key``, once it is there."""

        def there() -> bytes | None:
            try:
                return self.objects.get(key)
            except FileNotFoundError:
                return None

        return (until(there) or b"").decode()


def gone(pid: int) -> bool:
    """No such process, or only its exit code, which an init process may leave about."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return not shown or shown.startswith("Z")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., App]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    apps: list[App] = []

    def build(**settings: object) -> App:
        apps.append(App(tmp_path, **settings))
        return apps[-1]

    yield build
    for app in apps:
        app.invoker.close()


@pytest.mark.parametrize("cold", [False, True])
def test_a_function_runs_in_a_process_of_its_own(make: Callable[..., App], cold: bool) -> None:
    app = make(cold=cold)
    assert app.invoker.native() is None  # nothing runs before the first invocation
    payload = app.do("write", "a", fill="x" * 200_000)
    assert app.launch.poll() is None
    told = json.loads(app.told("a"))
    assert told["pid"] != os.getpid()
    assert told["threads"] == "1"
    assert told["size"] == len(payload)
    app.do("write", "b", code=1)  # failed and reported
    app.do("write", "c")
    assert len({json.loads(app.told(key))["pid"] for key in "abc"}) == 3
    app.invoker.close()
    assert not any(key.endswith("report") for key in app.objects.list("").keys)


@pytest.mark.parametrize("cold", [False, True])
def test_children_of_a_function_are_its_siblings_and_end_with_the_host(make: Callable[..., App], cold: bool) -> None:
    app = make(cold=cold)
    app.do("children", "c", count=3)
    assert int(app.told("c/parent")) == app.invoker.native().pid  # type: ignore[union-attr]
    seen = [app.told(f"c/{n}").split() for n in range(3)]
    assert {host for _, host in seen} == {app.told("c/parent")}
    app.invoker.close()
    assert all(gone(int(pid)) for pid, _ in seen)  # at once: close waits for them
    app.invoker.close()
    app.do("write", "again")  # a new host
    app.told("again")


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"do": "kill"}, "killed by signal 9"),
        ({"do": "raise"}, "exited with code 70: RuntimeError: on purpose"),
        ({"do": "write", "code": 7}, "exited with code 7"),
        ({"probe": {"key": "probe/k", "exit": 255}}, "exited with code 255"),
        ({"probe": {"key": "probe/k", "grow_mb": 500, "sleep_s": 600}}, "exceeded its memory limit of 256 MB"),
        ({"probe": {"key": "probe/k", "sleep_s": 600}}, "exceeded its time limit of 2 s"),
    ],
)
def test_how_a_function_ended_is_reported(make: Callable[..., App], cold: bool, order: dict[str, object], reason: str) -> None:
    app = make(memory_mb=256, timeout_s=2 if "time limit" in reason else 600, cold=cold)
    app.invoker.invoke(WORKER, json.dumps({"app": "app", "key": "probe/k", **order}).encode())
    told, layer, nonce = json.loads(app.told("probe/k/report"))
    assert told == reason
    assert layer == (3 if order.get("do") == "kill" else None)
    assert order.get("do") != "kill" or nonce == app.told("probe/k/nonce")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone lets one process limit another's files")
def test_what_cannot_be_reported_is_told_to_the_client(make: Callable[..., App]) -> None:
    """The host's children may write no file any more, as on a full disk: neither the function nor who reports for it."""
    app = make()
    app.do("write", "beside")
    beside = app.launch
    app.told("beside")
    resource.prlimit(app.invoker.native().pid, resource.RLIMIT_FSIZE, (16, 16))  # type: ignore[union-attr]
    app.do("raise", "a", rank=3)
    assert until(beside.poll) is Code.TOO_LARGE  # any launch of this client says it
    assert until(app.launch.poll) is Code.TOO_LARGE
    ended, _, why = app.launch.text.partition(", which could not be reported to the run: ")
    assert ended.startswith("rank 3: exited with code 70: ")
    assert re.fullmatch(rf"OSError: \[Errno 27\] File too large: '{app.resources.names['root']}/tmp/\w+'", why)


def test_a_function_reads_no_answer_of_a_request_that_it_gave_up(make: Callable[..., App]) -> None:
    app = make()
    app.do("impatient", "i")
    assert json.loads(app.told("i/said")) == [Code.UNAVAILABLE.value, Code.NOT_FOUND.value, "accepted"]
    app.told("i/late")  # refused, and run all the same: a launch may run late
    app.told("i/next")


def test_nothing_over_a_limit_starts(make: Callable[..., App]) -> None:
    app = make(concurrency=2)
    with pytest.raises(ValueError) as caught:
        app.invoker.invoke(WORKER, bytes(app.invoker.limits.payload_bytes + 1))
    assert app.invoker.classify(caught.value) is Code.TOO_LARGE
    assert app.invoker.native() is None
    with pytest.raises(ValueError) as caught:
        app.invoker.invoke("another", b"{}")
    assert app.invoker.classify(caught.value) is Code.NOT_FOUND

    app.do("sleep", "1")
    app.do("sleep", "2")
    with pytest.raises(ValueError) as caught:
        app.do("write", "3")
    assert app.invoker.classify(caught.value) is Code.THROTTLED
    os.kill(int(app.told("1").split()[0]), signal.SIGKILL)
    app.told("1/report")

    def again() -> bool:
        try:
            app.do("write", "4")
        except ValueError:
            return False
        return True

    until(again)
    app.told("4")
    assert "3" not in app.objects.list("").keys


def test_the_largest_payload(make: Callable[..., App]) -> None:
    app = make()
    frame = len(json.dumps({"app": "app", "do": "write", "key": "a", "fill": ""}))
    payload = app.do("write", "a", fill="x" * (app.invoker.limits.payload_bytes - frame))
    assert len(payload) == app.invoker.limits.payload_bytes == json.loads(app.told("a"))["size"]


def test_a_function_that_talks_nonsense_to_the_host(make: Callable[..., App]) -> None:
    app = make()
    app.do("garbage", "a")
    app.told("a")
    app.do("write", "b")
    app.told("b")


def test_what_a_function_leaves_running_ends(make: Callable[..., App]) -> None:
    app = make()
    app.do("sleep", "beside")
    app.do("leave", "left")
    until(lambda: gone(int(app.told("left"))))
    assert not gone(int(app.told("beside").split()[0]))


def test_functions_end_with_a_killed_host(make: Callable[..., App]) -> None:
    app = make()
    app.do("sleep", "1")
    launch = app.launch
    app.do("subprocess", "2")
    pids = [int(app.told("1").split()[0]), *map(int, app.told("2").split())]
    assert launch.poll() is None
    app.invoker.native().kill()  # type: ignore[union-attr]
    until(lambda: all(gone(pid) for pid in pids))
    until(lambda: launch.poll() is Code.UNAVAILABLE)
    with pytest.raises(ConnectionError) as caught:
        app.do("write", "3")
    assert app.invoker.classify(caught.value) is Code.UNAVAILABLE


def test_a_host_that_cannot_start(make: Callable[..., App]) -> None:
    app = make()
    app.invoker = LocalInvoker(app.resources, "no_such_module")
    with pytest.raises(ConnectionError):
        app.do("write", "a")
    assert app.invoker.native() is None


CLIENT = """
import json, os, sys, time
from fsd_core.driver import Resources
from fsd_local.invoke import LocalInvoker
invoker = LocalInvoker(Resources(**json.loads(sys.argv[1])), "local_functions")
for number, what in enumerate(sys.argv[2:]):
    invoker.invoke("worker", json.dumps({"app": "app", "do": what, "key": str(number)}).encode())
if os.fork() == 0:  # holds the client's end of the channel
    time.sleep(600)
time.sleep(600)
"""


def test_nothing_outlives_a_killed_client_and_nothing_is_printed(make: Callable[..., App]) -> None:
    app = make()
    told = json.dumps({"app": "app", "ranks": 1, "slots": 1, "names": dict(app.resources.names)})
    arguments = [sys.executable, "-P", "-c", CLIENT, told, "sleep", "subprocess", "sleep"]
    client = subprocess.Popen(arguments, stdout=subprocess.PIPE, start_new_session=True)
    try:
        found = [[int(pid) for pid in app.told(str(number)).split()] for number in range(3)]
        pids = {pid for pids in found for pid in pids}
        assert len(pids) == 5  # two that sleep, their host, one that started a process
        client.kill()  # kill -9
        until(lambda: all(gone(pid) for pid in pids))
    finally:
        os.killpg(client.pid, signal.SIGKILL)
    assert client.communicate()[0] == b""


def test_two_clients_in_one_folder_have_their_own_hosts_and_settings(make: Callable[..., App]) -> None:
    small, large = make(memory_mb=128), make(memory_mb=2048, concurrency=1)
    small.do("sleep", "s")
    large.do("sleep", "l")
    hosts = [app.told(key).split()[1] for app, key in ((small, "s"), (large, "l"))]
    assert hosts == [str(app.invoker.native().pid) for app in (small, large)]  # type: ignore[union-attr]
    assert hosts[0] != hosts[1]
    small.do("write", "w")
    assert small.told("w")
    small.invoker.close()
    assert large.launch.poll() is None
    assert not gone(int(large.told("l").split()[0]))
