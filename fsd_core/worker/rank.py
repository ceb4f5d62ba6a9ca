"""One rank of one run: claim it, start the children, compute the layers, write outputs and a record."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs

from fsd_core.channel import Aborted, Channel, ChannelConfig, HybridChannel, ObjectChannel, QueueChannel, Shelf
from fsd_core.common.logs import Journal, masked, set_level
from fsd_core.common.sealed import seal
from fsd_core.common.stopwatch import Starved, Stopwatch
from fsd_core.driver import Code, InvokeDriver, MessageDriver, ObjectDriver, Provider, Resources
from fsd_core.errors import RunFailed
from fsd_core.kernel.compiled import kernel_name
from fsd_core.protocol.abort import abort_peers, report_failure
from fsd_core.protocol.launch_tree import LaunchTree
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload, Spawner
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import FIELDS, Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker import failing, lines, record
from fsd_core.worker.background import Background
from fsd_core.worker.engines import engine
from fsd_core.worker.loop import Loop, Part, read_staged
from fsd_core.worker.progress import Progress
from fsd_core.worker.recovery import Recovery
from fsd_core.wrappers.around import Connects
from fsd_core.wrappers.run import RunWrappers

if TYPE_CHECKING:
    from fsd_core.worker.mishaps import Mishaps

__all__ = ["Worker"]

log = logging.getLogger(__name__)

FIRST_POLL_S = 0.02
LAYER_LINE_S = 10.0  # the shortest time between two log lines that name the layer of this worker
THREADS = 16


class Worker:
    """One rank of one run, from its claim to its record.

    ``init_s``: seconds that the cold start took; 0 for a warm start. ``journal`` has the log lines of the worker.
    """

    def __init__(
        self,
        launch: LaunchPayload,
        provider: Provider,
        resources: Resources,
        nonce: str,
        note: Callable[[int], None] | None,
        init_s: float,
        journal: Journal | None = None,
    ) -> None:
        self.launch = launch
        self.rank = launch.rank
        self.provider = provider
        self.resources = resources
        self.nonce = nonce
        self.note = note or (lambda layer: None)
        self.init_s = init_s
        self.journal = journal or Journal()
        self.lines: lines.Lines | None = None
        self._layer_at = time.monotonic()
        self.began, self.began_monotonic = time.time(), time.monotonic()
        self.launch_s = 0.0  # from the start of the run, on the client's clock, until this worker began
        self.keys = RunKeys(launch.run)
        self.meter = Meter()
        self.stop = threading.Event()
        self.retry = Retry(launch.deadline, self.meter, stop=self.stop)
        self.objects = provider.objects(resources)
        self.drivers: list[ObjectDriver | InvokeDriver | MessageDriver] = [self.objects]
        self.wrappers = RunWrappers(self.meter, self.retry, self.rank, launch.attempt)  # until the configuration asks for more
        self.store = Store(self.wrappers.objects(self.objects), self.retry)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fsd")
        self.starved = Starved()  # last: `close` closes its file
        self.watch = Stopwatch(waits=self.starved)
        self.background = Background()
        self.claim = b""  # content of this worker's claim
        self.config: RunConfig | None = None
        self.channel: Channel | None = None
        self.loop: Loop | None = None
        self.first: Future[bytes] | None = None  # the staged input of the first batch, if this rank needs it
        self.mishaps: Mishaps | None = None
        self.recovery = Recovery(self.store, self.keys, self.rank, launch.incarnation, self.pool)
        self._sources: list[int] = []  # the ranks that send to this one

    def run(self) -> int:
        """Do the work of the rank. Returns and raises the same as `fsd_core.worker.handle`."""
        if time.time() >= self.launch.deadline:
            return 0
        aborted = self.pool.submit(self.store.find, self.keys.error)  # while the rank is claimed: a request takes longer than all the rest
        if not self._claim():
            return 0
        try:  # from here on, other ranks rely on this one, so every error is reported
            data = self.store.find(self.keys.config) if aborted.result() is None else None
            if data is None:  # the run is over. Checked after the claim, because nobody would remove the claim if the run ended in between
                self.store.delete([self._claim_key])
                return 0
            config = self.config = RunConfig.unpack(data)
            self.launch_s = max(0.0, self.began - config.started)
            self.retry.outage_s = config.outage_s
            set_level(config.log)
            self._work(config)
            return 0
        except Exception as error:
            return self._fail(error)

    def close(self) -> None:
        """End the background tasks and close the drivers: in a warm function, an open receiver would receive messages of the next run."""
        self.background.over.set()
        self.stop.set()
        self.starved.close()
        if self.lines is not None:
            self.lines.finish()
        if self.channel is not None:
            self.channel.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        for driver in reversed(self.drivers):
            with suppress(Exception):
                driver.close()

    def _claim(self) -> bool:
        """Claim the rank. `False` where another function has claimed it."""
        started = f"after a cold start of {self.init_s:.2f} s" if self.init_s else "in a warm process"
        which = f"attempt {self.launch.attempt}" + (f", incarnation {self.launch.incarnation}" if self.launch.incarnation else "")
        log.info("rank %d starts %s: run %s, %s, process %d", self.rank, started, self.launch.run, which, os.getpid())
        content = {"nonce": self.nonce, "attempt": self.launch.attempt, "pid": os.getpid(), "at": time.time()}
        self.claim = seal(content | {"log": self.journal.lines()})  # if the worker is killed soon, only its claim has its lines
        claimed = self.store.create(self._claim_key, self.claim)
        log.info("claimed rank %d" if claimed else "another function has claimed rank %d: stops", self.rank)
        return claimed

    @property
    def _claim_key(self) -> str:
        return self.keys.claim(self.rank, self.launch.incarnation)

    def _work(self, config: RunConfig) -> None:
        """Everything from the claim to the record."""
        faults = latency = None  # their modules take 25 ms of a cold start, which a run on a cloud does not need
        if config.faults:
            from fsd_core.wrappers.faults import Faults

            faults = Faults.parse(config.faults)
            if faults.kill or faults.hang or faults.slow:
                from fsd_core.worker.mishaps import Mishaps

                self.mishaps = Mishaps(faults, self.rank, self.launch.incarnation, self.watch, self._failed)
        if config.latency:
            from fsd_core.latency import Latency

            latency = Latency.unpack(config.latency)
        self.wrappers = RunWrappers(self.meter, self.retry, self.rank, self.launch.attempt, faults=faults, latency=latency)
        self.store.driver = self.wrappers.objects(self.objects, since=self.began_monotonic)
        self.lines = lines.Lines(self.journal, self.rank, self.store.driver, self.keys.log(self.rank), self.launch.deadline, self.meter)
        self.lines.start(config.log)
        self.recovery.on, self.recovery.beside = config.recovery, not config.queued
        spawner = self._start_children(config)
        if self.rank == 0:
            watch = partial(slots.watch, self.store, self.launch.slot, self.launch.epoch, self.background.over)
            self.background.start("watch the lease", watch)
        self.watch.enter("load")
        # The first input and the queues' driver come while the head of the shard is read.
        staged = config.inputs[config.batches_of(self.rank)[0]][self.rank % config.parts] if config.batches_of(self.rank) else None
        self.first = self.pool.submit(read_staged, self.store, staged) if staged else None
        messages = self.pool.submit(self._messages, config) if config.queued else None
        loop, part = engine(config.engine), self.rank % config.parts
        read = partial(read_staged, self.store)
        shard = loop.open(config.shards[part], read, self.pool, keep=config.keep[part], ahead=config.ahead[part])
        if config.workers > 1:
            self.channel = self._open_channel(config, shard, messages.result() if messages else None)
            self.background.connect(self.channel)
        self.recovery.begin(self.channel, config.workers, self._sources)
        shape = (config.layers, config.channel, config.workers, kernel_name())
        log.info("loads %d layers over the %s channel, %d workers, kernel: %s", *shape)
        layers_meter = self._compute(config, loop, shard)
        if self.channel is not None:
            self._gather(self.channel, config, shard)
        self.watch.enter("other")
        if spawner is not None:
            spawner.watch(self.stop, FIRST_POLL_S)  # if this worker ended earlier, nobody would launch a missing child again
        self.background.over.set()
        self.lines.finish()
        self._write_record(layers_meter)

    def _start_children(self, config: RunConfig) -> Spawner | None:
        """Launch the children. Background tasks check that each claims its rank, and report those that die."""
        children: Iterable[int] = LaunchTree(config.workers, config.branching, config.roots).children(self.rank)
        if self.launch.incarnation:  # the incarnation before may have launched them
            children = [child for child in children if self.store.find(self.keys.claim(child)) is None]
        if not children:
            return None
        invoker = self.provider.invoker(self.resources)
        self.drivers.append(invoker)
        invoker = self.wrappers.invoker(invoker)
        report = partial(report_failure, self.provider, self.resources)
        spawner = Spawner(invoker, self.store, self.retry, self.keys, report)
        spawner.start(attrs.evolve(self.launch, rank=child, attempt=0, incarnation=0) for child in children)
        self.background.start("watch the children", partial(spawner.watch, self.background.over))
        if invoker.limits.failures == "launcher":  # only this worker learns that a child died
            self.background.start("report deaths", partial(spawner.keep_reporting_deaths, self.background.over))
        return spawner

    def _messages(self, config: RunConfig) -> MessageDriver:
        """The driver of the queues. It opens its connections while the shard is read, or the first payload would wait for them."""
        direct = config.objective == "latency"
        driver = self.provider.messages(self.resources, self.launch.slot, direct=direct)
        self.drivers.append(driver)
        messages = self.wrappers.messages(driver, direct=direct)

        def connect(rank: int) -> None:
            if isinstance(messages, Connects) and not self.stop.is_set():
                with suppress(Exception):  # of any class: then the publish opens it, or has the error
                    messages.connect(rank)

        for rank in {messages.route(rank): rank for rank in config.targets(self.rank)}.values():
            threading.Thread(target=connect, args=(rank,), name="connect", daemon=True).start()  # not in the pool, which loads
        return messages

    def _open_channel(self, config: RunConfig, shard: Part, messages: MessageDriver | None) -> Channel:
        """The run's channel. It knows from the shard which ranks send to this rank in which step."""
        base = self.rank - self.rank % config.parts
        expected: dict[int, list[int]] = {}
        for batch in config.batches_of(self.rank):
            for number, sources in zip(shard.numbers, shard.sources, strict=True):
                if sources:
                    expected[config.step(batch, number)] = [base + source for source in sources]
        expected[_last_step(config)] = [rank for rank in _writers(config) if rank] if self.rank == 0 else []
        self._sources = sorted({source for sources in expected.values() for source in sources})
        me = config.member(self.launch.epoch, self.rank, self.launch.deadline, self.launch.incarnation)
        start_s = config.start_s * (1 + config.stage(self.rank))  # the stages before this one load and compute first
        eager, slack_s = config.objective == "latency", self.wrappers.slack_s
        settings = ChannelConfig(me, expected, self.retry, self.pool, eager=eager, start_s=start_s, slack_s=slack_s)
        ask = self.recovery.ask if config.queued and config.recovery else None
        newest = partial(slots.newest_epoch, self.store, self.launch.slot)
        shelf = Shelf(self.store, self.keys, self.rank, self.launch.incarnation)
        settings = attrs.evolve(settings, kept_bytes=config.kept_bytes, shelf=shelf)
        settings = attrs.evolve(settings, look=self.recovery.look if config.recovery else None, ask=ask, newest_epoch=newest)
        settings = attrs.evolve(settings, slow=self.recovery.slow_sources(config, self.launch_s + time.time() - self.began, slack_s))
        if messages is None:
            return ObjectChannel(self.store, settings)
        if config.channel == "hybrid":
            return HybridChannel(messages, self.store, settings)
        return QueueChannel(messages, settings)

    def _compute(self, config: RunConfig, made: type[Loop], shard: Part) -> dict[str, int]:
        """Take this rank's batches through its layers and write the outputs. Returns what the meter counted in the layers."""
        batches = config.batches_of(self.rank)
        reports = self.rank == config.last[-1]  # a rank of the last stage of the first replica: all stages before have computed as much
        progress = Progress(self.store, self.keys, self.pool, config.layers * len(batches)) if reports else None
        loop = self.loop = made(
            rank=self.rank,
            config=config,
            deadline=self.launch.deadline,
            shard=shard,
            channel=self.channel,
            store=self.store,
            pool=self.pool,
            background=self.background,
            watch=self.watch,
            progress=progress,
            note=self._note_layer,
            over=self.recovery.over,
            ahead=self.first,
        )
        self.first = None  # the loop forgets it too, once it is decoded
        before = self.meter.snapshot()
        outputs = {batch: loop.run(batch) for batch in batches}
        if self.mishaps is not None:
            self.mishaps.end()
        self.recovery.reached(None)
        if self.channel is not None:
            self.channel.finish_sends()  # the meter counts what a stage sends to the next stage as a part of the layers
        after = self.meter.snapshot()
        log.info("has computed all its layers, %.2f s after its start", time.time() - self.began)
        if self.rank % config.parts in config.last:
            self._write_outputs(outputs)
        if progress is not None:
            progress.finish()
        return {name: after[name] - before[name] for name in FIELDS}

    def _note_layer(self, layer: int) -> None:
        """The loop calls this when a layer begins, after it is loaded."""
        self.note(layer)
        if self.mishaps is not None:
            self.mishaps.begin(layer)
        self.recovery.reached(layer)
        log.debug("begins layer %d", layer)
        if time.monotonic() - self._layer_at >= LAYER_LINE_S:
            self._layer_at = time.monotonic()
            log.info("is in layer %d", layer)

    def _failed(self) -> bool:
        """Whether this worker has nothing more to do, because the run failed or its time is up."""
        failed = self.background.error or (self.channel.mailbox.error if self.channel is not None else None)
        return failed is not None or self.stop.is_set() or time.time() >= self.launch.deadline

    def _write_outputs(self, outputs: dict[int, bytes]) -> None:
        """Write this rank's slice of the output of each batch."""
        self.watch.enter("send")
        for task in [self.pool.submit(self.store.put, self.keys.output(batch, self.rank), body) for batch, body in outputs.items()]:
            task.result()

    def _gather(self, channel: Channel, config: RunConfig, shard: Part) -> None:
        """Send to rank 0 that this rank's output is written. Rank 0 waits for all ranks with an output: its record ends the run."""
        if self.rank == 0:
            self.watch.enter("exchange")
            if channel.slow is not None:
                channel.slow.patience.work_ended(config.pipeline)
            # Other ranks may have layers left after the last layer in which rank 0 receives. Each may take as long as a step may take.
            heard = max((number for number, sources in zip(shard.numbers, shard.sources, strict=True) if sources), default=0)
            silent = config.layers - (heard if config.data == config.pipeline == 1 else 0)
            for _ in channel.receive(_last_step(config), stalls=1 + silent * len(config.batches)):
                pass
            self.watch.enter("send")
        elif self.rank % config.parts in config.last:
            channel.send(_last_step(config), [(0, b"done")])
        channel.finish()

    def _write_record(self, layers_meter: dict[str, int]) -> None:
        """Write the record. It is the last request of a worker."""
        self.watch.enter("other")
        log.info("all is sent and written: writes the record")
        kept = self.channel.kept if self.channel is not None else None
        ended = kept.end() if kept is not None else None  # before the meter is read: it may write an object
        body = record.make(
            self.rank,
            self.launch.attempt,
            self.watch,
            launch_s=self.launch_s,
            init_s=self.init_s,
            meter=self.meter.snapshot(),
            layers_meter=layers_meter,
            lines=self.journal.lines(),
            incarnation=self.launch.incarnation,
            behind_s=self.recovery.behind_s,
            kept_bytes=kept.peak_bytes if kept is not None else 0,
            ended=ended,
        )
        self.store.put(self.keys.record(self.rank), body)

    def _fail(self, error: Exception) -> int:
        """Report why this rank failed, then leave the lines. Returns and raises the same as `failing.report`."""
        heard = self.channel.mailbox.error if self.channel is not None else None
        layer = self.loop.layer if self.loop is not None else None
        # An error in the mailbox came first: it ended the waits of this worker, and so led to ``error``.
        reason = failing.failure(error if heard is None else heard, self.rank, layer)
        if self.recovery.has_successor(reason, Store(self.store.driver, Retry(time.time() + failing.REPORT_S, self.meter))):
            log.warning("stops: another incarnation of this rank has replaced this worker")
            return 0
        if isinstance(reason, Aborted):
            log.warning("stops: this failure ended the run: %s", masked(str(reason)))
        else:
            log.error("fails: %s", masked(str(reason)), exc_info=error if reason.code is Code.UNKNOWN else None)
        claim = (self._claim_key, self.claim)
        try:
            return failing.report(reason, claim, self.store.driver, self.meter, self.keys, self._abort_peers)
        finally:
            if self.lines is not None:
                self.lines.finish()
            lines.leave(self.journal, self.store.driver, self.keys.log(self.rank), self.keys.config, self.meter)

    def _abort_peers(self, reason: RunFailed, retry: Retry) -> None:
        if self.channel is not None:
            self.channel.abort(reason, retry)
        elif self.config is not None and self.config.queued:
            me = self.config.member(self.launch.epoch, self.rank, retry.deadline, self.launch.incarnation)
            abort_peers(self.provider, self.resources, self.launch.slot, me, reason, retry)


def _last_step(config: RunConfig) -> int:
    """The step in which rank 0 learns that all outputs are written. It comes after the exchanges of all batches."""
    return (config.layers - 1) * len(config.batches)


def _writers(config: RunConfig) -> list[int]:
    """All ranks that write outputs."""
    return [first + part for first in range(0, config.workers, config.parts) for part in config.last]
