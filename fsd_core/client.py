"""The client's side of a run: lease a slot, stage, launch the root, follow, collect, clean up."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsd_core import slots, stage
from fsd_core.channel import describe, explain
from fsd_core.codec import CodecError, decode
from fsd_core.driver import Code, InvokeDriver, InvokeLimits, Provider, Resources
from fsd_core.errors import FsdError, InputError, RunFailed
from fsd_core.home import home_folder
from fsd_core.kernel import Block
from fsd_core.keys import RunKeys, new_run
from fsd_core.partition import ExchangePlan, Partition, find_partition
from fsd_core.providers import find
from fsd_core.result import Result, keep
from fsd_core.retry import Retry
from fsd_core.shard import READ_BYTES, predicted_bytes
from fsd_core.spawn import LaunchPayload, Spawner
from fsd_core.store import Store
from fsd_core.worker import VERSION, RunConfig, abort_peers, report_failure
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
GRACE_S = 2.0  # how long workers that were told to stop get, where the platform does not stop them for us
FIRST_POLL_S, LAST_POLL_S = 0.02, 1.0
STORE_CHECKS = 5
CLEAN_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: ``phase`` is one of partition, stage, launch, layers, collect."""

    phase: str
    done: int
    total: int
    text: str = ""


def run(
    model: Model | str,
    inputs: Any,
    *,
    provider: str = "local",
    channel: str = "auto",
    workers: int = 8,
    branching: int = 4,
    partition: str | Partition = "hypergraph",
    objective: str = "cost",
    batch_size: int | None = None,
    timeout: float = 900.0,
    seed: int = 0,
    app: str = "fsd",
    faults: str | None = None,
    settings: Mapping[str, object] | None = None,
    home: str | Path | None = None,
    note: Mapping[str, str] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Run ``model`` on ``inputs``, its layers split over ``workers`` functions of ``provider``.

    ``model``: a `Model`, or what MODEL of the command may be. ``inputs``: (samples, width) as scipy sparse matrix, array, or
    what INPUT of the command may be. ``channel``: auto, queue, object or hybrid. ``partition``: a method, a path, or a
    `Partition`. ``batch_size``: samples at a time (default: all, fewer where the functions' memory needs it). ``timeout``:
    seconds. ``settings``: the provider's own. ``home``: where records and caches live (default ``$FSD_HOME`` or ``~/.fsd``).
    ``note``: kept in the run's record, for instance names of ``model`` and ``inputs`` where these are no texts.

    Raises `InputError` before anything started where an argument is wrong, else `RunFailed` with code, rank and layer.
    """
    began = time.time()
    tell = progress or (lambda _: None)
    _check(channel, workers, branching, objective, batch_size, timeout, faults)
    chosen = find(provider)
    job = _Job(
        model=_model(model),
        provider=chosen,
        stand_in=chosen.stand_in(),
        channel="hybrid" if channel == "auto" else channel,
        workers=workers,
        branching=branching,
        objective=objective,
        faults=Faults.parse(faults).spec() if faults else None,
        seed=seed,
        note={key: text for key, text in (("model", model), ("input", inputs)) if isinstance(text, str)} | dict(note or {}),
        home=home_folder(home),
        began=began,
        deadline=began + timeout,
        tell=tell,
    )
    samples = _inputs(inputs, job.model)
    parts, label = find_partition(
        partition, job.model, workers, seed, job.home, lambda done, total: tell(Progress("partition", done, total))
    )
    provisioner = job.provider.provisioner(settings or {})
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
            return job.execute(samples, parts, label, resources, objects, invoker, batch_size)
        except RunFailed as error:
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
    deadline: float
    tell: Callable[[Progress], None]

    def execute(
        self,
        samples: csr_matrix,
        parts: Partition,
        label: str,
        resources: Resources,
        objects: Any,
        invoker: InvokeDriver,
        batch_size: int | None,
    ) -> Result:
        """Lease, stage, launch, follow, collect; whatever happens, the run's objects and its slot are given back."""
        meter = Meter()
        retry = Retry(self.deadline, meter)
        plan = _Lazy(lambda: ExchangePlan(self.model, parts))
        run_id = new_run()
        keys = RunKeys(run_id)
        batches, predicted, keep = self._batches(samples.shape[0], parts, plan(), batch_size, invoker.limits)
        store = Store(MeteredObjects(objects, meter), retry)
        lease = slots.lease(store, resources.slots, run_id, self.deadline + 60)
        launch = LaunchPayload(resources.app, lease.slot, lease.epoch, run_id, 0, 0, 0, self.deadline)
        stopped = False
        try:
            with ThreadPoolExecutor(8, thread_name_prefix="fsd-client") as pool:
                staging = time.time()
                shards = stage.shards(store, self.model, parts, plan, pool, lambda n, of: self.tell(Progress("stage", n, of, "shards")))
                slices = stage.inputs(
                    store, samples, batches, self.model, parts, plan, pool, lambda n, of: self.tell(Progress("stage", n, of, "inputs"))
                )
                staged = time.time() - staging
                by_batch = [slices.keys[at : at + self.workers] for at in range(0, len(slices.keys), self.workers)]
                config = self._config(run_id, batches, keep, shards.keys, by_batch)
                store.put(keys.config, config.pack())
                self.tell(Progress("launch", 0, self.workers))
                spawner = Spawner(MeteredInvoker(invoker, meter), store, retry, keys, partial(report_failure, self.provider, resources))
                spawner.start([launch])
                self._follow(store, keys, spawner)
                records = [self._record(store, keys, rank, spawner) for rank in range(self.workers)]
                output = self._collect(store, keys, parts, batches, pool)
            stopped = True
        except BaseException as error:
            if not isinstance(error, _Reported):
                try:
                    self._abort(store, resources, launch, error)
                except Exception as second:  # whatever it is, the first error is the one to tell
                    error.add_note(f"telling the workers failed as well: {second}")
            if isinstance(error, _Reported):
                raise error.reason from None
            if not (isinstance(error, Exception) or invoker.limits.end_with_client):
                there = " --emulator" if self.stand_in else ""
                error.add_note(f"`fsd gc --provider {self.provider.name} --app {resources.app}{there}` removes what late workers may leave")
            raise
        finally:
            retry.deadline = time.time() + CLEAN_UP_S
            self._clean_up(store, keys, lease, invoker, stopped)
        return self._result(run_id, output, samples, label, batches, predicted, invoker.limits.memory_bytes, staged, records, meter)

    def _config(self, run_id: str, batches: list[int], keep: bool, shards: list[str], inputs: list[list[str]]) -> RunConfig:
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
            inputs=inputs,
            objective=self.objective,
            faults=self.faults,
            started=time.time(),
        )

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

    def _follow(self, store: Store, keys: RunKeys, spawner: Spawner) -> None:
        """Wait for rank 0's record, telling progress on the way. Raises `_Reported` with the run's error, if it has one."""
        wait, number, started, checks = FIRST_POLL_S, 0, False, 0
        next_check = time.monotonic() + 1.0
        while store.find(keys.record(0)) is None:
            self._raise_reported(store, keys)
            if time.monotonic() >= next_check:
                started = started or spawner.check()
                spawner.listen()
                checks += 1
                if checks % STORE_CHECKS == 0:
                    store.get(keys.config)  # where the whole store is gone, no record and no error will ever come
                next_check = time.monotonic() + 1.0
            if wait > 0.5 and (report := store.find(keys.progress(number))) is not None:
                done = json.loads(report)
                self.tell(Progress("layers", done["done"], done["total"]))
                number += 1
            if time.time() > self.deadline + GRACE_S:
                raise RunFailed(Code.DEADLINE, f"the run did not end within its {self.deadline - self.began:g} s: rank 0 left no record")
            time.sleep(wait)
            wait = min(LAST_POLL_S, wait * 1.2)

    @staticmethod
    def _raise_reported(store: Store, keys: RunKeys) -> None:
        error = store.find(keys.error)
        if error is not None:
            raise _Reported(explain(error))

    def _record(self, store: Store, keys: RunKeys, rank: int, spawner: Spawner) -> dict[str, Any]:
        """One worker's record; it is written a moment after rank 0 heard that the worker was done."""
        wait = FIRST_POLL_S
        while (data := store.find(keys.record(rank))) is None:
            if time.time() > self.deadline + GRACE_S:
                raise RunFailed(Code.DEADLINE, "no record of this worker", rank=rank)
            self._raise_reported(store, keys)
            if wait > 0.5:  # it should long be there
                spawner.listen()
            time.sleep(wait)
            wait = min(LAST_POLL_S, wait * 1.2)
        record: dict[str, Any] = json.loads(data)
        return record

    def _collect(self, store: Store, keys: RunKeys, parts: Partition, batches: list[int], pool: ThreadPoolExecutor) -> csr_matrix:
        """Every rank's slice of every batch, put together: float32 (samples, outputs)."""
        from scipy.sparse import csr_matrix, vstack

        rows = [np.flatnonzero(parts.owners[-1] == rank) for rank in range(self.workers)]

        def piece(batch: int, rank: int) -> Block:
            try:
                return decode(store.get(keys.output(batch, rank)), len(rows[rank]), batches[batch])
            except CodecError as error:
                raise RunFailed(Code.INVALID, f"the output slice is damaged: {error}", rank=rank) from error

        outputs = []
        for batch, count in enumerate(batches):
            blocks = list(pool.map(partial(piece, batch), range(self.workers)))
            outputs.append(_assemble(blocks, rows, (count, self.model.outputs), self.model.layers[-1].activation))
            self.tell(Progress("collect", batch + 1, len(batches)))
        return csr_matrix(vstack(outputs, "csr")) if len(outputs) > 1 else outputs[0]

    def _abort(self, store: Store, resources: Resources, launch: LaunchPayload, error: BaseException) -> None:
        """Tell every worker to stop."""
        reason = error if isinstance(error, RunFailed) else RunFailed(Code.UNAVAILABLE, "interrupted by the client")
        store.retry.deadline = time.time() + GRACE_S
        try:
            store.create(RunKeys(launch.run).error, describe(reason))
        finally:  # each way alone may be the one that is left
            if self.channel != "object" and self.workers > 1:
                outside = LaunchPayload(launch.app, launch.slot, launch.epoch, launch.run, -1, 0, 0, launch.deadline)
                with closing(self.provider.messages(resources, launch.slot)) as messages:
                    abort_peers(messages, store.retry, outside, self.workers, reason)

    def _clean_up(self, store: Store, keys: RunKeys, lease: slots.Lease, invoker: InvokeDriver, ended: bool) -> None:
        """Stop what still runs, then remove the run's objects and give the slot back. A failure here hides no other error."""
        if not ended:
            invoker.close()
            if not invoker.limits.end_with_client:
                time.sleep(GRACE_S)  # until workers have heard of the abort
        try:
            with suppress(FsdError):
                store.delete_prefix(keys.prefix)
        finally:
            with suppress(FsdError):
                slots.release(store, lease)

    def _result(
        self, run_id: str, output: csr_matrix, samples: csr_matrix, label: str, batches: list[int], predicted: int,
        limit: int | None, staged: float, records: list[dict[str, Any]], meter: Meter,
    ) -> Result:  # fmt: skip
        """Maxima and sums over the workers' records, kept on disk as well."""
        seconds = {name: max(record["seconds"][name] for record in records) for name in ("launch", "load", "compute", "exchange")}
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
            seconds={"total": time.time() - self.began, "stage": staged} | seconds,
            meter={name: client[name] + sum(record["meter"][name] for record in records) for name in FIELDS},
            meter_layers={name: sum(record["meter_layers"][name] for record in records) for name in FIELDS},
            memory={"peak_bytes_max": max(record["peak_bytes"] for record in records), "predicted_bytes_max": predicted}
            | ({} if limit is None else {"limit_bytes": limit}),
            ranks=records,
        )
        about = {"objective": self.objective, "seed": self.seed, "faults": self.faults, "batches": batches, "model": self.model.digest}
        keep(result, self.home, about | {"note": self.note, "began": self.began})
        return result

    def admit(self, resources: Resources) -> None:
        """Raise `InputError` where the channel needs queues that cannot carry so many workers."""
        if self.channel != "object" and self.workers > 1:
            self.provider.admit(resources, self.workers)


