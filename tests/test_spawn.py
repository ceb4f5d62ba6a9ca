"""How a function's death is learned, by `InvokeLimits.failures`: from its host, from a queue, or only by the process that launched it."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import attrs
import pytest

import fsd_core.client.apps
import fsd_core.client.job
from fsd_core import run
from fsd_core.driver import Code, Failure, Failures, InvokeDriver, Launch
from fsd_core.errors import RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.protocol import spawn
from fsd_core.protocol.spawn import LaunchPayload, Spawner
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundInvoker
from fsd_core.wrappers.metered import MeteredInvoker
from fsd_local import PROVIDER
from fsd_local.invoke import LocalInvoker
from launcher_functions import LauncherProvider
from waiting import claims

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="launcher_functions looks for processes in /proc")


@pytest.mark.parametrize(("channel", "victim", "roots"), [("queue", 2, 1), ("object", 1, 1), ("queue", 0, 1), ("queue", 2, 3)])
def test_the_launcher_of_a_function_reports_its_death(
    tmp_path: Path, channel: str, victim: int, roots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsd_core.client.job, "ROOTS", roots)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: LauncherProvider())
    table = {"root": str(tmp_path / "root")}
    resources = PROVIDER.provisioner(table).ensure("fsd", 3, 1)
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))
    killed_at: list[float] = []

    def kill() -> None:
        pid = claims(store)[victim]["pid"]
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunFailed, match="its connection closed") as caught:  # from the last root on a chain: each rank launches the next
        run(
            radixnet(1024, 24), open_inputs("random:40:0.4:1", 1024), settings=table, home=tmp_path, workers=3, branching=1,
            channel=channel, partition="block", timeout=60.0, recovery="off", faults="delay=200ms,throttle=.5,seed=1",
        )  # fmt: skip
    killer.join()
    assert (caught.value.rank, caught.value.code) == (victim, Code.UNAVAILABLE)
    assert time.monotonic() - killed_at[0] < 50  # before the run's own deadline


class Reporting(AroundInvoker):
    """The local platform, with failures to report."""

    def __init__(self, root: Path, who: Literal["host", "queue", "launcher"], failures: Sequence[Failure]) -> None:
        super().__init__(LocalInvoker(PROVIDER.provisioner({"root": str(root)}).ensure("app", 1, 1)))
        self.limits = attrs.evolve(self.limits, failures=who)
        self.left = list(failures)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        taken = [each for each in self.left if take(each.payload)]
        self.left = [each for each in self.left if each not in taken]
        queued = self.limits.failures == "queue"
        return Failures(taken, receives=int(queued), acks=int(queued and bool(taken)))


@pytest.mark.parametrize(("who", "requests"), [("host", (0, 0)), ("queue", (2, 1)), ("launcher", (0, 0))])
def test_failures_of_the_run_are_reported_and_those_of_other_live_runs_are_left(
    tmp_path: Path, who: Literal["host", "queue", "launcher"], requests: tuple[int, int]
) -> None:
    def failure(run: str, seconds: float) -> Failure:
        return Failure(LaunchPayload("app", 0, 1, run, 0, 0, time.time() + seconds).pack(), "nonce", "why")

    mine, over, other, odd = failure("aa", 60), failure("bb", -1), failure("cc", 60), Failure(b"[1]", "nonce", "why")
    platform, meter, reported = Reporting(tmp_path, who, [mine, over, other, odd]), Meter(), list[Failure]()
    retry = Retry(time.time() + 60, meter)
    store = Store(PROVIDER.objects(PROVIDER.provisioner({"root": str(tmp_path)}).ensure("app", 1, 1)), retry)
    spawner = Spawner(MeteredInvoker(platform, meter), store, retry, RunKeys("aa"), reported.append)
    spawner.report_deaths()
    spawner.report_deaths()
    assert (reported, platform.left) == (([], [mine, over, other, odd]) if who == "host" else ([mine], [other]))
    counted = meter.snapshot()
    assert (counted["receive_requests"], counted["ack_requests"]) == requests


@attrs.frozen
class Accepted:
    """A launch of which nothing more is known."""

    text: str = ""

    def poll(self) -> Code | None:
        return None


class Full(AroundInvoker):
    """A platform that starts no function for a while, because its quota is used up."""

    def __init__(self, inner: InvokeDriver, refusals: int) -> None:
        super().__init__(inner)
        self.refusals = refusals

    def invoke(self, function: str, payload: bytes) -> Launch:
        self.refusals -= 1
        if self.refusals >= 0:
            raise BlockingIOError(errno.EAGAIN, "too many functions")
        return Accepted()


@pytest.mark.parametrize("refusals", [2, 10**6])
def test_a_function_that_a_run_can_do_without_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int) -> None:
    monkeypatch.setattr(spawn, "OFFER_S", 60.0 if refusals == 2 else 0.1)
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("app", 1, 1)
    retry = Retry(time.time() + 600, Meter())
    store = Store(PROVIDER.objects(resources), retry)
    spawner = Spawner(Full(LocalInvoker(resources), refusals), store, retry, RunKeys("aa"), list[Failure]().append)
    payload = LaunchPayload("app", 0, 1, "aa", 0, 0, time.time() + 60, incarnation=1)
    assert spawner.offer(payload) == (refusals == 2)
    assert spawner.check() == (refusals != 2)  # whether it waits for no claim


@attrs.define
class Refused:
    """A launch that the platform accepted, and then refused."""

    code: Code
    text: str = "no function is free"

    def poll(self) -> Code | None:
        return self.code


class RefusesLater(AroundInvoker):
    """A platform that accepts every launch, and refuses the first ones later."""

    def __init__(self, inner: InvokeDriver, refusals: int, code: Code) -> None:
        super().__init__(inner)
        self.refusals, self.code = refusals, code

    def invoke(self, function: str, payload: bytes) -> Launch:
        self.refusals -= 1
        return Refused(self.code) if self.refusals >= 0 else Accepted()


@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize(
    ("refusals", "code", "start_s", "starts"),
    [
        (12, Code.THROTTLED, 60.0, True),  # the quota is free again
        (10**6, Code.THROTTLED, 0.0, False),  # it is not, within the time for starts
        (12, Code.UNAVAILABLE, 60.0, False),  # after four attempts
        (12, Code.DENIED, 60.0, False),
    ],
)
def test_a_launch_that_is_refused_later_is_repeated_within_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: bool, refusals: int, code: Code, start_s: float, starts: bool
) -> None:
    """If it comes to nothing, this ends the run, or a slow worker goes on alone."""
    monkeypatch.setattr(spawn, "start_limit_s", lambda limits: start_s)
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("app", 1, 1)
    retry = Retry(time.time() + 600, Meter())
    monkeypatch.setattr(retry, "pause", lambda attempt: True)
    store = Store(PROVIDER.objects(resources), retry)
    spawner = Spawner(RefusesLater(LocalInvoker(resources), refusals, code), store, retry, RunKeys("aa"), list[Failure]().append)
    payload = LaunchPayload("app", 0, 1, "aa", 0, 0, time.time() + 60, incarnation=1)
    if spare:
        assert spawner.offer(payload)
    else:
        spawner.start([payload])
    if starts or spare:
        given_up = [each for _ in range(14) for each in (spawner.check(), spawner.given_up())[1]]
        assert [(each.rank, each.incarnation) for each in given_up] == ([] if starts else [(0, 1)])
        assert spawner.check() == (not starts)
        return
    with pytest.raises(RunFailed, match=f"did not start: the platform reports {code.name}: no function is free") as caught:
        [spawner.check() for _ in range(14)]
    assert (caught.value.code, caught.value.rank) == (code, 0)


class RefusesEachOnce(AroundInvoker):
    """A platform that accepts all launches, and refuses the first one of each rank later."""

    def __init__(self, inner: InvokeDriver, code: Code) -> None:
        super().__init__(inner)
        self.code = code

    def invoke(self, function: str, payload: bytes) -> Launch:
        return Accepted() if json.loads(payload)["attempt"] else Refused(self.code)


@pytest.mark.parametrize(("code", "checks"), [(Code.UNAVAILABLE, 1), (Code.THROTTLED, 2)])
def test_many_launches_that_were_refused_are_repeated_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Code, checks: int
) -> None:
    """One after the other, the pauses of hundreds of ranks would take long, and meanwhile the launcher notices nothing else.

    A platform without a free function gets a part of them at each check.
    """
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("app", 1, 1)
    retry, together = Retry(time.time() + 600, Meter()), threading.Barrier(spawn.THREADS)
    monkeypatch.setattr(retry, "pause", lambda attempt: together.wait(20) >= 0)
    store = Store(PROVIDER.objects(resources), retry)
    spawner = Spawner(RefusesEachOnce(LocalInvoker(resources), code), store, retry, RunKeys("aa"), list[Failure]().append)
    ranks = 2 * spawn.THREADS
    spawner.start(LaunchPayload("app", 0, 1, "aa", rank, 0, time.time() + 60) for rank in range(ranks))
    for check in range(1, checks + 1):
        assert not spawner.check()
        assert sorted(child.payload.rank for child in spawner._waiting) == list(range(ranks))
        assert sum(child.payload.attempt for child in spawner._waiting) == ranks * check // checks
