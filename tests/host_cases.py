"""What every local host of functions does as its platform would: instances, deaths, limits, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from function_host import PATIENCE_S, Host, gone, needs_proc, parent_of
from waiting import until

__all__ = ["HostCases", "HttpHostCases"]


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


class HostCases:
    """A subclass says which host; its file has a fixture ``emulator``, of one that waits long for an instance."""

    host: ClassVar[type[Host]]
    small: ClassVar[Mapping[str, Any]]  # settings of a function of little memory
    too_much_mb: ClassVar[int]  # more than that
    ends: ClassVar[Mapping[str, str]]  # how a report says that a function raised, was killed, left with a code, grew too large
    health: ClassVar[str] = "/health"
    counter: ClassVar[str] = "calls"  # the statistic of calls

    def test_many_cold_starts_at_once(self, emulator: Host, tmp_path: Path) -> None:
        name, gate, calls, many = emulator.create(), tmp_path / "gate", tmp_path / "calls", 16
        with ThreadPoolExecutor(many) as pool:
            results = [pool.submit(emulator.call, name, do="wait", until=str(gate), file=str(calls)) for _ in range(many)]
            try:
                until(lambda: len(lines(calls)) == many)
                assert [it["state"] for it in emulator.instances(name)] == ["busy"] * many
            finally:
                gate.touch()
            assert len({result.result()["pid"] for result in results}) == many
            assert {result.result()["calls"] for result in results} == {1}

    def test_how_functions_end_badly(self, emulator: Host, tmp_path: Path) -> None:
        """Each alone: what runs beside it goes on, and the next call finds a new instance."""
        name, gate, calls = emulator.create(**self.small), tmp_path / "gate", tmp_path / "calls"
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(emulator.call, name, do="wait", until=str(gate), file=str(calls))
            try:
                until(calls.exists)
                kills = emulator.look("stats").get("memory_kills", 0)
                for what, told in self.ends.items():
                    do, _, code = what.partition(" ")
                    warm = emulator.call(name)["pid"]
                    status, said = emulator.post(name, do=do, code=int(code or 0), mb=self.too_much_mb)
                    assert re.fullmatch(told, f"{status} {said.decode()}", re.S), (what, status, said)
                    after = emulator.call(name)
                    if do != "raise":
                        assert (after["pid"] != warm, after["calls"]) == (True, 1), what
                assert emulator.look("stats")["memory_kills"] == kills + 1
            finally:
                gate.touch()
            assert beside.result()["calls"] == 1

    def test_idle_instances_end(self) -> None:
        with self.host.running("--idle-s", "0.1") as emulator:
            name = emulator.create()
            pid = emulator.call(name)["pid"]
            until(lambda: not emulator.instances(name))
            assert until(lambda: gone(pid))
            assert emulator.call(name)["calls"] == 1

    @needs_proc
    @pytest.mark.parametrize("how", ["term", "kill", "stdin", "parent"])
    def test_nothing_outlives_it(self, tmp_path: Path, how: str) -> None:
        """However it ends, and also if the process ends that forks its instances."""
        emulator = self.host()
        idle, busy, calls = emulator.create(), emulator.create(), tmp_path / "calls"
        pids = [emulator.call(idle)["pid"]]
        with ThreadPoolExecutor(1) as pool:
            pool.submit(emulator.post, busy, do="wait", until=str(tmp_path / "never"), file=str(calls))
            until(lambda: lines(calls))
            masters = [it["pid"] for name in (idle, busy) for it in emulator.instances(name)]
            pids += [int(lines(calls)[0].split()[0]), *masters]
            assert not any(map(gone, pids))
            parent = parent_of(masters[0])
            if how == "stdin":
                assert emulator.stop() == 0
            else:
                number = signal.SIGTERM if how == "term" else signal.SIGKILL
                os.kill(parent if how == "parent" else emulator.process.pid, number)
                assert emulator.process.wait(PATIENCE_S) == {"term": 0, "kill": -signal.SIGKILL, "parent": 1}[how]
                assert emulator.process.stdin is not None
                emulator.process.stdin.close()
            for pid in [*pids, parent]:
                until(partial(gone, pid))
        until(lambda: not Path(emulator.ready["logs"]).parent.exists())

    def test_it_says_how_it_is(self, emulator: Host) -> None:
        assert json.loads(emulator.ask("GET", self.health)[1])["status"] == "running"
        assert emulator.ready["port"] == int(emulator.ready["endpoint"].rpartition(":")[2])
        before = emulator.look("stats")[self.counter]
        emulator.call(emulator.create())
        assert emulator.look("stats")[self.counter] == before + 1


class HttpHostCases(HostCases):
    """Of hosts whose functions are called over HTTP, and wait for an instance themselves."""

    one: ClassVar[Mapping[str, Any]]  # settings of a function of one instance

    def test_more_calls_than_instances(self, tmp_path: Path) -> None:
        gate, calls = tmp_path / "gate", tmp_path / "calls"
        with self.host.running("--queue-s", "0.2") as emulator, ThreadPoolExecutor(1) as pool:
            name = emulator.create(**self.one)
            held = pool.submit(emulator.call, name, do="wait", until=str(gate), file=str(calls))
            try:
                until(calls.exists)
                status, said = emulator.post(name)
                assert (status, b"all 1 instances" in said) == (429, True)
            finally:
                gate.touch()
            held.result()
            assert emulator.call(name)["calls"] == 2

    def test_planned_faults(self, emulator: Host, tmp_path: Path) -> None:
        name, other, calls = emulator.create(), emulator.create(), tmp_path / "calls"
        emulator.plan(kind="refuse", count=2, service=name)
        emulator.plan(kind="refuse", status=503, service=name)
        assert emulator.post(other)[0] == 200
        assert [emulator.post(name)[0] for _ in range(4)] == [429, 429, 503, 200]
        emulator.plan(kind="twice", service=name)
        emulator.plan(kind="late", seconds=0.1, service=name)
        late = emulator.look("stats").get("late", 0)
        emulator.call(name, file=str(calls))
        assert emulator.look("stats")["late"] == late + 1
        until(lambda: len(lines(calls)) == 2)
        for wrong in (b'{"kind": "any"}', b'{"kind": "late", "status": 1}'):
            assert emulator.ask("POST", "/_fsd/faults", wrong)[0] == 400

    def test_an_instance_that_cannot_start(self) -> None:
        with self.host.running("--idle-s", "0.1") as emulator:
            name = emulator.create()
            until(lambda: not emulator.instances(name))
            emulator.plan(kind="start", service=name)
            status, said = emulator.post(name)
            assert (status, b"the instance could not start: signal: killed: killed at its start as planned" in said) == (503, True)
            assert emulator.post(name)[0] == 200