class _Reported(Exception):
    """The workers know already that the run failed."""

    def __init__(self, reason: RunFailed) -> None:
        self.reason = RunFailed(reason.code, reason.message, rank=reason.rank, layer=reason.layer)


class _Lazy:
    """A value made when it is first asked for."""

    def __init__(self, make: Callable[[], ExchangePlan]) -> None:
        self._make = make
        self._value: ExchangePlan | None = None

    def __call__(self) -> ExchangePlan:
        self._value = self._value or self._make()
        return self._value


def _check(channel: str, workers: int, branching: int, objective: str, batch_size: int | None, timeout: float, faults: str | None) -> None:
    """Refuse what can be refused before anything is read."""
    for name, value, allowed in (("channel", channel, ("auto", *CHANNELS)), ("objective", objective, OBJECTIVES)):
        if value not in allowed:
            raise InputError(f"{name} {value!r} is not known: there is {', '.join(allowed)}")
    for name, number in (("workers", workers), ("branching", branching), ("batch_size", 1 if batch_size is None else batch_size)):
        if number < 1:
            raise InputError(f"{name} {number}: must be at least 1")
    if not 0 < timeout < math.inf:
        raise InputError(f"timeout {timeout}: must be a number of seconds above 0")
    if faults:
        Faults.parse(faults)


