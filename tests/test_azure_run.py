"""Runs on Azure's emulators that are disturbed: who is named, how soon, and what is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from fsd_azure import clients, connection_strings, limits
from fsd_azure.names import Names, generation_of
from fsd_conformance import emulators
from fsd_conformance.emulators import Emulator
from fsd_core import providers, run
from fsd_core.driver import Code, Resources
from fsd_core.errors import FsdError, InputError, RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from waiting import claims, left_by_runs

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(300)]
APP = "disturbed"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulators.own(emulators.find("azure")) as running:
        yield running


@pytest.fixture(scope="module")
def settings(emulator: Emulator) -> dict[str, Any]:
    """What [azure] must say for the emulator."""
    return dict(emulator.settings) | {"lease_s": 5}


@pytest.fixture
def resources(settings: dict[str, Any]) -> Resources:
    return providers.find("azure").provisioner(settings).ensure(APP, 3, 4)


@pytest.fixture
def store(resources: Resources) -> Iterator[Store]:
    objects = providers.find("azure").objects(resources)
    yield Store(objects, Retry(time.time() + 600, Meter()))
    objects.close()


def start(settings: dict[str, Any], home: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {"workers": 3, "partition": "block", "timeout": 90.0, "app": APP, "faults": "delay=400ms,throttle=.3,seed=1"}
    return run(
        radixnet(1024, 24), open_inputs("random:40:0.4:1", 1024), provider="azure", settings=settings, home=home, **(defaults | options)
    )


@pytest.mark.parametrize(("channel", "victim"), [("queue", 0), ("object", 1), ("hybrid", 2)])
def test_a_killed_function_ends_the_run_with_its_name(
    settings: dict[str, Any], store: Store, tmp_path: Path, channel: str, victim: int
) -> None:
    killer = threading.Thread(target=lambda: os.kill(claims(store)[victim]["pid"], signal.SIGKILL))
    killer.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel=channel)
    killer.join()
    assert caught.value.rank == victim, caught.value
    assert caught.value.code is Code.UNAVAILABLE
    assert "the function ended: 50" in str(caught.value)
    assert left_by_runs(store) == []


def test_a_queue_deleted_mid_run_ends_it(settings: dict[str, Any], resources: Resources, store: Store, tmp_path: Path) -> None:
    names = Names.of(resources)

    def delete() -> None:
        claims(store)
        with clients.administration(names.namespaces, names.shard(1)) as admin:
            for slot in range(resources.slots):
                admin.delete_queue(names.queue(slot, 1))

    thread = threading.Thread(target=delete)
    thread.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel="queue")
    thread.join()
    assert caught.value.code is Code.NOT_FOUND, caught.value
    providers.find("azure").provisioner(settings).destroy(APP)  # the next test makes it anew


def test_a_quota_below_the_workers_is_refused_before_anything_starts(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers 3: azure may run 2 functions at once"):
        start(settings | {"concurrency": 2}, tmp_path, app="small")
    assert providers.find("azure").provisioner(settings).destroy("small")


def test_connections_for_fewer_workers_are_refused_before_anything_starts(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TIERS", {name: attrs.evolve(tier, connections=4) for name, tier in limits.TIERS.items()})
    with pytest.raises(InputError, match=r"3 ranks over 2 Service Bus namespaces may open 6 connections .*--channel object"):
        start(settings, tmp_path, channel="queue", faults=None)
    assert start(settings, tmp_path, channel="object", faults=None).output.nnz


def test_a_malformed_connection_string_is_told_before_anything_starts(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(connection_strings.SERVICE_BUS, "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=k")
    with pytest.raises(InputError, match=f"{connection_strings.SERVICE_BUS}: connection string 1 of 1: SharedAccessKey: missing"):
        start(settings, tmp_path, app="small")


def test_a_restart_of_service_bus_mid_run_is_the_right_answer_or_a_clear_error(
    emulator: Emulator, settings: dict[str, Any], store: Store, tmp_path: Path
) -> None:
    """It forgets its queues: a run that needs them cannot go on."""
    right = start(settings, tmp_path, channel="object", faults=None)

    def restart() -> None:
        claims(store)
        emulator.servers[0].stop()
        emulator.servers[0].start()

    said, found = "", None
    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart)
        try:
            found = start(settings, tmp_path, channel="queue")
        except FsdError as error:
            said = str(error)
        restarted.result()  # or nothing was tried
    assert found is not None or (said and "\n" not in said)
    assert found is None or (found.output != right.output).nnz == 0
    providers.find("azure").provisioner(settings).destroy(APP)


def test_a_throttled_namespace_slows_a_run_and_changes_nothing(tmp_path: Path) -> None:
    throttled: type[Emulator] = type("Throttled", (emulators.find("azure"),), {"messages": ("--throttle", "20")})
    with emulators.own(throttled) as running:
        settings = dict(running.settings) | {"lease_s": 5}
        queue, other = (start(settings, tmp_path, channel=channel, faults=None, app="slow") for channel in ("queue", "object"))
        assert queue.meter["retries"] > 0  # it was
        assert queue.output.nnz > 0
        assert (queue.output != other.output).nnz == 0
        assert providers.find("azure").provisioner(settings).destroy("slow")


def test_destroy_leaves_nothing(settings: dict[str, Any], resources: Resources) -> None:
    assert providers.find("azure").provisioner(settings).destroy(APP)
    hosts = tuple(connection_strings.service_bus_hosts())
    for number in range(len(hosts)):
        with clients.administration(hosts, number) as admin:
            assert [each.name for each in admin.list_queues() if generation_of(APP, each.name)] == []
    assert providers.find("azure").provisioner(settings).find(APP) is None
