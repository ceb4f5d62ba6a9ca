"""One run from its lease to its result: stage, launch the root, follow, collect, leave nothing behind."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsd_core.client import collect, stage
from fsd_core.client.cleanup import Cleanup
from fsd_core.client.follow import follow
from fsd_core.client.result import Result, keep, left_out, over_ranks, warn
from fsd_core.driver import Code, InvokeDriver, InvokeLimits, ObjectDriver, Provider, Resources
from fsd_core.errors import DriverError, FsdError, InputError, RunFailed
from fsd_core.partition import ExchangePlan, Partition
from fsd_core.protocol.abort import report_failure
from fsd_core.protocol.runconfig import VERSION, RunConfig
from fsd_core.protocol.shard import READ_BYTES, predicted_bytes
from fsd_core.protocol.spawn import LaunchPayload, Spawner, start_limit_s
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys, new_run
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.metered import MeteredInvoker, MeteredObjects

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core.model import Model

__all__ = ["Job", "Progress"]

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


@dataclass(slots=True)
class Job:
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
        cleanup = Cleanup(self.provider, resources, store, invoker, lease, self.workers if self.queued else 0)
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
            if left := cleanup.after_failure(error, self.deadline):
                error.add_note(left)
            raise
        finally:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if left := cleanup.after_failure(failed, self.deadline) if failed else cleanup.after_answer():
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
