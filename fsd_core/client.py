"""The client's side of a run: lease a slot, stage, launch the root, follow, collect, clean up."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsd_core import arguments, collect, slots, stage
from fsd_core.abort import report_failure
from fsd_core.driver import Code, InvokeDriver, InvokeLimits, ObjectDriver, Provider, Resources
from fsd_core.errors import DamagedContent, DriverError, FsdError, InputError, RunFailed
from fsd_core.farewell import Farewell
from fsd_core.follow import follow
from fsd_core.keys import RunKeys, new_run
from fsd_core.partition import ExchangePlan, Partition, find_partition
from fsd_core.providers import find
from fsd_core.provisioning import check_app
from fsd_core.result import Result, keep, left_out, over_ranks, warn
from fsd_core.retry import OUTAGE_S, Retry
from fsd_core.runconfig import VERSION, RunConfig
from fsd_core.shard import READ_BYTES, predicted_bytes
from fsd_core.spawn import LaunchPayload, Spawner, start_limit_s
from fsd_core.store import Store
from fsd_core.wrappers.faults import Faults
from fsd_core.wrappers.meter import FIELDS, Meter
from fsd_core.wrappers.metered import MeteredInvoker, MeteredObjects

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core.model import Model

__all__ = ["CHANNELS", "OBJECTIVES", "Progress", "Result", "run"]

CHANNELS = ("queue", "object", "hybrid")
OBJECTIVES = ("cost", "latency")
SLOTS = 4
STAGE_S = 1800.0  # for staging, which is no part of the run's own time
START_MARGIN_S = 15.0  # beyond the time for launches: the last of them must load its part as well
POOL_THREADS = 8


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: ``phase`` is one of partition, stage, launch, layers, collect, or wait, for a service that does not answer."""

    phase: str
    done: int
    total: int
    text: str = ""


