"""Runs on Google Cloud's emulators that are disturbed: who is named, how soon, and what is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import fsd_core.client.job
from fsd_conformance import emulators
from fsd_core.driver import Resources
from fsd_core.errors import RunFailed
from fsd_gcp import policy
from fsd_gcp.names import Names
from gcp_server import Rest
from run_cases import RunCases, Runs, running

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with emulators.own(emulators.find("gcp")) as emulator, running("gcp", emulator.settings) as runs:
        yield runs


def test_a_killed_grandchild_is_told_by_its_parent(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the launcher of a function learns that it ended: here rank 1, of rank 2."""
    monkeypatch.setattr(fsd_core.client.job, "ROOTS", 1)
    with runs.once_claimed(lambda claimed: os.kill(claimed[2]["pid"], signal.SIGKILL)), pytest.raises(RunFailed) as caught:
        runs.start(tmp_path, channel="hybrid", branching=1)
    assert caught.value.rank == 2, caught.value


def test_a_role_that_was_taken_away_is_named(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function's account may not launch its children any more: the root runs, rank 1 does not start."""
    monkeypatch.setattr(fsd_core.client.job, "ROOTS", 1)
    with Rest(runs.resources.names["project"], runs.resources.names["region"]) as api:
        (path,) = {each.resource for each in policy.worker(runs.resources.names) if each.service == "run"}
        held = api.call("run", "GET", f"{path}:getIamPolicy")
        others = [each for each in held["bindings"] if each["role"] != "roles/run.invoker"]
        api.call("run", "POST", f"{path}:setIamPolicy", {"policy": {"bindings": others}})
        try:
            with pytest.raises(RunFailed, match="DENIED") as caught:
                runs.start(tmp_path, channel="object")
            assert caught.value.rank in (1, 2)
        finally:
            api.grant(policy.worker(runs.resources.names))


class TestShared(RunCases):
    died = "the function ended: 503"

    def delete_queues(self, resources: Resources) -> None:
        names = Names.of(resources)
        with Rest(names.project, resources.names["region"]) as api:
            for number in range(resources.slots):
                api.delete("pubsub", f"v1/{names.subscription(number, 1)}")
