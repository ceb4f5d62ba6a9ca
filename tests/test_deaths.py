"""Deaths are noticed: of a worker at each place of its work, of the functions' host, of the client; and a complete answer is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

import fsd_core.client.apps
import fsd_core.client.cleanup
import fsd_core.client.job
import fsd_core.client.stage
import fsd_local.objects
from dying_functions import TRAP, DyingProvider
from fsd_core import Result, run
from fsd_core.channel import describe, explain
from fsd_core.channel.frames import Frame, Kind, pack
from fsd_core.client import collect
from fsd_core.client.cleanup import Cleanup
from fsd_core.common.sealed import seal, unseal
from fsd_core.driver import Code, Message, ObjectDriver, Rejected, Resources
from fsd_core.errors import RunFailed
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage import retry, slots
from fsd_core.storage.keys import RunKeys, is_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker import handle, program
from fsd_core.worker.rank import Worker
from fsd_core.wrappers.around import AroundInvoker, AroundObjects
from fsd_local import PROVIDER, LocalProvider
from waiting import PATIENCE_S, claims, until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked for in /proc")
Start = Callable[..., Result]
WORKERS = 3
SLOW = "delay=1s,throttle=.4,seed=1"  # makes a run so long that a test disturbs it even on a busy machine


@pytest.fixture(autouse=True)
def _time_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the end of a run may need longer than a user would wait for it."""
    monkeypatch.setattr(fsd_core.client.cleanup, "FAILED_S", PATIENCE_S)


@pytest.fixture(scope="module")
def model() -> Model:
    return radixnet(1024, 6)


@pytest.fixture(scope="module")
def inputs() -> Any:
    return open_inputs("random:40:0.4:1", 1024)


