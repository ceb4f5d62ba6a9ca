"""Runs on Azure's emulators that are disturbed: who is named, how soon, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from fsd_azure import clients, connection_strings, limits
from fsd_azure.names import Names
from fsd_conformance import emulators
from fsd_conformance.emulators import Emulator
from fsd_core.driver import Resources
from fsd_core.errors import FsdError, InputError
from run_cases import APP, RunCases, Runs, running

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with emulators.own(emulators.find("azure")) as running:
        yield running


@pytest.fixture(scope="module")
def runs(emulator: Emulator) -> Iterator[Runs]:
    with running("azure", {**emulator.settings, "lease_s": 5}) as runs:
        yield runs


def test_connections_for_fewer_workers_are_refused_before_anything_starts(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TIERS", {name: evolve(tier, connections=4) for name, tier in limits.TIERS.items()})
    with pytest.raises(InputError, match=r"3 ranks over 2 Service Bus namespaces may open 6 connections .*--channel object"):
        runs.start(tmp_path, channel="queue", faults=None)
    assert runs.start(tmp_path, channel="object", faults=None).output.nnz


def test_a_malformed_connection_string_is_told_before_anything_starts(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connection_strings.SERVICE_BUS, "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=k")
    with pytest.raises(InputError, match=f"{connection_strings.SERVICE_BUS}: connection string 1 of 1: SharedAccessKey: missing"):
        runs.start(tmp_path, app="small")


def test_a_restart_of_service_bus_mid_run_is_the_right_answer_or_a_clear_error(emulator: Emulator, runs: Runs, tmp_path: Path) -> None:
    """It forgets its queues: a run that needs them cannot go on."""
    right = runs.start(tmp_path, channel="object", faults=None)

    def restart(_: object) -> None:
        emulator.servers[0].stop()
        emulator.servers[0].start()

    said, found = "", None
    with runs.once_claimed(restart):
        try:
            found = runs.start(tmp_path, channel="queue")
        except FsdError as error:
            said = str(error)
    assert found is not None or (said and "\n" not in said)
    assert found is None or (found.output != right.output).nnz == 0
    runs.destroy(APP)
    runs.renew()


def test_a_throttled_namespace_slows_a_run_and_changes_nothing(tmp_path: Path) -> None:
    throttled: type[Emulator] = type("Throttled", (emulators.find("azure"),), {"messages": ("--throttle", "20")})
    with emulators.own(throttled) as emulator:
        runs = Runs("azure", {**emulator.settings, "lease_s": 5})
        queue, other = (runs.start(tmp_path, channel=channel, faults=None, app="slow") for channel in ("queue", "object"))
        assert queue.meter["retries"] > 0  # it was
        assert queue.output.nnz > 0
        assert (queue.output != other.output).nnz == 0
        runs.destroy("slow")


class TestShared(RunCases):
    died = "the function ended: 50"

    def delete_queues(self, resources: Resources) -> None:
        names = Names.of(resources)
        with clients.administration(names.namespaces, names.shard(1)) as admin:
            for number in range(resources.slots):
                admin.delete_queue(names.queue(number, 1))
