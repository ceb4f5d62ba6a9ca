"""One run from its lease to its result: stage, launch the first workers, follow all, collect the answer, clean up."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from fsd_core.channel import SHELF_BYTES, held_bytes, kept_budget, new_key
from fsd_core.client import collect, history, memory, stage
from fsd_core.client.cleanup import Cleanup
from fsd_core.client.expected import Expectation
from fsd_core.client.first_rank import FirstRank
from fsd_core.client.follow import Follower
from fsd_core.client.recovery import Restarts
from fsd_core.client.result import Result, left_out, over_ranks, warn
from fsd_core.client.stragglers import obstacle
from fsd_core.client.trail import Trail
from fsd_core.client.work import Work
from fsd_core.common.logs import DEBUG, INFO
from fsd_core.driver import Code, InvokeDriver, ObjectDriver, Provider, Resources
from fsd_core.errors import DriverError, FsdError, RunFailed
from fsd_core.latency import Latency
from fsd_core.plan.batches import MARGIN
from fsd_core.protocol.abort import report_failure
from fsd_core.protocol.launch_tree import LaunchTree
from fsd_core.protocol.runconfig import VERSION, RunConfig
from fsd_core.protocol.spawn import LaunchPayload, Spawner, start_limit_s
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys, new_run
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.faults import Faults
from fsd_core.wrappers.metered import MeteredObjects
from fsd_core.wrappers.run import RunWrappers

__all__ = ["Job", "Progress"]

log = logging.getLogger(__name__)

STAGE_S = 1800.0  # for staging, which does not count as the run's own time
START_MARGIN_S = 15.0  # in addition to the time for launches: the function of the last launch must load its shard as well
SLOWEST_FACTOR = 20.0  # a stage may take this many times the estimate before the next stage gets a payload: functions may be slow
SLOW_S = 5.0  # a rank waits at least this long for another rank before it calls that rank slow
POOL_THREADS = 8
RECORDS_S = 5.0  # how long the client waits for the records of all workers after it has the output
RECORD_S = 60.0  # and after that for the record of rank 0
# The first ranks, which the client starts itself: with `spawn.THREADS` requests of 50 to 100 ms at once, that takes about as long as one
# cold start (0.7 s), which each level of the launch tree adds.
ROOTS = 128
# On platforms where only the launcher of a function learns of its death, the client starts more ranks, because a worker may end before the
# functions that it launched. The client can wait for 256 launches (`HttpInvoker`), and some launches are repeated.
LAUNCHER_ROOTS = 240


@attrs.frozen
class Progress:
    """How far a run is: ``done`` of ``total`` steps of a phase.

    ``phase``: plan, partition, provision, stage, launch, layers or collect; or wait, while a service does not answer. Functions other than
    `run` document their own phases. ``total``: 0 if it is not known. ``text``: what the phase works on; for plan, the choice and why.
    """

    phase: str
    done: int
    total: int
    text: str = ""


@attrs.frozen(kw_only=True, eq=False)
class Job:
    """What to run, with all arguments checked."""

    work: Work
    provider: Provider
    stand_in: str | None  # an emulator's host and port
    channel: str
    reason: str  # why the planner chose this split or channel; empty if the caller gave both
    expectation: Expectation  # predicts the seconds and costs of the run
    branching: int
    objective: str
    faults: str | None
    latency: Latency | None
    seed: int
    timeout_s: float
    outage_s: float
    recovery: bool  # a rank that is lost gets another function
    stragglers: bool  # so does a rank that is slow
    audit_log: bool  # the run leaves an entry in the audit log of the app
    began: float  # when the caller began, in seconds since 1970
    note: Mapping[str, str]
    home: Path
    progress: Callable[[Progress], None]

    @property
    def workers(self) -> int:
        """The number of ranks."""
        return self.work.parallel.workers

    @property
    def queued(self) -> bool:
        """Whether the ranks need queues."""
        return self.channel != "object" and self.workers > 1

    def admit(self, resources: Resources) -> None:
        """Raise `InputError` if the run needs queues and the app's queues cannot carry its number of workers."""
        if self.queued:
            self.provider.admit(resources, self.workers)

    def execute(self, resources: Resources, objects: ObjectDriver, invoker: InvokeDriver, *, again: bool = False) -> Result:
        """Run the job. ``again``: stage shards and inputs even where they are staged already. Raises `RunFailed`."""
        return _Run(self, resources, objects, invoker, again).execute()


