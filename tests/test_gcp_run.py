"""Runs on Google Cloud's emulators that are disturbed: who is named, how soon, and what is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsd_conformance import emulators
from fsd_core import providers, run
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError, RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_gcp import policy
from fsd_gcp.names import Names
from gcp_server import Rest
from waiting import claims, left_by_runs

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
APP = "disturbed"


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    """The emulator, and what [gcp] must say for it."""
    with emulators.own(emulators.find("gcp")) as emulator:
        yield dict(emulator.settings)


@pytest.fixture(scope="module")
def resources(settings: dict[str, Any]) -> Resources:
    return providers.find("gcp").provisioner(settings).ensure(APP, 3, 4)


@pytest.fixture
def store(resources: Resources) -> Iterator[Store]:
    objects = providers.find("gcp").objects(resources)
    yield Store(objects, Retry(time.time() + 600, Meter()))
    objects.close()


def start(settings: dict[str, Any], home: Path, **options: Any) -> None:
    defaults = {"workers": 3, "partition": "block", "timeout": 90.0, "app": APP, "faults": "delay=400ms,throttle=.3,seed=1"}
    run(radixnet(1024, 24), open_inputs("random:40:0.4:1", 1024), provider="gcp", settings=settings, home=home, **(defaults | options))


@pytest.mark.parametrize(("channel", "victim"), [("queue", 0), ("object", 1), ("hybrid", 2)])
def test_a_killed_function_ends_the_run_with_its_name(
    settings: dict[str, Any], store: Store, tmp_path: Path, channel: str, victim: int
) -> None:
    killed_at: list[float] = []

    def kill() -> None:
        pid = claims(store)[victim]["pid"]
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel=channel)
    killer.join()
    assert caught.value.rank == victim, caught.value
    assert caught.value.code is Code.UNAVAILABLE
    assert "the function ended: 503" in str(caught.value)
    assert time.monotonic() - killed_at[0] < 60  # before any stall limit ends
    assert left_by_runs(store) == []


def test_a_killed_grandchild_is_told_by_its_parent(settings: dict[str, Any], store: Store, tmp_path: Path) -> None:
    """Only whoever launched a function hears of its end: here rank 1, of rank 2."""

    def kill() -> None:
        os.kill(claims(store)[2]["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel="hybrid", branching=1)
    killer.join()
    assert caught.value.rank == 2, caught.value


def test_a_subscription_deleted_mid_run_ends_it(settings: dict[str, Any], resources: Resources, store: Store, tmp_path: Path) -> None:
    names = Names.of(resources)

    def delete() -> None:
        claims(store)
        with Rest(names.project, resources.names["region"]) as api:
            for slot in range(4):
                api.delete("pubsub", f"v1/{names.subscription(slot, 1)}")

    thread = threading.Thread(target=delete)
    thread.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel="queue")
    thread.join()
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.rank == 1
    assert "receive" in str(caught.value)


def test_a_quota_below_the_workers_is_refused_before_anything_starts(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers 3: gcp may run 2 functions at once"):
        start(settings | {"concurrency": 2}, tmp_path, app="small")
    assert providers.find("gcp").provisioner(settings).destroy("small")


def test_a_role_that_was_taken_away_is_named(settings: dict[str, Any], resources: Resources, tmp_path: Path) -> None:
    """The function's account may not launch its children any more: the root runs, rank 1 does not start."""
    with Rest(resources.names["project"], resources.names["region"]) as api:
        (path,) = {each.resource for each in policy.worker(resources.names) if each.service == "run"}
        held = api.call("run", "GET", f"{path}:getIamPolicy")
        others = [each for each in held["bindings"] if each["role"] != "roles/run.invoker"]
        api.call("run", "POST", f"{path}:setIamPolicy", {"policy": {"bindings": others}})
        try:
            with pytest.raises(RunFailed, match="DENIED") as caught:
                start(settings, tmp_path, channel="object")
            assert caught.value.rank in (1, 2)
        finally:
            api.grant(policy.worker(resources.names))


def test_destroy_leaves_nothing(settings: dict[str, Any], resources: Resources) -> None:
    assert providers.find("gcp").provisioner(settings).destroy(APP)
    project, region = resources.names["project"], resources.names["region"]
    with Rest(project, region) as api:
        for service, path, items in (
            ("pubsub", f"v1/projects/{project}/topics", "topics"),
            ("pubsub", f"v1/projects/{project}/subscriptions", "subscriptions"),
            ("cloudfunctions", f"v2/projects/{project}/locations/{region}/functions", "functions"),
            ("iam", f"v1/projects/{project}/serviceAccounts", "accounts"),
        ):
            assert [each["name"] for each in api.pages(service, path, items) if APP in each["name"]] == []
        assert APP not in json.dumps(api.call("storage", "GET", "storage/v1/b", project=project))
