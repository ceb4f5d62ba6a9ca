"""The program that every function runs: claim a rank, start the children, work through the layers, leave results and a record.

A platform's handler is a thin shell around `handle`. A platform's host that sees a function die calls `report_exit`.
A worker imports numpy, zstandard and what its provider needs, nothing else.
"""

from __future__ import annotations

import json
import math
import os
import resource
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.channel import Aborted, Channel, ChannelConfig, HybridChannel, ObjectChannel, QueueChannel, RankIdentity, describe
from fsd_core.codec import CodecError, decode, encode
from fsd_core.common.sealed import seal
from fsd_core.common.stopwatch import Stopwatch
from fsd_core.driver import Code, InvokeDriver, MessageDriver, ObjectDriver, Provider, Resources
from fsd_core.errors import DamagedContent, FsdError, RunFailed
from fsd_core.kernel import Block, merge
from fsd_core.model.activation import activate
from fsd_core.protocol.abort import abort_peers, report_exit, report_failure, tell
from fsd_core.protocol.launch_tree import LaunchTree
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.shard import LayerShard, ShardReader
from fsd_core.protocol.spawn import LaunchPayload, Spawner
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker import probe
from fsd_core.worker.cold import Start
from fsd_core.wrappers.faults import Faults, FaultyInvoker, FaultyMessages, FaultyObjects
from fsd_core.wrappers.metered import MeteredInvoker, MeteredMessages, MeteredObjects

__all__ = ["handle", "report_exit"]

PROGRESS_S = 2.0
ABORT_CHECK_S = 1.0
FIRST_POLL_S = 0.02
FAREWELL_S = 5.0  # how long a worker that failed tries to say so
THREADS = 16
START = Start()


def handle(payload: bytes, provider: Provider, *, nonce: str | None = None, note: Callable[[int], None] | None = None) -> int:
    """Run one launch. Returns 0 when done or stopped on purpose (late, aborted, claimed by another), 1 when failed and reported.

    Raises what ended it where that could not be reported: the platform then sees a function that died, and its host or launcher
    reports it (see `report_exit`). ``nonce`` identifies this invocation where the platform has an id of its own. ``note`` gets the
    layer (1-based) that is being worked on, so that a host can say where a function died.
    """
    try:
        fields = json.loads(payload)
        resources = provider.attach(str(fields["app"]))
        if "probe" in fields:
            with closing(provider.objects(resources)) as objects:
                return probe.run(fields["probe"], objects)
        launch = LaunchPayload.unpack(fields)
    except (FsdError, ValueError, KeyError, TypeError) as error:
        _say(f"{type(error).__name__}: {error}")
        return 1
    with closing(_Worker(launch, provider, resources, nonce or secrets.token_hex(8), note)) as worker:
        return worker.run()


def _say(line: str) -> None:
    with suppress(OSError):  # standard error may be a file on a disk that is full
        print(f"fsd worker: {line}", file=sys.stderr)