@attrs.frozen
class _Content:
    shards: stage.Content
    inputs: stage.Content
    by_batch: list[list[str | None]]  # the keys of the inputs by batch and rank of a replica


@attrs.frozen
class _Answer:
    output: Any  # see `Work.assemble`
    records: list[dict[str, Any]]
    late: bool  # some ranks had not written their records when the client stopped waiting
    failed: FsdError | None  # a failure after all outputs were written
    recovered: list[dict[str, Any]]  # the ranks that were lost
    stage_s: float
    at: float  # when the output was complete, in seconds since 1970


class _Run:
    """One run of a job."""

    def __init__(self, job: Job, resources: Resources, objects: ObjectDriver, invoker: InvokeDriver, again: bool) -> None:
        self.job = job
        self.resources = resources
        self.again = again
        self.run_id = new_run()
        self.keys = RunKeys(self.run_id)
        self.trail = Trail(job, resources, objects, self.run_id)
        self.frame_key = new_key()
        self.meter = Meter()
        self.retry = Retry(time.time() + STAGE_S, self.meter, outage_s=job.outage_s)
        wrappers = RunWrappers(self.meter, self.retry, -1, 0, latency=job.latency)
        faults = Faults.parse(job.faults) if job.faults else None  # of the client's services, only launches misbehave
        self.invoker = RunWrappers(self.meter, self.retry, -1, 0, faults=faults, latency=job.latency).invoker(invoker)
        self.store = Store(wrappers.objects(objects), self.retry)
        self.undelayed = Store(MeteredObjects(objects, self.meter), self.retry)  # for the clean-up, whose time is not the run's
        self.batches = job.work.batches(invoker.limits, job.provider.name)
        queued = job.recovery and job.queued
        self.kept_bytes = kept_budget(invoker.limits.memory_bytes, int(MARGIN * self.batches.predicted_bytes)) if queued else 0
        self.leasing = 0.0  # when the run began to lease a slot
        self.staged: dict[str, int] = {}  # what staging requested
        self.started = self.deadline = 0.0  # of the run's own time, in seconds since 1970: it begins with the launch
        self.over = threading.Event()

    def execute(self) -> Result:
        """Get the answer, and in any case write the run's traces, see `Trail`."""
        log.info("run %s: %d workers on %s, %s channel", self.run_id, self.job.workers, self.job.provider.name, self.job.channel)
        try:
            result = self._execute(self.trail.lines)
        except BaseException as error:
            memory.advise(error, self.batches, self.job.provider.name)
            self.trail.failed(error, self.meter.snapshot())
            if self.trail.lines and isinstance(error, Exception):
                error.add_note(f"fsd logs {self.run_id} shows what the workers said")
            raise
        return self.trail.done(result, self.batches.samples)

    def _execute(self, lines: dict[int, list[Any]]) -> Result:
        """Lease a slot, get the answer, and in any case remove the run's objects and give the slot back.

        Puts the log lines of each rank into ``lines``.
        """
        self.leasing = time.time()
        self._background("fsd-outages", partial(self.retry.report, self._notice, self.over))
        pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="fsd-client")
        try:
            first = slots.look(self.store, self.resources.slots)
            content = self._content(pool)  # these requests run at the same time as that for the slot; none of them writes anything
            lease = slots.lease(self.store, self.resources.slots, self.run_id, first=first)
        except BaseException:
            self.over.set()
            self.retry.stop.set()
            raise
        queued = self.job.workers if self.job.queued else 0
        cleanup = Cleanup(self.job.provider, self.resources, self.undelayed, self.invoker, lease, queued, self.frame_key)
        try:
            answer = self._answer(lease, content, pool)
        except BaseException as error:
            self.retry.stop.set()  # ends what the pool is doing
            pool.shutdown(wait=False, cancel_futures=True)
            if undone := cleanup.after_failure(error):
                error.add_note(undone)
            lines.update(list(cleanup.lines.items()))  # at an interrupt, a thread may still add some
            raise
        finally:
            self.over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if undone := cleanup.after_failure(answer.failed) if answer.failed else cleanup.after_answer(late=answer.late):
            warn(f"the answer is complete, but the clean-up is not: {undone}")
        lines.update(cleanup.lines | history.take_lines(answer.records))
        return self._result(answer, time.time() - answer.at)

    def _background(self, name: str, task: Callable[[], None]) -> None:
        threading.Thread(target=task, name=name, daemon=True).start()

    def _notice(self, line: str) -> None:
        self.job.progress(Progress("wait", 0, 0, line))

    def _phase(self, phase: str) -> Callable[[int, int], None]:
        return lambda done, total: self.job.progress(Progress(phase, done, total))

    def _answer(self, lease: slots.Lease, content: _Content, pool: ThreadPoolExecutor) -> _Answer:
        """Stage, launch, follow, collect."""
        renewing = Store(self.store.driver, Retry(math.inf, self.meter, stop=self.over))
        self._background("fsd-lease", partial(slots.renew, renewing, lease, self.over))
        if streams := memory.streaming(self.batches, self.job.work.parallel.data)[1]:
            log.warning("%s", streams)
            self.job.progress(Progress("stage", 0, 0, streams))
        staging, before = time.time(), self.meter.snapshot()
        content.shards.stage(self._staged("shards"))
        content.inputs.stage(self._staged("inputs"))
        self.started = time.time()
        self.staged = {name: count - before[name] for name, count in self.meter.snapshot().items() if count > before[name]}
        config = self._config(content)
        spawner = self._launch(lease, config)
        restarts = None
        if config.recovery:
            restarts = Restarts.of(self._payload(lease), config, self.job.provider, self.resources, self.store, spawner)
        outputs = collect.Outputs(self.store, self.keys, self.job.work, config, pool)
        records = collect.Records(self.store, self.keys, self.job.workers, pool)
        first, layers = FirstRank(self.store, self.keys, config, restarts), self._phase("layers")
        with Follower(self.store, self.keys, spawner, restarts, first, self.deadline, self.job.timeout_s, layers) as follower:
            failed = self._outputs(follower, outputs)
            follower.answered()
            output = outputs.assemble(self._phase("collect"))
            at = time.time()
            failed = self._records(follower, records, failed)
            late = bool(records.missing)
            if restarts is not None:
                failed, late = failed or restarts.left_over(records.missing, records.readable), late or bool(restarts.ranks)
        recovered = restarts.recovered(records.readable) if restarts is not None else []
        return _Answer(output, records.readable, late, failed, recovered, self.started - staging, at)

    def _content(self, pool: ThreadPoolExecutor) -> _Content:
        shards = stage.Content(self.store, self.job.work.shards(), pool, again=self.again)
        pieces, places = self.job.work.inputs(self.batches.samples)
        inputs = stage.Content(self.store, pieces, pool, again=self.again)
        return _Content(shards, inputs, [[None if place is None else inputs.names[place] for place in parts] for parts in places])

    def _staged(self, what: str) -> Callable[[int, int], None]:
        """The progress of staging. It raises `RunFailed` once staging has taken `STAGE_S`."""

        def staged(done: int, total: int) -> None:
            self.job.progress(Progress("stage", done, total, what))
            if time.time() > self.retry.deadline:
                raise RunFailed(Code.DEADLINE, f"staging took longer than {STAGE_S:g} s: {done} of {total} {what} are uploaded; run again")

        return staged

    def _launch(self, lease: slots.Lease, config: RunConfig) -> Spawner:
        """Write the configuration and launch the first ranks, which start the others. The run's own time begins."""
        self.deadline = self.retry.deadline = self.started + self.job.timeout_s
        self.store.put(self.keys.config, config.pack())
        self.job.progress(Progress("launch", 0, self.job.workers))
        report = partial(report_failure, self.job.provider, self.resources)
        spawner = Spawner(self.invoker, self.store, self.retry, self.keys, report)
        first = self._payload(lease)
        spawner.start(attrs.evolve(first, rank=rank) for rank in LaunchTree(config.workers, config.branching, config.roots).first)
        return spawner

    def _payload(self, lease: slots.Lease) -> LaunchPayload:
        """The launch payload of rank 0."""
        return LaunchPayload(self.resources.app, lease.slot, lease.epoch, self.run_id, 0, 0, self.deadline)

    def _config(self, content: _Content) -> RunConfig:
        job, work = self.job, self.job.work
        replaces = job.stragglers and obstacle(job.workers, self.invoker.limits.concurrency) is None
        if replaces and job.queued and self.kept_bytes < SHELF_BYTES:
            log.warning("replaces no slow worker: the functions have too little memory to keep what a second one needs")
            replaces = False
        return RunConfig(
            version=VERSION,
            run=self.run_id,
            engine=work.engine,
            channel=job.channel,
            workers=job.workers,
            data=work.parallel.data,
            pipeline=work.parallel.pipeline,
            roots=LAUNCHER_ROOTS if job.recovery and self.invoker.limits.failures == "launcher" else ROOTS,
            branching=job.branching,
            layers=work.layers,
            batches=self.batches.samples,
            keep=[rank.keep for rank in self.batches.ranks],
            ahead=[rank.ahead for rank in self.batches.ranks],
            shards=content.shards.names,
            inputs=content.by_batch,
            last=work.last,
            objective=job.objective,
            faults=job.faults,
            stage_s=work.stage_s,
            slow_s=SLOW_S if replaces else 0.0,
            log=DEBUG if log.isEnabledFor(logging.DEBUG) else INFO,
            started=self.started,
            start_s=start_limit_s(self.invoker.limits) + START_MARGIN_S + SLOWEST_FACTOR * work.stage_s,
            outage_s=job.outage_s,
            recovery=job.recovery,
            kept_bytes=self.kept_bytes,
            frame_key=self.frame_key.hex(),
            latency=job.latency.pack() if job.latency else None,
        )

    def _outputs(self, follower: Follower, outputs: collect.Outputs) -> FsdError | None:
        """Wait until all outputs are written. Returns a failure that came after that, which does not cost the answer; else `None`."""
        try:
            follower.until(outputs.look)
        except DriverError:  # of the client's own store, which cannot be asked for the outputs then
            raise
        except RunFailed as error:
            with suppress(FsdError):
                if outputs.look():
                    return self._late(error)
            raise
        return None

    def _records(self, follower: Follower, records: collect.Records, failed: FsdError | None) -> FsdError | None:
        """Wait for the workers' records, the last objects that they write. Returns the failure that ended the run after its answer, if any.

        Rank 0 may learn late that all ranks are done, as when replies of its queue were lost. No other rank has to wait.
        """
        try:
            all_by, first_by = time.monotonic() + RECORDS_S, time.monotonic() + RECORDS_S + RECORD_S
            in_time = failed is not None or follower.until(lambda: records.look(all_by), RECORDS_S)
            if not in_time and not follower.until(lambda: records.look(first_by) or 0 not in records.missing, RECORD_S):
                reason = f"every rank has written its output, but rank 0 left no record within {RECORD_S:g} s after that"
                raise RunFailed(Code.NOT_FOUND, reason, rank=0)
        except FsdError as error:
            failed = self._late(error)
        except Exception as error:  # of ``progress``, which the caller wrote and a thread was calling
            warn(f"the answer is complete, but the caller's progress failed: {type(error).__name__}: {error}")
        if records.missing:
            with suppress(FsdError):
                records.look(time.monotonic() + RECORDS_S)
        return failed

    def _late(self, error: FsdError) -> FsdError:
        warn(f"the answer is complete, but a worker failed after it had written its output: {error}")
        return error

    def _result(self, answer: _Answer, cleanup_s: float) -> Result:
        """The output with maxima and sums over the workers' records. Never raises, so that the output is not lost."""
        job, work, client = self.job, self.job.work, self.meter.snapshot()
        ranks, seconds, seconds_sum, meter_ranks, meter_layers, peak_bytes = over_ranks(answer.records, job.workers)
        found = job.expectation.found(self.batches, self.staged, [rank["seconds"]["init"] for rank in ranks])
        kept = [held_bytes(size, self.kept_bytes) for size in found.pop("kept")] if found else []
        limits, parallel = self.invoker.limits, work.parallel
        needs = work.needs(self.batches, limits, found.pop("live") if found else None)
        result = work.result(
            run=self.run_id,
            output=answer.output,
            samples=work.samples,
            neurons=work.neurons,
            layers=work.layers,
            workers=job.workers,
            parallel=parallel.to_json(),
            micro_batches=len(self.batches.samples),
            branching=job.branching,
            provider=job.provider.name,
            stand_in=job.stand_in,
            channel=job.channel,
            reason=job.reason,
            partition=work.label,
            latency=job.latency.about() if job.latency else None,
            seconds={"total": answer.at - job.began, "stage": answer.stage_s} | seconds | {"cleanup": cleanup_s},
            seconds_sum=seconds_sum,
            meter={name: client[name] + meter_ranks[name] for name in FIELDS},
            meter_layers=meter_layers,
            memory=memory.figures(self.batches, needs, kept, limits, ranks, peak_bytes, parallel.data),
            recovered=answer.recovered,
            ranks=ranks,
        )
        if words := left_out(result.missing_ranks):
            warn(f"run {self.run_id}: {words}")
        if found is None:
            return result
        return attrs.evolve(result, predicted=found | {"lasted": answer.at - self.leasing - answer.stage_s})