def run(
    model: Model | str | os.PathLike[str],
    inputs: Any,
    *,
    provider: str = "local",
    channel: str = "auto",
    workers: int = 8,
    branching: int = 4,
    partition: str | os.PathLike[str] | Partition = "hypergraph",
    objective: str = "cost",
    batch_size: int | None = None,
    timeout: float = 900.0,
    seed: int = 0,
    app: str = "fsd",
    faults: str | None = None,
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    note: Mapping[str, str] | None = None,
    outage: float = OUTAGE_S,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Run ``model`` on ``inputs``, its layers split over ``workers`` functions of ``provider``.

    ``model``: a `Model`, or what MODEL of the command may be. ``inputs``: (samples, width) as scipy sparse matrix of any format, as
    anything that numpy makes an array of real numbers of, or what INPUT of the command may be. A `Path` is a file or folder, a text may
    be a name as well. What is given stays as it is. ``channel``: auto, queue, object or hybrid. ``partition``: a method, a path, or a
    `Partition`. ``batch_size``: samples at a time (default: all, fewer where the functions' memory needs it). ``timeout``:
    seconds, from the launch on. ``settings``: the provider's own. ``home``: where records and caches live (default ``$FSD_HOME``
    or ``~/.fsd``). ``note``: kept in the run's record, for instance names of ``model`` and ``inputs`` where these are no texts.
    ``outage``: how many seconds a service may be unreachable. ``progress``: called from any thread.

    An interrupt (KeyboardInterrupt) stops the workers and gives back what the run held, within 2 s; where that is not enough, a
    note of the exception says what is left.

    An error that ``progress`` raises ends the run, unless the output is being collected by then.

    Raises `InputError` before anything started where an argument is wrong, else `RunFailed` with code, rank and layer. What fails
    once the answer is there, such as writing the run's record, is a warning.
    """
    began = time.time()
    channel = arguments.one_of("channel", channel, ("auto", *CHANNELS))
    objective = arguments.one_of("objective", objective, OBJECTIVES)
    workers, branching = arguments.whole("workers", workers, 1), arguments.whole("branching", branching, 1)
    batch_size = None if batch_size is None else arguments.whole("batch_size", batch_size, 1)
    timeout, outage = arguments.seconds("timeout", timeout), arguments.seconds("outage", outage)
    seed = arguments.whole("seed", seed)
    spec = None if faults is None else Faults.parse(arguments.text("faults", faults)).spec()
    check_app(arguments.text("app", app))
    given = {key: os.fsdecode(each) for key, each in (("model", model), ("input", inputs)) if isinstance(each, str | os.PathLike)}
    kept, folder = given | arguments.texts("note", note), arguments.home(home)
    tell = _telling(arguments.callback("progress", progress))
    chosen = find(arguments.text("provider", provider))
    provisioner = chosen.provisioner(arguments.table("settings", settings))
    job = _Job(
        model=_model(model),
        provider=chosen,
        stand_in=chosen.stand_in(),
        channel="hybrid" if channel == "auto" else channel,
        workers=workers,
        branching=branching,
        objective=objective,
        faults=spec,
        seed=seed,
        note=kept,
        home=folder,
        began=began,
        timeout=timeout,
        outage=outage,
        tell=tell,
    )
    samples = _inputs(inputs, job.model)
    parts, label = find_partition(
        partition, job.model, workers, seed, job.home, lambda done, total: tell(Progress("partition", done, total))
    )
    there = provisioner.find(app)
    if there:  # what is refused makes no more queues
        job.admit(there)
    resources = provisioner.ensure(app, max(workers, there.ranks), there.slots) if there else provisioner.ensure(app, workers, SLOTS)
    with _open(job.provider, resources) as (objects, invoker):
        limits = invoker.limits
        if limits.concurrency is not None and limits.concurrency < workers:
            raise InputError(
                f"workers {workers}: {provider} may run {limits.concurrency} functions at once; use fewer workers or raise that quota"
            )
        job.admit(resources)
        try:
            try:
                return job.execute(samples, parts, label, resources, objects, invoker, batch_size)
            except DamagedContent as error:
                warn(f"{error}: what is staged of this model and input is staged again, and the run begins anew")
                return job.execute(samples, parts, label, resources, objects, invoker, batch_size)
        except RunFailed as error:
            if isinstance(error, DamagedContent):
                error.message += ", though it was staged again; `fsd clean --keep-records` removes all that is staged"
            if hint := job.provider.advice(error.message):
                error.message += f"; {hint}"
            raise


@dataclass(slots=True)
class _Job:
    """One run, its settings resolved."""

    model: Model
    provider: Provider
    stand_in: str | None
    channel: str
    workers: int
    branching: int
    objective: str
    faults: str | None
    seed: int
    note: Mapping[str, str]
    home: Path
    began: float
    timeout: float
    outage: float
    tell: Callable[[Progress], None]
    deadline: float = 0.0  # the time runs from the launch
    ended: float = 0.0  # when the answer was there
    staged: tuple[str, ...] = ()  # a key of each kind of staged content

    def execute(
        self,
        samples: csr_matrix,
        parts: Partition,
        label: str,
        resources: Resources,
        objects: ObjectDriver,
        invoker: InvokeDriver,
        batch_size: int | None,
    ) -> Result:
        """Lease, stage, launch, follow, collect; whatever happens, the run's objects and its slot are given back."""
        meter, run_id, plan = Meter(), new_run(), ExchangePlan(self.model, parts)
        keys = RunKeys(run_id)
        batches, predicted, keep = self._batches(samples.shape[0], parts, plan, batch_size, invoker.limits)
        retry = Retry(time.time() + STAGE_S, meter, outage_s=self.outage)
        store = Store(MeteredObjects(objects, meter), retry)
        over = threading.Event()
        silence = (lambda line: self.tell(Progress("wait", 0, 0, line)), over)
        threading.Thread(target=retry.report, args=silence, name="fsd-outages", daemon=True).start()
        try:
            lease = slots.lease(store, resources.slots, run_id)
        except BaseException:
            over.set()
            raise
        farewell = Farewell(self.provider, resources, store, invoker, lease, self.workers if self.queued else 0)
        pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="fsd-client")
        try:
            renewing = Store(store.driver, Retry(math.inf, meter, stop=over))
            threading.Thread(target=slots.renew, args=(renewing, lease, over), name="fsd-lease", daemon=True).start()
            staging = time.time()
            shards, inputs = self._stage(store, samples, parts, plan, batches, pool)
            started = time.time()
            self.deadline = retry.deadline = started + self.timeout
            store.put(keys.config, self._config(run_id, started, batches, keep, shards, inputs, invoker.limits).pack())
            self.tell(Progress("launch", 0, self.workers))
            spawner = Spawner(MeteredInvoker(invoker, meter), store, retry, keys, partial(report_failure, self.provider, resources))
            spawner.start([LaunchPayload(resources.app, lease.slot, lease.epoch, run_id, 0, 0, self.deadline)])
            failed = self._follow(store, keys, spawner, len(batches))
            output = collect.output(
                store, keys, parts, batches, self.model.layers[-1], pool, lambda n, of: self.tell(Progress("collect", n, of))
            )
            records = collect.records(store, keys, self.workers, pool, 0.0 if failed else collect.RECORDS_S)
            self.ended = time.time()
        except BaseException as error:
            retry.stop.set()  # uploads and questions of the pool end with it
            pool.shutdown(wait=False, cancel_futures=True)
            if left := farewell.failed(error, self.deadline):
                error.add_note(left)
            raise
        finally:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if left := farewell.failed(failed, self.deadline) if failed else farewell.ended():
            warn(f"the answer is there; {left}")
        return self._result(
            run_id, output, samples, label, batches, predicted, invoker.limits.memory_bytes, started - staging, records, meter
        )

    def _stage(
        self, store: Store, samples: csr_matrix, parts: Partition, plan: ExchangePlan, batches: list[int], pool: ThreadPoolExecutor
    ) -> tuple[list[str], list[str]]:
        """The keys of the staged shards by rank, and of the inputs by batch and rank. Raises `RunFailed` after `STAGE_S`."""

        def tell(what: str) -> Callable[[int, int], None]:
            def told(done: int, total: int) -> None:
                self.tell(Progress("stage", done, total, what))
                if time.time() > store.retry.deadline:
                    raise RunFailed(Code.DEADLINE, f"staging took longer than {STAGE_S:g} s: {done} of {total} {what} are uploaded")

            return told

        for key in self.staged:  # of the run before, which found one of them damaged
            stage.forget(store, key)
        shards = stage.shards(store, self.model, parts, lambda: plan, pool, tell("shards")).keys
        inputs = stage.inputs(store, samples, batches, self.model, parts, lambda: plan, pool, tell("inputs")).keys
        self.staged = (shards[0], inputs[0])
        return shards, inputs

    def _config(
        self, run_id: str, started: float, batches: list[int], keep: bool, shards: list[str], inputs: list[str], limits: InvokeLimits
    ) -> RunConfig:
        return RunConfig(
            version=VERSION,
            run=run_id,
            channel=self.channel,
            workers=self.workers,
            branching=self.branching,
            layers=len(self.model.layers),
            batches=batches,
            keep=keep,
            shards=shards,
            inputs=[inputs[at : at + self.workers] for at in range(0, len(inputs), self.workers)],
            objective=self.objective,
            faults=self.faults,
            started=started,
            start_s=start_limit_s(limits) + START_MARGIN_S,
            outage_s=self.outage,
        )

    def _follow(self, store: Store, keys: RunKeys, spawner: Spawner, batches: int) -> RunFailed | None:
        """Wait until the output is whole. Returns what failed after every worker had written its part: the answer is not lost by it."""
        try:
            follow(store, keys, spawner, self.deadline, self.timeout, lambda done, of: self.tell(Progress("layers", done, of)))
        except DriverError:  # of our own store: it is asked no more
            raise
        except RunFailed as error:
            with suppress(FsdError):
                if collect.complete(store, keys, self.workers * batches):
                    warn(f"the answer is whole, but a worker failed after its part: {error}")
                    return error
            raise
        return None

    def _batches(
        self, samples: int, parts: Partition, plan: ExchangePlan, size: int | None, limits: InvokeLimits
    ) -> tuple[list[int], int, bool]:
        """Sample counts of the batches, the predicted peak of the largest worker in bytes, whether the shard is kept for all batches."""
        size = min(size or samples, samples)
        shard_bytes = 8 * self.model.nonzeros // self.workers
        memory = limits.memory_bytes

        def predict(count: int, keep: bool = False) -> int:
            held = shard_bytes if keep else min(shard_bytes, 3 * READ_BYTES)
            ranks = range(self.workers)
            return limits.process_bytes + held + max(predicted_bytes(self.model, parts, plan, rank, count) for rank in ranks)

        while memory is not None and predict(size) > memory and size > 1:
            size = -(-size // 2)
        if memory is not None and predict(size) > memory:
            what, least = f"[{self.provider.name}] memory_mb = {memory >> 20}", -(-predict(size) // (1 << 20))
            if limits.process_bytes >= memory:
                idle = f"a worker takes {limits.process_bytes >> 20} MB before it has loaded anything, {least} MB with one sample"
                raise InputError(f"{what}: {idle}: expected at least {least}, with any number of workers")
            raise InputError(
                f"{what}: one sample takes {least} MB in one of {self.workers} workers: expected at least {least}, or more workers"
            )
        keep = size < samples and (memory is None or predict(size, True) <= memory)
        return [min(size, samples - at) for at in range(0, samples, size)], predict(size, keep), keep

    def _result(
        self, run_id: str, output: csr_matrix, samples: csr_matrix, label: str, batches: list[int], predicted: int,
        limit: int | None, staged: float, records: list[dict[str, Any]], meter: Meter,
    ) -> Result:  # fmt: skip
        """Maxima and sums over the workers' records, kept on disk as well. Nothing in here may fail: the output is there."""
        ranks, seconds, meter_ranks, meter_layers, peak_bytes = over_ranks(records, self.workers)
        client = meter.snapshot()
        result = Result(
            run=run_id,
            output=output,
            samples=samples.shape[0],
            neurons=self.model.neurons,
            layers=len(self.model.layers),
            workers=self.workers,
            branching=self.branching,
            provider=self.provider.name,
            stand_in=self.stand_in,
            channel=self.channel,
            partition=label,
            seconds={"total": self.ended - self.began, "stage": staged} | seconds,
            meter={name: client[name] + meter_ranks[name] for name in FIELDS},
            meter_layers=meter_layers,
            memory={"peak_bytes_max": peak_bytes, "predicted_bytes_max": predicted} | ({} if limit is None else {"limit_bytes": limit}),
            ranks=ranks,
        )
        if words := left_out(result.missing_ranks):
            warn(f"run {run_id}: {words}")
        about = {"objective": self.objective, "seed": self.seed, "faults": self.faults, "batches": batches, "model": self.model.digest}
        keep(result, self.home, about | {"note": self.note, "began": self.began})
        return result

    @property
    def queued(self) -> bool:
        """Whether the channel needs queues."""
        return self.channel != "object" and self.workers > 1

    def admit(self, resources: Resources) -> None:
        """Raise `InputError` where the channel needs queues that cannot carry so many workers."""
        if self.queued:
            self.provider.admit(resources, self.workers)


def _telling(progress: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    """``progress``, its errors warnings from when output is collected: the workers are done by then, and were paid for."""

    def tell(step: Progress) -> None:
        try:
            if progress is not None:
                progress(step)
        except Exception as error:
            if step.phase != "collect":
                raise
            warn(f"progress failed while the output was collected: {type(error).__name__}: {error}")

    return tell


def _model(model: Any) -> Model:
    from fsd_core.model import Model, open_model

    return model if isinstance(model, Model) else open_model(model)


def _inputs(inputs: Any, model: Model) -> csr_matrix:
    """Inputs as scipy CSR float32 (samples, width), checked, and a copy of what was given."""
    if isinstance(inputs, str | os.PathLike):
        from fsd_core.model.inputs import open_inputs

        return open_inputs(inputs, model.inputs)
    matrix = arguments.matrix("inputs", inputs, model.inputs)
    if matrix.shape[0] == 0:
        raise InputError("inputs have no samples: at least one is needed")
    return matrix


@contextmanager
def _open(provider: Provider, resources: Resources) -> Iterator[tuple[Any, InvokeDriver]]:
    """The client's drivers, closed at the end."""
    objects = provider.objects(resources)
    invoker = provider.invoker(resources)
    try:
        yield objects, invoker
    finally:
        for driver in (invoker, objects):
            try:
                driver.close()
            except Exception as error:  # it must not cost the answer
                warn(f"{driver.service}: the connection could not be closed: {type(error).__name__}: {error}")
