"""The seconds of a run, simulated many times: each rank of a replica, step by step, with latencies drawn from a table.

A step waits for the slowest of all its messages. That is where a mean is wrong, so everything here is drawn, and a mean is never taken
before the end. Arrays have the shape (runs, ranks): one row for each simulated replica of a simulated run. Times are seconds since the
client wrote the configuration of the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.channel.packing import COPY_BYTES
from fsd_core.kernel.fused import SPAN
from fsd_core.plan.counts import Exchange, Fixed, exchange
from fsd_core.plan.order import Order
from fsd_core.plan.polling import Bundles, Inbox
from fsd_core.plan.received import Received, Tables
from fsd_core.plan.sample import Sampler
from fsd_core.plan.split import Split
from fsd_core.protocol.shard import READS
from fsd_core.providers.outline import Outline
from fsd_core.worker.loop import ABORT_CHECK_S

__all__ = ["Cpu", "Flow", "Simulation"]

Array = NDArray[np.float64]
# Processor seconds, on the core that `Cpu.pace` refers to, of what a worker does beside multiplying: Python, numpy and zstd for one step.
# Of local runs; no benchmark measures them again.
STEP_S = 0.6e-3
OPEN_S, UNPACK_S = 12e-3, 0.4e-3  # the same to begin to load, and to unpack a layer
POOL_THREADS = 16  # of a worker: `fsd_core.worker.rank.THREADS`
_sum = np.add.reduce  # as `numpy.sum`, which takes three times as long for small arrays


@attrs.frozen(eq=False)
class Cpu:
    """How fast a worker computes. ``pace``: seconds for a second of a core of this machine, one number or (runs, 1)."""

    pace: Array | float = 1.0
    crowd: float = 1.0  # how many workers share a core, where all of them run on one machine
    gain: Array | float = 1.0  # how many times faster a worker computes with all cores that it has, one number or (runs, 1)
    starting: float = 1.0  # as ``crowd``, while all workers load

    def seconds(self, work: Array | float) -> Array:
        """The time for so many seconds of work (ranks,) of a core of this machine, while all workers compute: (ranks,) or (runs, ranks)."""
        return np.asarray(work, np.float64) * self.pace * self.crowd


@attrs.define(eq=False)
class Flow:
    """How one replica went. ``done``: when each rank has computed and sent everything; ``outputs``: when its outputs are written, minus
    infinity where it has none.
    """

    began: Array  # (runs, ranks): when each rank begins its first layer
    done: Array  # (runs, ranks)
    outputs: Array  # (runs, ranks)
    shared: Array  # (runs, ranks): `Sampler.functions`
    load: Array  # (runs,) mean over the ranks
    compute: Array  # (runs,)
    counts: dict[str, Array]  # (runs,): receives, acks and gets of the exchanges, of all ranks
    tokens: Array  # (runs,): messages that the first rank acknowledges only when all is done


class Simulation:
    """One replica under one table of latencies. `run` simulates it. ``tables``: of another simulation of the same split and channel."""

    def __init__(
        self,
        split: Split,
        fixed: Fixed,
        outline: Outline,
        sampler: Sampler,
        cpu: Cpu,
        *,
        channel: str,
        eager: bool,
        keep: bool,
        most_batches: int,
        tables: Tables | None = None,
    ) -> None:
        self.split, self.fixed, self.outline = split, fixed, outline
        self.sampler, self.cpu, self.channel, self.eager, self.keep = sampler, cpu, channel, eager, keep
        self.tensor, self.most_batches = split.parallel.tensor, max(2, most_batches)
        self.share = split.share
        self.exchanges = {step.layer: exchange(step, self.share, channel, eager, outline) for step in split.steps}
        stages = len(split.starts)
        self.shared = [sampler.functions(np.arange(stage * self.tensor, (stage + 1) * self.tensor)) for stage in range(stages)]
        self.inboxes = [Inbox(sampler, outline, shared, eager) for shared in self.shared]
        self.bundles = [Bundles(sampler, outline, shared, eager) for shared in self.shared]
        self.work = split.work_s * split.share
        self.inputs, self.outputs = split.input_s * split.share, split.output_s * split.share
        self.inside, self.leaving = self._inside(), self._leaving()
        self.order, self.batch = Order(split, self.exchanges, fixed, channel), 0
        self.began = [np.zeros(shared.shape) for shared in self.shared]
        self.cpu_used = np.zeros(sampler.runs)
        self.tables = Tables(split, channel) if tables is None else tables

    def _inside(self) -> list[list[Exchange]]:
        """For each stage: what its ranks send each other."""
        found: list[list[Exchange]] = []
        for first, last in self.split.stages:
            found.append([self.exchanges[step.layer] for step in self.split.steps if first + 1 < step.layer <= last])
        return found

    def _leaving(self) -> list[list[Exchange]]:
        """For each stage: what its ranks send to later stages."""
        found: list[list[Exchange]] = [[] for _ in self.split.stages]
        for layer, each in self.exchanges.items():
            for stage in np.unique(each.step.sources // self.tensor).tolist():
                if layer > self.split.stages[stage][1]:
                    found[stage].append(each)
        return found

    def _prepared(self, stage: int) -> Array:
        """The time of the ranks of a stage to prepare what is loaded, where they do that before anything else."""
        first, last = self.split.stages[stage]
        found: Array = self.split.ready_s[first:last, self._ranks(stage)].sum(axis=0) * self.cpu.pace * self.cpu.starting
        return found

    def _ranks(self, stage: int) -> slice:
        return slice(stage * self.tensor, (stage + 1) * self.tensor)

    def run(self, begun: Array) -> Flow:
        """Simulate. ``begun``: (runs, ranks) when the ranks of the replica have read the configuration."""
        split, tensor = self.split, self.tensor
        stages = split.stages
        free = [begun[:, self._ranks(s)] for s in range(len(stages))]
        ready = self._loaded(range(len(stages)), free)
        loaded = [each[-1] - start for each, start in zip(ready, free, strict=True)]
        if split.loads_first:
            loaded = [each + self._prepared(stage) for stage, each in enumerate(loaded)]
        writers = [stage for stage in range(len(stages)) if (self.fixed.output_bytes[self._ranks(stage)] > 0).any()]
        last_writer = writers[-1] if writers else len(stages) - 1
        batches = split.replica_batches
        some = min(batches, self.most_batches)
        for batch in range(some):
            earlier, self.batch = [each.copy() for each in free], batch
            sent: list[Array] = []  # when the ranks of each stage have sent the micro-batch
            for stage, (first, last) in enumerate(stages):
                waits = ready[stage] if batch == 0 or not self.keep else None
                if batch and not self.keep:
                    (waits,) = self._loaded([stage], [free[stage]])
                free[stage] = self._stage(stage, first, last, free[stage], waits, sent) + self._spend(self.outputs[self._ranks(stage)])
                if self.leaving[stage]:
                    free[stage] = free[stage] + sum(self._encode(each, stage) for each in self.leaving[stage])
                sent.append(free[stage])
        if batches > some:  # by now the stages work side by side: each further batch takes as long as the last one
            step = free[last_writer].max(axis=1) - earlier[last_writer].max(axis=1)
            free = [each + ((batches - some) * step)[:, None] for each in free]
        tokens = self.inboxes[0].tokens[:, 0]
        for inbox in self.inboxes:
            inbox.finish()
        self.cpu_used *= batches / some
        load = np.mean([each.mean(axis=1) for each in loaded], axis=0)
        counts = {name: each * (batches / some) for name, each in self._counts().items()}
        counts["object_gets"] = counts["object_gets"] + self._looks(loaded)
        done = np.concatenate([self._sent(stage, each) for stage, each in enumerate(free)], axis=1)
        shared = np.concatenate(self.shared, axis=1)
        return Flow(
            np.concatenate(self.began, axis=1),
            done,
            self._outputs(done, shared),
            shared,
            load,
            self.cpu_used / (tensor * len(stages)),
            counts,
            tokens,
        )

    def _sent(self, stage: int, free: Array) -> Array:
        """When what the ranks of a stage send last is accepted."""
        verb = "put" if self.channel == "object" else "publish"
        return free + self.sampler.draw(verb, self.shared[stage]) if self.leaving[stage] else free

    def _outputs(self, done: Array, shared: Array) -> Array:
        """When the outputs of each rank are written, those of all micro-batches at once."""
        batches, sizes = self.split.replica_batches, self.fixed.output_bytes
        if batches == 1 and self.order.certain:
            puts = self.sampler.numbered("put", self.order.output(), np.arange(len(sizes)), shared)
        else:
            puts = self.sampler.draw("put", shared, worst_of=float(min(batches, POOL_THREADS)))
        puts = puts + sizes * batches * max(self.sampler.link_rate("write"), self.sampler.own_rate("put") / min(batches, POOL_THREADS))
        return np.where(sizes > 0, done + puts, -np.inf)

    def _looks(self, loaded: Sequence[Array]) -> Array:
        """(runs,): the gets by which ranks that wait for no other look whether the run is over: two, once a second."""
        found = np.zeros(self.sampler.runs)
        for stage, (first, last) in enumerate(self.split.stages):
            if not self.inside[stage]:
                work = self.work[first:last, self._ranks(stage)].sum(axis=0) * self.split.replica_batches
                computes = self.cpu.seconds(work) / self.cpu.gain
                found += 2 * np.floor((loaded[stage] + computes) / ABORT_CHECK_S).sum(axis=1)
        return found

    def _counts(self) -> dict[str, Array]:
        found: dict[str, Array] = defaultdict(lambda: np.zeros(self.sampler.runs))
        for inbox, bundles in zip(self.inboxes, self.bundles, strict=True):
            found["receive_requests"] = found["receive_requests"] + inbox.receives
            found["receive_units"] = found["receive_units"] + inbox.units
            found["ack_requests"] = found["ack_requests"] + inbox.acks
            found["object_gets"] = found["object_gets"] + bundles.gets
        return dict(found)

    def _loaded(self, stages: Sequence[int], begins: Sequence[Array]) -> list[Array]:
        """For each of some stages, when the reads of its shards have arrived, (reads, runs, ranks of the stage).

        The first read is the head with the first input; then come the groups, several at once. ``begins``: when the ranks of each of the
        stages begin.
        """
        sampler, split = self.sampler, self.split
        groups = [[each[1:] for each in split.reads[self._ranks(stage)]] for stage in stages]
        counts = [max(map(len, each)) for each in groups]
        most, width = max(counts), len(stages) * self.tensor
        sizes = np.array([[*group, *[0.0] * (most - len(group))] for each in groups for group in each]).T.reshape(most, 1, width)
        took = np.zeros((most, sampler.runs, width))  # of each group, without the link
        found = np.empty((1 + most, sampler.runs, width))
        for number, (stage, begin, count) in enumerate(zip(stages, begins, counts, strict=True)):
            own, shared = slice(number * self.tensor, (number + 1) * self.tensor), self.shared[stage]
            some = self._ranks(stage)
            ranks = np.arange(some.start, some.stop)
            head = np.array([each[0] for each in split.reads[some]])
            inputs, place = self.fixed.input_bytes[some], self.order.first_read()[some]
            if not self.batch:
                first = sampler.numbered("get", place, ranks, shared)
                with_input = np.maximum(first, sampler.numbered("get", place - 1, ranks, shared))  # both are read at once
                first = begin + np.where(inputs > 0, with_input, first)
                for group in range(count):
                    took[group, :, own] = sampler.numbered("get", place + 1 + group, ranks, shared)
            else:
                first = begin + sampler.draw("get", shared)
                took[:count, :, own] = sampler.draw("get", shared, (count, *shared.shape))
            found[0, :, own] = first + sampler.transfer("get", "read", head + inputs)
        took = np.where(sizes > 0, took + sizes * sampler.own_rate("get"), 0.0)
        link, busy = found[0].copy(), sizes * sampler.link_rate("read")  # when the function's link is free, and what a group takes of it
        for number in range(most):
            asked = found[max(0, number + 1 - READS)]  # so many reads are under way at once
            link = np.maximum(link, asked) + busy[number]
            np.maximum(np.maximum(asked + took[number], link), found[number], out=found[number + 1])
        return [found[: 1 + count, :, at * self.tensor : (at + 1) * self.tensor] for at, count in enumerate(counts)]

    def _stage(self, stage: int, first: int, last: int, free: Array, ready: Array | None, sent: Sequence[Array]) -> Array:
        """When the ranks of a stage have computed a micro-batch. ``ready``: when its layers are loaded, ``sent``: when the stages before
        it have sent."""
        ranks, inside = self._ranks(stage), self.inside[stage]
        now = free if ready is None else np.maximum(free, ready[0])
        work, python = self.work[first:last, ranks].sum(axis=0), self.split.python
        if ready is not None and self.split.loads_first:
            now, ready = ready[-1] + self._prepared(stage), None
        prepare = np.zeros(self.tensor)
        if ready is not None:
            prepare = self.split.ready_s[first:last, ranks].sum(axis=0) + (OPEN_S + UNPACK_S * (last - first)) * python
        crossing = self.exchanges.get(first + 1) if sent else None
        if crossing is not None:  # a stage that waits for another one prepares its layers meanwhile
            now = np.maximum(now + self._spend(prepare), self._receive(crossing, stage, now, [*sent, now]))
            prepare = np.zeros(self.tensor)
        if not self.batch:
            self.began[stage] = now
        now = now + self._spend(self.inputs[ranks])
        stretches = last - first if inside else -(-(last - first) // SPAN)  # a rank that sends nothing in between computes layers together
        own = self._spend(work / self.cpu.gain + prepare + STEP_S * python * stretches)
        if not inside:
            now = now + own
            return now if ready is None else np.maximum(now, ready[-1] + own / max(1, len(ready)))
        weights = sum(each.step.weight for each in inside)
        step_cpu = own / weights
        for number, each in enumerate(inside):
            before, away = now, each.step.waits
            if ready is not None:
                now = np.maximum(now, ready[min(len(ready) - 1, 1 + number * len(ready) // len(inside))])
            sending = now + self._encode(each, stage)
            now = self._receive(each, stage, sending + step_cpu * (1 - away), [*sent, sending]) + step_cpu * away
            if each.step.weight != 1:
                now = now + _sum(now - before, 1, keepdims=True) / self.tensor * (each.step.weight - 1)
        return now

    def _spend(self, work: Array | float) -> Array:
        """The time for so much work, as `Cpu.seconds`. The mean over ranks counts as computing."""
        took = self.cpu.seconds(work)
        self.cpu_used += _sum(took, -1)
        return took

    def _encode(self, each: Exchange, stage: int) -> Array:
        """(ranks of the stage,): the time to encode what a stage sends in a step."""
        weight = each.step.weight
        return self._spend(self.tables.encoding(each, stage) * weight) / weight

    def _receive(self, each: Exchange, stage: int, asked: Array, sent: Sequence[Array]) -> Array:
        """When the ranks of a stage have received and decoded the payloads of a step.

        ``sent``: when the ranks of each stage up to this one have sent.
        """
        weight, sampler, shared = each.step.weight, self.sampler, self.shared[stage]
        table = self.tables.received(each, stage)
        layer, ranks = each.step.layer, np.arange(table.stages.start * self.tensor, table.stages.stop * self.tensor)
        source, sender = (_joined(some[table.stages])[:, None, :] for some in (sent, self.shared))
        begun = source + table.wire * (sampler.link_rate("write") + sampler.own_rate("put" if self.channel == "object" else "publish"))
        if table.some_stored:
            number = self.order.put(layer, self.batch)[ranks]
            put = sampler.numbered("put", number, ranks, sender) if self.order.certain else sampler.draw("put", sender)
            begun = np.where(table.stored, begun + put, begun)
        if self.channel == "object":
            bundles = self.bundles[stage]
            bundles.weight = weight
            got = bundles.receive(asked, np.where(table.present, begun, np.inf), table.payloads, table.second_get)
        else:
            inbox = self.inboxes[stage]
            inbox.weight = weight
            late = self._deliveries(each, stage, table, sender, ranks)
            arrives = [np.where(which, begun + each, np.inf) for which, each in zip(table.groups, late, strict=True)]
            got = inbox.receive(
                asked, arrives[0] if len(arrives) == 1 else np.concatenate(arrives, axis=2), table.messages, table.mean_bytes
            )
            if table.some_stored:
                fetched = sampler.draw("get", shared) + sampler.transfer("get", "read", table.payloads.max(axis=1))
                got = np.where((table.stored & table.present).any(axis=1), got + fetched, got)
        return got + self._spend(table.decoding * weight) / weight

    def _deliveries(self, each: Exchange, stage: int, table: Received, sender: Array, ranks: NDArray[np.int64]) -> list[Array]:
        """The seconds from the publishes of payloads until the delivery of each group of their messages. ``ranks``: those that send."""
        sampler, shape = self.sampler, (self.sampler.runs, *table.present.shape)
        if sampler.seeded and self.order.certain and not self.eager and table.group_messages.max() == 1:
            number = self.tables.table(each.step, stage, self.order.delivery(each, self.batch)).astype(np.int64)
            senders = np.broadcast_to(sender, shape)
            return [sampler.numbered("deliver", number + group, ranks, senders) for group in range(len(table.groups))]
        return [self._delivery(table, sender, shape) for _ in table.groups]

    def _delivery(self, table: Received, sender: Array, shape: tuple[int, ...]) -> Array:
        rows = self.sampler.table.rows if self.sampler.table else {}
        verb = "deliver_direct" if self.eager and "deliver_direct" in rows else "deliver"
        one = self.sampler.draw(verb, sender, shape, worst_of=table.group_messages)
        if not self.eager:
            return one
        other = self.sampler.draw(verb, sender, shape, worst_of=table.group_messages)
        return np.where(table.wire <= COPY_BYTES, np.minimum(one, other), one)


def _joined(times: Sequence[Array]) -> Array:
    """Those of several stages, (runs, ranks of all of them)."""
    return times[0] if len(times) == 1 else np.concatenate(times, axis=1)