class _Worker:
    """One rank of one run, from its claim to its record."""

    def __init__(
        self, launch: LaunchPayload, provider: Provider, resources: Resources, nonce: str, note: Callable[[int], None] | None
    ) -> None:
        self.launch = launch
        self.rank = launch.rank
        self.provider = provider
        self.resources = resources
        self.nonce = nonce
        self.note = note or (lambda layer: None)
        self.watch = Stopwatch()
        self.init_s = START.take()
        self.keys = RunKeys(launch.run)
        self.meter = Meter()
        self.stop = threading.Event()
        self.all_done = threading.Event()
        self.retry = Retry(launch.deadline, self.meter, stop=self.stop)
        self.objects = provider.objects(resources)
        self.drivers: list[ObjectDriver | InvokeDriver | MessageDriver] = [self.objects]
        self.store = Store(MeteredObjects(self.objects, self.meter), self.retry)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fsd")
        self.config: RunConfig | None = None
        self.channel: Channel | None = None
        self.spawner: Spawner | None = None
        self.failed: RunFailed | None = None  # what a background thread met
        self.layer: int | None = None
        self.began = time.time()
        self.launch_s = 0.0  # from the run's start, on the client's clock, until here
        self.layers_meter = dict.fromkeys(FIELDS, 0)
        self.reported_at = time.monotonic()
        self.reports: list[Future[None]] = []
        self.looked_at = time.monotonic()

    def run(self) -> int:
        """See `handle`."""
        if time.time() >= self.launch.deadline or self.store.find(self.keys.error) is not None or not self._claim():
            return 0
        try:  # from here on others count on this rank, so whatever goes wrong is reported
            data = self.store.find(self.keys.config)
            if data is None:  # the run is over; looked for after the claim, so that a run that ends meanwhile is not revived by it
                self.store.delete([self.keys.claim(self.rank)])
                return 0
            config = self.config = RunConfig.unpack(data)
            self.launch_s = max(0.0, self.began - config.started)
            self.retry.outage_s = config.outage_s
            self._work(config)
            return 0
        except Exception as error:
            return self._fail(error)

    def _claim(self) -> bool:
        """Whether this worker is the one of its rank."""
        claim = {"nonce": self.nonce, "attempt": self.launch.attempt, "pid": os.getpid(), "at": time.time()}
        return self.store.create(self.keys.claim(self.rank), seal(claim))

    def close(self) -> None:
        """End what runs in the background, and close the drivers: a warm function lives on, and an open receiver would take what the
        next run is sent."""
        self.all_done.set()
        self.stop.set()
        if self.channel is not None:
            self.channel.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        for driver in reversed(self.drivers):
            with suppress(Exception):
                driver.close()

    def _fail(self, error: Exception) -> int:
        """Say why where client and peers look. Raises the reason where it could not be written: the platform then reports the death."""
        reason = self._reason(error)
        retry = Retry(time.time() + FAREWELL_S, self.meter)  # the run's own may be what ran out
        store = Store(self.store.driver, retry)
        if isinstance(reason, Aborted):  # another rank failed; where its reason is not written, the client would wait for this one
            with suppress(FsdError):
                if store.find(self.keys.error) is None and store.find(self.keys.config) is not None:
                    store.create(self.keys.error, describe(reason))
            return 0
        _say(str(reason))
        try:
            if store.find(self.keys.config) is None:  # the run is over, and its slot may be another's
                return 1
            tell(store, self.keys, reason, partial(self._abort_peers, reason, retry))
        except FsdError as second:
            raise reason from second
        return 1

    def _reason(self, error: Exception) -> RunFailed:
        """What ended this worker, with where it was."""
        if self.channel is not None and isinstance(heard := self.channel.mailbox.error, Exception):
            error = heard  # it ended what waited for a retry, and so came first
        if isinstance(error, MemoryError):
            error = RunFailed(Code.TOO_LARGE, "out of memory")
        elif not isinstance(error, RunFailed):
            error = RunFailed(Code.UNKNOWN, f"{type(error).__name__}: {error}")
        error.rank = self.rank if error.rank is None else error.rank
        error.layer = self.layer if error.layer is None else error.layer
        return error

    def _abort_peers(self, reason: RunFailed, retry: Retry) -> None:
        if self.channel is not None:
            self.channel.abort(reason, retry)
        elif self.config is not None and self.config.queued:
            abort_peers(self.provider, self.resources, self.launch, self.config.workers, reason, retry)

    def _background(self, name: str, task: Callable[[], None]) -> None:
        """Run ``task`` on a thread of its own. Whatever it raises ends the run."""

        def guarded() -> None:
            try:
                task()
            except Exception as error:
                self.failed = error if isinstance(error, RunFailed) else RunFailed(Code.UNKNOWN, f"{name}: {type(error).__name__}: {error}")
                if self.channel is not None and not self.all_done.is_set():
                    self.channel.mailbox.fail(self.failed)

        threading.Thread(target=guarded, name=name, daemon=True).start()

    def _work(self, config: RunConfig) -> None:
        """Everything between claim and record."""
        if config.faults:
            faults = Faults.parse(config.faults)
            self.store.driver = MeteredObjects(FaultyObjects(self.objects, faults, self.rank), self.meter)
        self.spawner = self._start_children(config)
        if self.rank == 0:
            lease = (self.launch.slot, self.launch.epoch)
            self._background("watch the lease", lambda: slots.watch(self.store, *lease, self.all_done))
        self.watch.enter("load")
        shard = ShardReader(config.shards[self.rank], self._staged, self.pool, keep=config.keep)
        steps = (shard.layers - 1) * len(config.batches)
        self.channel = self._open_channel(config, shard, steps) if config.workers > 1 else None
        if self.channel is not None and self.failed is not None:  # it came before there was a channel to say so
            self.channel.mailbox.fail(self.failed)
        before = self.meter.snapshot()
        outputs = [encode(self._batch(config, shard, batch, samples)) for batch, samples in enumerate(config.batches)]
        after = self.meter.snapshot()
        self.layers_meter = {name: after[name] - before[name] for name in FIELDS}
        self._write_outputs(outputs)
        if self.channel is not None:
            self._gather(steps, shard, len(config.batches))
        self.watch.enter("other")
        if self.spawner is not None:
            self.spawner.watch(self.stop, FIRST_POLL_S)  # whoever ends earlier than its children started would orphan them
        self.all_done.set()
        for report in self.reports:  # one that is written late would outlive the run
            with suppress(FsdError):
                report.result()
        self._write_record()

    def _start_children(self, config: RunConfig) -> Spawner | None:
        """Launch the children, and watch in the background that each claims its rank."""
        children = LaunchTree(config.workers, config.branching).children(self.rank)
        if not children:
            return None
        invoker = self.provider.invoker(self.resources)
        self.drivers.append(invoker)
        if config.faults:
            invoker = FaultyInvoker(invoker, Faults.parse(config.faults), self.rank)
        report = partial(report_failure, self.provider, self.resources)
        spawner = Spawner(MeteredInvoker(invoker, self.meter), self.store, self.retry, self.keys, report)
        spawner.start(replace(self.launch, rank=child, attempt=0) for child in children)

        self._background("watch the children", partial(spawner.watch, self.all_done))
        if invoker.limits.failures == "launcher":  # only this worker hears of its children
            self._background("listen for failures", partial(spawner.keep_listening, self.all_done))
        return spawner

    def _open_channel(self, config: RunConfig, shard: ShardReader, steps: int) -> Channel:
        """The run's channel, which knows from the shard who will send when."""
        exchanges = shard.layers - 1
        expected: dict[int, list[int]] = {step: shard.sources[1 + step % exchanges] for step in range(steps)}
        expected[steps] = list(range(1, config.workers)) if self.rank == 0 else []
        me = RankIdentity(self.launch.run, self.launch.epoch, self.rank, config.workers, self.launch.deadline)
        exchange = ChannelConfig(me, expected, self.retry, self.pool, eager=config.objective == "latency", start_s=config.start_s)
        if config.channel == "object":
            return ObjectChannel(self.store, exchange)
        driver = self.provider.messages(self.resources, self.launch.slot)
        self.drivers.append(driver)
        if config.faults:
            driver = FaultyMessages(driver, Faults.parse(config.faults), self.rank)
        messages = MeteredMessages(driver, self.meter)
        if config.channel == "hybrid":
            return HybridChannel(messages, self.store, exchange)
        return QueueChannel(messages, exchange)

    def _batch(self, config: RunConfig, shard: ShardReader, batch: int, samples: int) -> Block:
        """One batch through all layers: the activations of this rank's rows of the last."""
        self.watch.enter("load")
        key = config.inputs[batch][self.rank]
        data = self._staged(key)
        self.layer = 1
        block: Block | None = None
        layers = iter(shard)
        for number in range(1, shard.layers + 1):
            self.layer = number
            self.note(number)
            layer = next(layers)
            if block is None:
                block = self._input(key, data, layer, samples)
            self.watch.enter("other")
            if time.time() >= self.launch.deadline:
                raise RunFailed(Code.DEADLINE, "the run's time is over")
            heard = self.failed or (self.channel.mailbox.error if self.channel is not None else None)
            if heard is not None:
                raise heard
            if not layer.receives:
                self._look_for_abort()
            block = self._layer(layer, block, batch * (shard.layers - 1) + number - 2, number)
            self._progress(config, batch, number)
            self.watch.enter("load")
        assert block is not None
        return block

    def _staged(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Staged content, which the store may have expired. Raises `DamagedContent` where it is gone."""
        data = self.store.find(key, start, end)
        if data is None:
            raise DamagedContent(Code.NOT_FOUND, f"what was staged as {key} is gone", key)
        return data

    def _input(self, key: str, data: bytes, layer: LayerShard, samples: int) -> Block:
        """The staged input rows: as many as the first layer's local weights have columns, all of them needed."""
        try:
            return decode(data, layer.local.shape[1], samples)
        except CodecError as error:
            raise DamagedContent(Code.INVALID, f"the staged input is damaged: {error}", key) from error

    def _look_for_abort(self) -> None:
        """Where no channel would tell: at most once a second, whether the run failed elsewhere or is over."""
        if time.monotonic() - self.looked_at >= ABORT_CHECK_S:
            if self.store.find(self.keys.error) is not None or self.store.find(self.keys.config) is None:
                raise Aborted(Code.UNAVAILABLE, "the run is over")
            self.looked_at = time.monotonic()

    def _layer(self, layer: LayerShard, block: Block, step: int, number: int) -> Block:
        """Send, multiply what is at hand, receive, multiply the rest, activate."""
        if layer.sends:
            assert self.channel is not None
            self.watch.enter("send")
            held = block
            self.channel.send(step, ((target, self._encoded(held, rows)) for target, rows in layer.sends))
        self.watch.enter("compute")
        z = layer.local.multiply(block.values if layer.own is None else block.values[layer.own])
        live = block.live
        if layer.remote is not None:
            self.watch.enter("exchange")
            arrived = self._receive(layer, step, block.samples)
            self.watch.enter("compute")
            live, columns = merge([block, *arrived], block.samples)
            if columns[0] is not None:
                z = z[:, columns[0]]
            x = np.empty((layer.remote.shape[1], 1 + len(live)), np.float32)
            row = 0
            for part, column in zip(arrived, columns[1:], strict=True):
                x[row : row + part.rows] = part.values if column is None else part.values[:, column]
                row += part.rows
            z += layer.remote.multiply(x)
        activate(z, layer.bias, layer.activation, layer.clip, layer.challenge)
        result = Block(z, live, block.samples).trimmed()
        self.watch.enter("other")
        return result

    def _encoded(self, block: Block, rows: NDArray[np.int32]) -> bytes:
        data = encode(block.take(rows))
        self.meter.add("payload_bytes_sent", len(data))
        return data

    def _receive(self, layer: LayerShard, step: int, samples: int) -> list[Block]:
        """The rows of every source, decoded as they arrive, in the order of the sources."""
        assert self.channel is not None
        rows = dict(layer.receives)
        blocks: dict[int, Block] = {}
        for source, payload in self.channel.receive(step):
            try:
                blocks[source] = decode(payload, rows[source], samples)
            except CodecError as error:
                raise RunFailed(Code.INVALID, f"what rank {source} sent is damaged: {error}") from error
        return [blocks[source] for source, _ in layer.receives]

    def _write_outputs(self, bodies: list[bytes]) -> None:
        """This rank's slice of the output of each batch."""
        self.watch.enter("send")
        for task in [self.pool.submit(self.store.put, self.keys.output(batch, self.rank), body) for batch, body in enumerate(bodies)]:
            task.result()

    def _gather(self, step: int, shard: ShardReader, batches: int) -> None:
        """Tell rank 0 that this rank's output is written; rank 0 waits for all, so its record ends the run."""
        assert self.channel is not None
        if self.rank:
            self.channel.send(step, [(0, b"done")])
        else:
            self.watch.enter("exchange")
            # Others may have layers to compute after the last in which rank 0 receives: each may take as long as a step may.
            silent = next((back for back, sources in enumerate(reversed(shard.sources)) if sources), 0) * batches
            for _ in self.channel.receive(step, stalls=1 + silent):
                pass
            self.watch.enter("send")
        self.channel.finish()

    def _progress(self, config: RunConfig, batch: int, number: int) -> None:
        """Rank 0 says how far it is, under a new number each time: at most every two seconds and for every tenth of the way."""
        done, total = batch * config.layers + number, config.layers * len(config.batches)
        if self.rank == 0 and time.monotonic() - self.reported_at >= PROGRESS_S and done >= total * (len(self.reports) + 1) / 10:
            body = seal({"done": done, "total": total})
            self.reports.append(self.pool.submit(self.store.put, self.keys.progress(len(self.reports)), body))
            self.reported_at = time.monotonic()

    def _write_record(self) -> None:
        """The last request of a worker: its record counts itself."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self.watch.enter("other")
        spent = self.watch.seconds
        seconds = {"launch": self.launch_s, **spent, "init": self.init_s, "function": math.fsum(spent.values())}
        fields: dict[str, Any] = {"rank": self.rank, "attempt": self.launch.attempt, "seconds": seconds, "peak_bytes": peak}
        fields["timeline"] = self.watch.timeline()
        meter = self.meter.snapshot()
        meter["object_puts"] += 1
        before = meter["object_bytes_written"]
        body = b""
        while meter["object_bytes_written"] != before + len(body) or not body:
            meter["object_bytes_written"] = before + len(body)
            body = seal(fields | {"meter": meter, "meter_layers": self.layers_meter})
        self.store.put(self.keys.record(self.rank), body)