@pytest.fixture
def start(tmp_path: Path, model: Model, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A function that runs with the functions of `dying_functions`, whose trap is ``order``."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: DyingProvider())

    def start(order: dict[str, Any], **options: Any) -> Result:
        monkeypatch.setenv(TRAP, json.dumps(order))
        table = {"root": str(tmp_path / "root")} | options.pop("settings", {})
        defaults = {"workers": WORKERS, "channel": "queue", "partition": "block", "timeout": 100.0, "recovery": "off"}
        return run(model, inputs, settings=table, home=tmp_path / "home", **(defaults | options))

    return start


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The object store of the runs of `start`."""
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).ensure("fsd", WORKERS, 4)
    return Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))


def nothing_left(store: Store) -> bool:
    """No object of a run, and every slot is free."""
    return not [key for key in store.keys("") if is_run(key)] and slots.holders(store) == set()


@pytest.mark.parametrize("channel", ["queue", "object", "hybrid"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", ["children", "load", "layers", "output"])
def test_a_worker_that_dies_is_named(start: Start, store: Store, place: str, rank: int, channel: str) -> None:
    with pytest.raises(RunFailed, match="killed by signal 9") as caught:
        start({"rank": rank, "at": place}, channel=channel)
    assert (caught.value.rank, caught.value.code) == (rank, Code.UNAVAILABLE)
    assert nothing_left(store)


def test_a_worker_that_dies_before_its_claim_is_launched_again_a_few_times(start: Start, store: Store) -> None:
    with pytest.raises(RunFailed, match=r"did not start: no claim \d+ s after launch 4") as caught:
        start({"rank": 1, "at": "claim", "start_s": 0.5})
    assert (caught.value.rank, caught.value.layer) == (1, None)  # the layer of rank 0, which reports the death, is not that of rank 1
    assert nothing_left(store)


@pytest.mark.parametrize("quiet", [False, True], ids=["reported", "unreported"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_death_after_the_output_costs_no_answer(start: Start, store: Store, model: Model, inputs: Any, rank: int, quiet: bool) -> None:
    """The worker is killed after it has sent that it is done; even if nobody reports that, the client does not wait for ever."""
    with pytest.warns(UserWarning, match=f"rank {rank}"):
        result = start({"rank": rank, "at": "record", "quiet": quiet})
    assert (abs(result.output - serial(model, inputs)) > 1e-3).nnz == 0
    recorded = [record["rank"] for record in result.ranks]
    assert rank not in recorded
    if quiet:  # else the reported death may end another worker before its record
        assert recorded == [each for each in range(WORKERS) if each != rank]
    assert nothing_left(store)


@pytest.mark.parametrize(("rank", "place"), [(0, "record"), (2, "done")])
def test_a_complete_answer_is_kept(start: Start, store: Store, model: Model, inputs: Any, rank: int, place: str) -> None:
    """Rank 0 dies before its record, or another rank dies before it has sent that it is done: all outputs are written."""
    with pytest.warns(UserWarning, match=f"the answer is complete, .* rank {rank}, layer 6: killed"):
        result = start({"rank": rank, "at": place})
    assert (abs(result.output - serial(model, inputs)) > 1e-3).nnz == 0
    assert nothing_left(store)


def test_a_whole_answer_does_not_wait_for_ever_for_the_record_of_rank_0(
    start: Start, store: Store, model: Model, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died before its record, and nobody reports it: without this the run would last until its deadline."""
    monkeypatch.setattr(fsd_core.client.job, "RECORDS_S", 0.5)
    monkeypatch.setattr(fsd_core.client.job, "RECORD_S", 0.5)
    with pytest.warns(UserWarning, match="the answer is complete, .* rank 0: every .* rank 0 left no record within"):
        result = start({"rank": 0, "at": "record", "quiet": True}, timeout=1000.0)
    assert (abs(result.output - serial(model, inputs)) > 1e-3).nnz == 0
    assert nothing_left(store)


def test_a_death_that_nobody_reports_ends_the_run_at_the_stall_limit(start: Start, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 2 dies after its last layer, before it has sent that it is done: rank 0, which waits for that, names it."""
    monkeypatch.setattr(fsd_core.client.job, "START_MARGIN_S", 0.5)
    with pytest.raises(RunFailed, match=r"waited .* longer than the stall limit, for rank 2") as caught:
        start({"rank": 2, "at": "output", "quiet": True, "start_s": 0.5}, settings={"lease_s": 0.5})
    assert (caught.value.rank, caught.value.code) == (0, Code.DEADLINE)
    assert nothing_left(store)


def test_the_death_of_the_functions_host_is_noticed(start: Start, store: Store) -> None:
    killed_at: list[float] = []

    def kill() -> None:
        pid = claims(store, WORKERS)[0]["pid"]
        with open(f"/proc/{pid}/stat") as file:
            host = int(file.read().rpartition(")")[2].split()[1])
        killed_at.append(time.monotonic())
        os.kill(host, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunFailed, match="the host of the local functions ended"):
        start({}, faults=SLOW)
    killer.join()
    assert time.monotonic() - killed_at[0] < 60  # not the run's own 100 s
    assert nothing_left(store)


def test_workers_whose_client_is_gone_stop(start: Start, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "renew", lambda *_: None)
    with pytest.raises(RunFailed, match="the client is gone: it has not renewed the lease of slot") as caught:
        start({"lease": [0.3, 1.0]}, faults=SLOW)
    assert caught.value.rank == 0


@pytest.mark.parametrize("late", [False, True], ids=["before it is written", "alone"])
def test_an_abort_that_nobody_explained_ends_the_run(start: Start, store: Store, tmp_path: Path, late: bool) -> None:
    """The sender of an abort has written no failure: a worker that receives the abort writes it, so that the client does not wait."""

    def forge() -> None:
        claims(store, WORKERS)
        (config,) = (key for key in store.keys("") if key.endswith("/config"))
        name = config.split("/")[0]
        (slot,) = {key.split("/")[1] for key in store.keys("slots/") if unseal(store.get(key), "a lease")["run"] == name}
        resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find("fsd")
        assert resources is not None
        body = describe(RunFailed(Code.UNAVAILABLE, "forged", rank=1))
        key = bytes.fromhex(RunConfig.unpack(store.get(config)).frame_key)
        with closing(PROVIDER.messages(resources, int(slot))) as messages:
            messages.publish([Message(0, pack(Frame(Kind.ABORT, name, 1, 0, 1, 0, 1, body), 0, key))])
        if late:
            until(lambda: store.find(RunKeys(name).error) is not None or not list(store.keys(RunKeys(name).prefix)))

    thread = threading.Thread(target=forge)
    thread.start()
    with pytest.raises(RunFailed, match="forged"):
        start({}, faults=SLOW)
    thread.join()
    assert nothing_left(store)


def test_the_runs_time_begins_with_its_launch(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    staged_at, deadlines = list[float](), list[float]()
    put, launched = fsd_core.client.stage.Content.stage, fsd_core.client.job.LaunchPayload

    def staged(*arguments: Any, **options: Any) -> None:
        put(*arguments, **options)
        staged_at.append(time.time())

    def launch(*fields: Any) -> LaunchPayload:
        made = launched(*fields)
        deadlines.append(made.deadline)
        return made

    monkeypatch.setattr(fsd_core.client.stage.Content, "stage", staged)
    monkeypatch.setattr(fsd_core.client.job, "LaunchPayload", launch)
    start({})
    assert deadlines[0] >= staged_at[1] + 100.0


@pytest.mark.parametrize("way", ["late", "of a run that failed", "claimed by another", "of a run that is over", "failing"])
def test_a_worker_closes_its_drivers_on_every_way_out(store: Store, tmp_path: Path, way: str) -> None:
    """A warm function lives on: an open receiver would take messages of the next run."""
    opened: list[Closing] = []

    class Closing(AroundObjects):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    class Watched(LocalProvider):
        def attach(self, app: str) -> Resources:
            found = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find(app)
            assert found is not None
            return found

        def objects(self, resources: Resources) -> ObjectDriver:
            opened.append(Closing(super().objects(resources)))
            return opened[-1]

    keys = RunKeys("ab" * 8)
    if way == "of a run that failed":
        store.put(keys.error, b"why")
    if way == "claimed by another":
        store.put(keys.claim(0), b"another's")
    if way == "failing":
        store.put(keys.config, b"damaged")
    launch = LaunchPayload("fsd", 0, 1, keys.run, 0, 0, time.time() + (-1 if way == "late" else 60))
    assert handle(launch.pack(), Watched()) == (way == "failing")
    assert [each.closed for each in opened] == [True] * len(opened) != []
    assert bool(store.find(keys.claim(0))) == (way in ("claimed by another", "failing"))
    assert b"the run's configuration is damaged" in (store.find(keys.error) or b"") or way != "failing"


def test_a_function_that_may_not_begin_yet_hears_that_its_run_failed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LOOK_S", 0.05)
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find("fsd")
    assert resources is not None
    keys = RunKeys("ab" * 8)
    launch = LaunchPayload("fsd", 0, 1, keys.run, 0, 0, time.time() + 600, not_before=time.time() + 600)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(program._wait, launch, PROVIDER, resources)
        time.sleep(0.2)
        assert not waiting.done()
        store.put(keys.error, b"why")
        assert waiting.result(60) is None
    soon = attrs.evolve(launch, run="cd" * 8, not_before=time.time() + 0.12)
    assert program._wait(soon, PROVIDER, resources) is not None
    assert program._wait(attrs.evolve(launch, not_before=0.0), PROVIDER, resources) == 0


@pytest.mark.parametrize("lost", ["gone", "another's", "kept"])
def test_a_worker_that_waited_in_vain_says_when_its_claim_was_lost(store: Store, tmp_path: Path, lost: str) -> None:
    """Then its rank was launched again, and two took its messages: no peer is to blame."""
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find("fsd")
    assert resources is not None
    keys = RunKeys("ab" * 8)
    launch = LaunchPayload("fsd", 0, 1, keys.run, 1, 0, time.time() + 60)
    with closing(Worker(launch, PROVIDER, resources, "0f", None, 0.0)) as worker:
        assert worker._claim()
        store.put(keys.config, b"something")
        if lost != "kept":
            store.delete([keys.claim(1)])
        if lost == "another's":
            store.put(keys.claim(1), b"of a second worker")
        assert worker._fail(RunFailed(Code.DEADLINE, "waited for rank 2", rank=1)) == 1
    told = explain(store.get(keys.error))
    assert (told.rank, told.code) == (1, Code.DEADLINE)
    assert ("the claim of this rank was lost" in told.message) == (lost != "kept")


def test_a_run_is_left_in_bounded_time_whatever_does_not_answer(store: Store, tmp_path: Path) -> None:
    """Each step is tried even if another fails, and the command that does later what could not be done is named."""

    class Stuck(AroundObjects):
        def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
            threading.Event().wait(600)
            return []

    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find("fsd")
    assert resources is not None
    held = slots.lease(store, 1, "ab" * 8)
    store.put(RunKeys(held.run).config, b"something")
    stuck = Store(Stuck(store.driver), store.retry)
    cleanup = Cleanup(PROVIDER, resources, stuck, PROVIDER.invoker(resources), held, WORKERS, bytes(32))
    left = cleanup.after_failure(KeyboardInterrupt())
    assert re.fullmatch(  # on a machine that stops for a while, the functions may not be ended in time either
        r"could not (end the functions or )?remove the run's objects or give the slot back: the slot is free after 60 s, "
        "`fsd gc --provider local --app fsd` removes the rest",
        left or "",
    )


INTERRUPTED = """
import sys, fsd_core
from fsd_core.model.inputs import open_inputs
options = {"workers": 3, "channel": "queue", "partition": "block", "timeout": 100.0, "faults": "delay=300ms,seed=1"}
try:
    fsd_core.run("radixnet:1024:24", open_inputs("random:40:0.4:1", 1024), settings={"root": sys.argv[1]}, home=sys.argv[1], **options)
except KeyboardInterrupt:
    print("interrupted")
    sys.stdin.read()  # the interpreter lives on, as a notebook's does
"""


def test_an_interrupted_call_stops_its_workers_and_gives_back_the_slot(store: Store, tmp_path: Path) -> None:
    """In a notebook the process lives on after an interrupt: the call itself has to clean up."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "root")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            pids = [int(claim["pid"]) for claim in claims(store, WORKERS).values()]
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            assert process.stdout.readline() == "interrupted\n"
            until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")])
            assert nothing_left(store)
        finally:
            process.kill()


def test_a_store_that_stays_away_is_shown_and_ends_the_run(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk answers every write with an input/output error."""
    monkeypatch.setattr(retry, "NOTICE_S", 0.3)
    monkeypatch.setattr(fsd_local.objects.LocalObjects, "put", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    shown: list[str] = []
    with pytest.raises(RunFailed, match=r"the local object store unreachable for \d+ s; create slots/.*Input/output error") as caught:
        start({}, outage=1.5, progress=lambda step: shown.append(f"{step.phase} {step.text}"))
    assert caught.value.code is Code.UNAVAILABLE
    assert any(line.startswith("wait the local object store unreachable for") for line in shown)


def test_on_a_cloud_the_reason_stays_until_the_slots_next_run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions live on there, and late workers look for the failure. All other objects are removed; the next run removes it too."""
    monkeypatch.setattr(fsd_core.client.cleanup, "GRACE_S", 0.0)
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).find("fsd")
    assert resources is not None
    lives_on = AroundInvoker(PROVIDER.invoker(resources))
    lives_on.limits = attrs.evolve(lives_on.limits, end_with_client=False)
    held = slots.lease(store, 1, "ab" * 8)
    keys = RunKeys(held.run)
    for key in (keys.config, keys.claim(0), keys.output(0, 0)):
        store.put(key, b"something")
    cleanup = Cleanup(PROVIDER, resources, store, lives_on, held, WORKERS, bytes(32))
    assert cleanup.after_failure(RunFailed(Code.TOO_LARGE, "out of memory", rank=1)) is None
    assert list(store.keys(keys.prefix)) == [keys.error]
    with closing(PROVIDER.messages(resources, 0)) as messages:
        for rank in range(WORKERS):
            until(lambda rank=rank: b"out of memory" in b"".join(each.body for each in messages.receive(rank, 10, 1.0)))
    after = slots.lease(store, 1, "cd" * 8)
    assert (after.slot, after.epoch) == (held.slot, held.epoch + 1)
    assert list(store.keys(keys.prefix)) == []


def test_a_record_that_comes_a_moment_later_is_waited_for(store: Store) -> None:
    keys = RunKeys("ab" * 8)
    store.put(keys.record(0), seal({"rank": 0}))
    store.put(keys.record(2), seal({"rank": 2})[:-1])
    with ThreadPoolExecutor(2) as pool:
        records = collect.Records(store, keys, 3, pool)
        assert not records.look()
        assert (records.missing, records.readable) == ([1], [{"rank": 0}])  # a damaged one stays damaged
        store.put(keys.record(1), seal({"rank": 1}))
        assert records.look()
    assert (records.missing, records.readable) == ([], [{"rank": 0}, {"rank": 1}])


def test_a_store_that_hangs_holds_up_no_look_for_records(store: Store) -> None:
    keys, answers = RunKeys("ab" * 8), threading.Event()
    store.put(keys.record(0), seal({"rank": 0}))

    class Hangs(AroundObjects):
        def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
            if key == keys.record(0):
                answers.wait(600)
            return super().get(key, start, end)

    with ThreadPoolExecutor(2) as pool:
        records = collect.Records(Store(Hangs(store.driver), store.retry), keys, 1, pool)
        assert not records.look(time.monotonic() + 0.01)  # would else return after the hang alone
        answers.set()
        assert records.look()
    assert records.readable == [{"rank": 0}]