def _model(model: Model | str) -> Model:
    if isinstance(model, str):
        from fsd_core.model.sources import open_model

        return open_model(model)
    return model


def _inputs(inputs: Any, model: Model) -> csr_matrix:
    """Inputs as scipy CSR float32 (samples, width), checked."""
    from scipy.sparse import csr_matrix

    if isinstance(inputs, str):
        from fsd_core.model.inputs import open_inputs

        return open_inputs(inputs, model.inputs)
    matrix = csr_matrix(inputs, dtype=np.float32)
    if matrix.shape[1] != model.inputs:
        raise InputError(f"inputs have {matrix.shape[1]} columns, the model takes {model.inputs}")
    if matrix.shape[0] == 0:
        raise InputError("inputs have no samples: at least one is needed")
    if not np.isfinite(matrix.data).all():
        raise InputError("inputs hold a value that is not finite")
    matrix.sum_duplicates()
    return matrix


def _assemble(blocks: list[Block], rows: list[Any], shape: tuple[int, int], activation: str) -> csr_matrix:
    """One batch's output from each rank's block of its rows: float32 (samples, outputs)."""
    from scipy.sparse import coo_matrix, csr_matrix

    if activation == "softmax":
        from fsd_core.model.activation import softmax

        dense = np.empty(shape, np.float32)
        for block, own in zip(blocks, rows, strict=True):
            dense[:, own] = block.dense().T
        return csr_matrix(softmax(dense))
    samples, neurons, values = [], [], []
    for block, own in zip(blocks, rows, strict=True):
        part, live = (block.dense(), np.arange(block.samples)) if block.values[:, 0].any() else (block.values[:, 1:], block.live)
        row, column = np.nonzero(part)
        samples.append(live[column])
        neurons.append(own[row])
        values.append(part[row, column])
    return coo_matrix((np.concatenate(values), (np.concatenate(samples), np.concatenate(neurons))), shape).tocsr()


@contextmanager
def _open(provider: Provider, resources: Resources) -> Iterator[tuple[Any, InvokeDriver]]:
    """The client's drivers, closed at the end."""
    objects = provider.objects(resources)
    invoker = provider.invoker(resources)
    try:
        yield objects, invoker
    finally:
        invoker.close()
        objects.close()
