"""Predictions: facts from a sample, counts by the channels' rules, seconds by simulation. `test_plan` has what chooses among them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import fsd_core
import fsd_core.plan.batches
import fsd_core.plan.places
from fsd_core import ExchangePlan, Layer, Model
from fsd_core.client import collect, follow, job
from fsd_core.codec import Encoder, pack
from fsd_core.cost import load as load_tariff
from fsd_core.driver import MessageLimits
from fsd_core.kernel import Block, Fused, Weights, compiled
from fsd_core.latency import Draws, Latency
from fsd_core.latency import load as load_table
from fsd_core.latency.table import Table
from fsd_core.model import Csr
from fsd_core.model.challenge import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import Parallel, partition
from fsd_core.partition.balance import contiguous, spread
from fsd_core.partition.rows import needs, work
from fsd_core.plan import facts as facts_module
from fsd_core.plan import following, simulate
from fsd_core.plan.choose import Wishes, compare
from fsd_core.plan.counts import exchange
from fsd_core.plan.ending import recorded, written_lines
from fsd_core.plan.facts import Facts, fewer, learn, order
from fsd_core.plan.launching import Begun
from fsd_core.plan.polling import LATE_S, Bundles, Inbox
from fsd_core.plan.predict import PARTS, Platform, middle, predict
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.sample import Sampler
from fsd_core.plan.split import Step
from fsd_core.plan.traffic import Estimator, of_partition
from fsd_core.providers.outline import Outline
from fsd_core.worker import rank
from fsd_core.worker.lines import SLOWEST_S, first_s
from networks import SAMPLES, dense, learned
from places import outline, place

PLANNED = ("payload_bytes_sent", "message_bytes_sent", "messages_sent", "publish_requests", "publish_units", "message_units_sent")


@pytest.fixture(scope="module")
def model() -> Model:
    return learned()[0]


@pytest.fixture(scope="module")
def facts() -> Facts:
    return learned()[1]


def platform(name: str = "aws", *, table: Table | None = None, **others: object) -> Platform:
    where = {"provider": name, "outline": outline(name), "table": table, "tariff": load_tariff("aws-us-east-1"), "memory_mb": 1769}
    return Platform(**(where | others))  # type: ignore[arg-type]


# Facts


def test_facts_count_live_samples_and_name_their_error(model: Model, facts: Facts) -> None:
    inputs = open_inputs(f"random:{SAMPLES}:0.2", model.inputs)
    assert (facts.sampled, facts.reached, facts.error) == (SAMPLES, 6, 0.0)
    expected = np.count_nonzero(np.diff(fsd_core.serial(model, inputs).indptr))
    assert facts.live[-1] == expected  # by the rule of the challenge a dead sample ends with zeros
    some = learn(model, open_inputs("random:4000:0.2", model.inputs), 0.02)
    assert some.sampled < 4000
    assert 0 < some.error < 1
    assert abs(some.live[0] - 4000) < 1
    assert (facts.work_s > 0).all()
    assert (some.work_s > 0).all()  # also of layers that were not reached


def test_live_samples_are_followed_through_layers_that_the_time_does_not_reach(model: Model) -> None:
    x = open_inputs("random:12:0.02:1", model.inputs).toarray().T
    whole, short = facts_module._pass(model, x, math.inf), facts_module._pass(model, x, 0.0)
    assert (whole.reached, short.reached) == (6, 1)
    assert short.live[0] > whole.live[-1]
    facts_module._onward(model, short)
    assert [*short.live, *short.later] == whole.live  # 12 samples are so few that all of them go on


class Clock:
    """Processor time that passes by a second with each look, and as `forward` says: 100 seconds for a tile."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def process_time(self) -> float:
        self.seconds += 1.0
        return self.seconds

    def monotonic(self) -> float:
        return 0.0


@pytest.mark.parametrize("name", ["numpy", "auto"])
def test_the_kernel_of_a_worker_is_measured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "auto" and compiled.missing:
        pytest.skip("the compiled kernel was not built")
    clock, kernel, shapes = Clock(), {"numpy": Weights, "auto": Fused}[name], []
    original = kernel.forward

    def forward(self: Any, block: Block, start: Block | None = None) -> Block:
        shapes.append(block.tiles.shape)
        clock.seconds += 100.0 * len(block.tiles)
        return original(self, block, start)

    monkeypatch.setattr(kernel, "forward", forward)
    monkeypatch.setattr(facts_module, "time", clock)
    sparse, full = radixnet(1024, 2), dense(1, 1024, 1024)
    with compiled.using(name):
        found = learn(Model((*sparse.layers, *full.layers), "both"), open_inputs("random:40:0.2", 1024), 1e9)
    live = found.live[:3]
    assert live[0] == 40
    tiles = np.ceil(live / 31)
    expected = np.full(3, 101.0) if name == "numpy" else (100 * tiles + 1) * live / (31 * tiles)
    np.testing.assert_allclose(found.work_s, expected)
    assert {width for *_, width in shapes} == ({1 + int(each) for each in live} if name == "numpy" else {32})
    np.testing.assert_allclose(found.ready_s, 1.0)


def test_the_kernel_finds_what_scipy_finds(model: Model) -> None:
    x = open_inputs("random:100:0.2", model.inputs).toarray().T.astype(np.float32)
    ours, theirs = facts_module._kernel_pass(model, x), facts_module._pass(model, x, math.inf)
    assert ours.live == theirs.live
    assert [number for number, _, _ in ours.probes] == list(range(6))
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        np.testing.assert_array_equal(mine.live, other.live)
        np.testing.assert_allclose(mine.values, other.values, rtol=1e-4, atol=1e-5)


def test_fewer_samples_are_the_same_in_all_layers() -> None:
    def block(live: list[int]) -> Block:
        return Block(np.zeros((2, 1 + len(live)), np.float32), np.array(live, np.int32), 1000)

    first, second = (set(fewer(block(live), 20).live.tolist()) for live in (list(range(0, 1000, 2)), list(range(0, 1000, 10))))
    until = max(order(np.array(sorted(first))))
    assert len(first) == 20
    assert {each for each in second if order(np.array([each]))[0] <= until} == {each for each in first if each % 10 == 0}


# Traffic and counts


@pytest.mark.parametrize("shape", [Parallel(tensor=2), Parallel(pipeline=2, tensor=2)], ids=["tensor", "mixed"])
def test_payloads_are_those_that_an_encoder_makes(model: Model, facts: Facts, shape: Parallel) -> None:
    made = partition(model, shape.parts, "block", stages=shape.pipeline)
    plan = ExchangePlan(model, made)
    encoders = [Encoder() for _ in range(shape.parts)]
    split = of_partition(facts, made, plan, shape, [SAMPLES])
    assert len(split.steps) == 5
    for step in split.steps:
        block = facts.blocks[step.layer - 1]
        assert block is not None
        sent = [
            len(encoders[source].encode(target, pack(block.take(plan.sends(step.layer, source)[target]))))
            for source, target in zip(step.sources.tolist(), step.targets.tolist(), strict=True)
        ]
        assert step.payloads(1.0).sum() == pytest.approx(sum(sent), rel=0.02)
        assert step.payloads(1.0) == pytest.approx(sent, abs=8)  # of each pair: the hybrid channel decides by the size of a payload
    estimate = Estimator(facts).split(shape, made.starts, [SAMPLES])
    for ours, theirs in zip(estimate.steps, split.steps, strict=True):
        assert ours.payloads(1.0).sum() == pytest.approx(theirs.payloads(1.0).sum(), rel=0.25)


def test_payloads_of_ranks_whose_activations_differ_have_their_own_sizes() -> None:
    """The first half of the rows is clipped to one value, the second is random: the hybrid channel sends the two on different ways."""
    layer = dense(1, 64, 64).layers[0]
    uneven = attrs.evolve(layer, bias=np.repeat([1000.0, 10.0], 32).astype(np.float32), clip=32.0)
    model = Model((uneven, layer, layer), "uneven")
    known = learn(model, open_inputs("random:50:0.5", 64), 60.0)
    made = partition(model, 2, "block")
    plan = ExchangePlan(model, made)
    for step in of_partition(known, made, plan, Parallel(tensor=2), [50]).steps:
        block = known.blocks[step.layer - 1]
        assert block is not None
        pairs = zip(step.sources.tolist(), step.targets.tolist(), strict=True)
        packed = [len(pack(block.take(plan.sends(step.layer, source)[target])).values) for source, target in pairs]
        assert step.payloads(1.0) - step.payloads(1.0).min() == pytest.approx(np.array(packed) - min(packed), abs=2)
    first = of_partition(known, made, plan, Parallel(tensor=2), [50]).steps[0].payloads(1.0)
    assert max(first) > 10 * min(first)


def test_an_estimate_moves_the_rows_of_the_block_partition(model: Model, facts: Facts) -> None:
    shape = Parallel(pipeline=2, tensor=2)
    made = partition(model, 4, "block", stages=2)
    exact = of_partition(facts, made, ExchangePlan(model, made), shape, [SAMPLES])
    estimate = Estimator(facts).split(shape, made.starts, [SAMPLES])
    assert [step.layer for step in exact.steps] == [step.layer for step in estimate.steps]
    for ours, theirs in zip(estimate.steps, exact.steps, strict=True):
        assert ours.rows.sum() == pytest.approx(theirs.rows.sum(), rel=0.05)
        assert ours.bytes.sum() == pytest.approx(theirs.bytes.sum(), rel=0.25)
    np.testing.assert_allclose(estimate.inputs, exact.inputs, rtol=0.05)


def test_rows_that_travel_are_counted_for_several_numbers_of_ranks_at_once(model: Model, facts: Facts) -> None:
    for tensor in (16, 4, 6, 1):
        estimate, layers = Estimator(facts), model.layers
        for layer in range(len(layers)):
            source = contiguous(work(layers[layer - 1]), tensor) if layer else spread(model.neurons, tensor)
            needed = needs(layers[layer], contiguous(work(layers[layer]), tensor), tensor)
            each = [needed[source == rank].sum(axis=0) for rank in range(tensor)]
            np.testing.assert_array_equal(estimate._moved(layer, tensor), each)


def test_a_thinned_split_stands_for_all_steps(facts: Facts) -> None:
    whole = Estimator(facts).split(Parallel(tensor=4), [0], [SAMPLES])
    thin = whole.thinned(2)
    assert len(thin.steps) == 2
    assert sum(step.weight for step in thin.steps) == len(whole.steps)


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 0, 1), (0, 0, 0)], ids=["identity", "zero middle", "all zero"])
def test_layers_before_which_no_row_travels(factors: tuple[int, ...]) -> None:
    layers = [Csr.build(np.arange(64), np.arange(64), np.full(64, factor), (64, 64)) for factor in factors]
    model = Model(
        tuple(Layer(weights=each, bias=np.zeros(64, np.float32), activation="relu", clip=None, challenge=False) for each in layers)
    )
    facts = learn(model, open_inputs("random:40:0.5", 64), 60.0)
    assert Estimator(facts).split(Parallel(tensor=2), [0], [40]).steps == ()
    staged = Estimator(facts).split(Parallel(pipeline=3, tensor=2), [0, 1, 2], [40])
    assert [step.layer for step in staged.steps] == [number for number in (2, 3) if factors[number - 1]]
    made = partition(model, 2, "block")
    assert of_partition(facts, made, ExchangePlan(model, made), Parallel(tensor=2), [40]).steps == ()
    found = compare(RowWorkload.of(facts), [place("aws")], Wishes(), colds=[True])
    assert {1, 2} <= {each.parallel.tensor for each in found if each.feasible}


def step_of(sizes: dict[tuple[int, int], int]) -> Step:
    pairs = np.array(list(sizes), np.int64)
    size = np.array(list(sizes.values()), np.float64)
    return Step(2, pairs[:, 0], pairs[:, 1], np.ones(len(size)), size - 35)


def test_an_exchange_is_packed_as_the_channels_pack_it() -> None:
    local = outline()
    small = exchange(step_of({(0, rank): 1000 for rank in range(1, 13)}), 1.0, "queue", False, local)
    assert (small.counts["messages_sent"], small.counts["publish_requests"]) == (12, 2)  # ten messages a publish
    eager = exchange(step_of({(0, rank): 1000 for rank in range(1, 13)}), 1.0, "queue", True, local)
    assert eager.counts["publish_requests"] == 24  # each by itself, and twice
    assert eager.counts["direct_units"] == 0
    queues = exchange(step_of({(0, 1): 1000, (0, 2): 100_000}), 1.0, "queue", True, outline("aws").soonest())
    assert (queues.counts["publish_requests"], queues.counts["publish_units"], queues.counts["direct_units"]) == (3, 4, 4)
    large = exchange(step_of({(0, 1): 600_000}), 1.0, "queue", False, local)
    assert large.pieces.tolist() == [3.0]  # 256 KiB a message
    stored = exchange(step_of({(0, 1): 600_000, (0, 2): 1000}), 1.0, "hybrid", False, local)
    assert stored.stored.tolist() == [True, False]
    assert (stored.counts["object_puts"], stored.counts["object_gets"], stored.counts["messages_sent"]) == (1, 1, 2)
    bundle = exchange(step_of({(0, 1): 60_000, (0, 2): 60_000}), 1.0, "object", False, local)
    assert bundle.second_get.tolist() == [False, True]  # the first get brings 64 KiB
    routed = exchange(step_of({(0, rank): 1000 for rank in range(1, 4)}), 1.0, "queue", False, outline("azure"))
    assert routed.counts["publish_requests"] == 3  # a queue for each rank


@pytest.mark.parametrize(
    ("channel", "split"), [("queue", Parallel(tensor=3)), ("object", Parallel(tensor=3)), ("hybrid", Parallel(pipeline=3))]
)
def test_counts_are_those_of_a_run(model: Model, facts: Facts, tmp_path: Path, channel: str, split: Parallel) -> None:
    made = partition(model, 3, "block", stages=split.pipeline)
    sizes = {"pipeline_parallel": split.pipeline, "tensor_parallel": split.tensor}
    result = fsd_core.run(
        model,
        f"random:{SAMPLES}:0.2",
        channel=channel,
        partition=made,
        batch_size=60,
        home=tmp_path,
        settings={"root": str(tmp_path)},
        **sizes,
    )
    exact = of_partition(facts, made, ExchangePlan(model, made), split, [60, 60])
    memory = [each.predicted(60, outline().functions, keep=True).bytes for each in exact.sizes]
    found = predict(exact, platform("local", crowded=True), channel, staged=False, memory_by_rank=memory)
    for name in (*PLANNED, "invocations", "messages_received"):
        assert found.meter[name] == pytest.approx(result.meter[name], rel=0.1, abs=1), name
    assert found.meter["object_puts"] == pytest.approx(result.meter["object_puts"], rel=0.1, abs=2)
    for name in ("object_bytes_written", "object_bytes_read"):
        assert found.meter[name] == pytest.approx(result.meter[name], rel=0.1), name
    assert result.memory["peak_bytes_max"] < found.memory_by_rank.max() * 1.3


# Draws and polls


def test_draws_have_the_quantiles_of_their_table() -> None:
    table, runs = load_table("aws"), 20_000
    sampler = Sampler(table, runs, 1)
    for verb in ("deliver", "put", "start_cold"):
        found = 1000 * sampler.draw(verb, sampler.client())
        row = table.rows[verb]
        np.testing.assert_allclose(np.quantile(found, [0.5, 0.9, 0.99]), [row.p50_ms, row.p90_ms, row.p99_ms], rtol=0.08)
    worst = sampler.draw("put", sampler.client(), worst_of=8.0)
    each = sampler.draw("put", sampler.client()[:, None], (runs, 8)).max(axis=1)
    assert np.median(worst) == pytest.approx(np.median(each), rel=0.03)


def test_a_seed_gives_the_hour_and_the_functions_of_the_latency_wrapper() -> None:
    table, seeds, ranks = attrs.evolve(load_table("aws"), hour_share=0.5, function_share=0.5), (1, 2, 3), np.arange(2)
    ours = Sampler(table, 3, 0, seeds=seeds)
    inner = Sampler(table, 6, 1, like=ours, copies=2, first=np.tile([0, 1], 3))  # of two replicas of one rank
    theirs = [[Draws(Latency(table, seed=seed), rank, 0).next("put") for rank in (-1, 0, 1)] for seed in seeds]
    np.testing.assert_allclose(ours.draw("put", ours.client()), [each[0] for each in theirs], rtol=1e-9)
    np.testing.assert_allclose(ours.draw("put", ours.functions(ranks)), [each[1:] for each in theirs], rtol=1e-9)
    np.testing.assert_allclose(ours.draw("put", inner.functions(np.arange(1))[::2]), [each[1:2] for each in theirs], rtol=1e-9)
    starts = [[Draws(Latency(table, seed=seed), rank, 0).start() for rank in ranks] for seed in seeds]
    np.testing.assert_allclose(ours.starts(np.ones(3, bool), ranks, ours.functions(ranks)), starts, rtol=1e-9)


@pytest.mark.parametrize("verb", ["get", "ack"])  # `ack` of this table takes two numbers for a draw
def test_draws_ahead_and_draws_that_nobody_needs_change_no_other_draw(verb: str) -> None:
    table = load_table("azure")
    assert [bool(table.rows[each].second_share) for each in ("get", "ack")] == [False, True]
    one, other = Sampler(table, 4, 0), Sampler(table, 4, 0)
    client, same = one.client(), other.client()
    single, ahead = [one.draw(verb, client, worst_of=1) for _ in range(5)], other.ahead(verb, same, 8)
    other.give_back(verb, same, 3)
    np.testing.assert_array_equal(single, ahead[:5])
    one.draw(verb, client)
    other.unused(verb, same.shape)
    np.testing.assert_array_equal(one.draw("put", client), other.draw("put", same))


def still(limits: MessageLimits | None = None) -> tuple[Sampler, Outline]:
    """No latencies: what the rules do is then exact."""
    return Sampler(None, 1, 0), attrs.evolve(outline(), messages=limits or outline().messages)


def test_a_receive_brings_what_is_there() -> None:
    sampler, local = still(attrs.evolve(outline().messages, lease_s=100.0))
    inbox = Inbox(sampler, local, np.zeros((1, 1)), False)
    arrives = np.array([[[1.0, 1.0, 2.0, np.inf]]])
    done = inbox.receive(np.array([[0.5]]), arrives, np.array([[1.0, 1.0, 1.0, 0.0]]), 100.0)
    assert done == pytest.approx(2.0 + LATE_S)
    assert inbox.receives == [2]  # one for the two at 1.0, one for the third
    inbox.receive(np.array([[3.0]]), np.array([[[1.5, np.inf, np.inf, np.inf]]]), np.array([[1.0, 0.0, 0.0, 0.0]]), 100.0)
    assert inbox.receives == [3]  # the message came at 1.5, and a receive of the step before brought it alone
    inbox.finish()
    assert inbox.acks == [1]


def test_the_client_looks_as_often_as_it_does() -> None:
    names = ("FIRST_POLL_S", "LAST_POLL_S", "POLLS_LATE", "ERROR_POLL_S", "CHECK_S", "STORE_CHECKS")
    assert [getattr(following, name) for name in names] == [getattr(follow, name) for name in names]
    assert (following.AT_ONCE, following.POOL, simulate.POOL_THREADS) == (collect.AT_ONCE, job.POOL_THREADS, rank.THREADS)
    for seconds, took in ((0.5, 0.03), (3.0, 0.03), (20.0, 0.01), (120.0, 0.2)):
        gets = exactly(load_table("aws"), get=took)
        zero = np.zeros((1, 2))
        begun = Begun(zero, zero, zero, np.zeros(1))
        outputs = np.array([[[seconds, seconds + 1.0]]])  # of two ranks, which write their records at the same time
        pieces = following.written_pieces(outputs, np.array([True, True]), 1, 1)
        found = following.collected(Sampler(gets, 1, 0), begun, pieces, 2, outputs, 2, 0.0)
        looks, now = 0, 0.0
        for piece in (seconds, seconds + 1.0):
            while now + took / 2 < piece:
                looks, now = looks + 1, now + took
                now += min(follow.LAST_POLL_S, max(follow.FIRST_POLL_S, now / follow.POLLS_LATE))
            now += took
        seen = now
        checks = sum(1 for _ in np.arange(0.0, seen, follow.CHECK_S + took + (follow.ERROR_POLL_S + took) / 2)) - 1
        more = seen / (follow.ERROR_POLL_S + took) + (2 if checks else 0) + checks + checks // follow.STORE_CHECKS
        assert found.answer == pytest.approx(seen, rel=0.05)
        assert found.gets == pytest.approx(looks + more, rel=0.05, abs=2)


def test_the_last_of_many_outputs_is_waited_for() -> None:
    outputs = np.zeros((3, 8, 4))
    outputs[0, 7, 0], outputs[1, 0, 3], outputs[2, 3, 1] = 9.0, 9.0, 9.0
    writers = np.array([True, False, True, True])
    for batches, late in ((8, (9.0, 9.0, 0.0)), (512, (9.0, 9.0, 0.0)), (100_000, (9.0, 9.0, 0.0))):
        pieces = following.written_pieces(outputs, writers, batches, 8)
        assert pieces.shape == (3, min(3 * batches, following.PIECES))
        assert tuple(pieces.max(axis=1)) == late


def exactly(table: Table, **seconds: float) -> Table:
    """The table with these verbs alone, each of which always takes so long."""
    rows = {
        verb: attrs.evolve(table.rows[verb], p50_ms=1000 * each, p90_ms=1000 * each, p99_ms=1000 * each, second_share=0.0)
        for verb, each in seconds.items()
    }
    return attrs.evolve(table, rows=rows)


def test_a_rank_that_misses_bundles_looks_for_failures_once_a_second() -> None:
    sampler, local = still()
    for weight, every in ((1.0, 0.2), (15.0, 3.0)):  # steps of 0.2 s, in each of which a get comes before the bundle
        bundles = Bundles(sampler, local, np.zeros((1, 1)), False, weight)
        bundles.receive(np.zeros((1, 1)), np.zeros((1, 1, 1)), np.zeros((1, 1)), np.zeros((1, 1), bool))
        before = bundles.gets[0]
        for at in np.arange(every, 12.1, every):
            bundles._look(np.array([[at]]))
        assert bundles.gets[0] - before == pytest.approx(12, abs=1)


def test_rank_0_acknowledges_the_end_with_what_it_has() -> None:
    sampler, local = still()
    shape = (1, 1, 4)
    for tokens, acks in ((0.0, 1.0), (5.0, 0.0), (9.0, 1.0)):  # three ranks tell it that their outputs are written
        _, counts = recorded(
            sampler,
            local,
            np.zeros(shape),
            np.ones(shape),
            np.ones(shape),
            np.array([tokens]),
            channel="queue",
            eager=False,
            workers=4,
            ranks=np.arange(4)[None],
        )
        assert counts["ack_requests"] == [acks]


def test_a_figure_of_several_seeds_is_the_median_of_one_run_of_each() -> None:
    values = np.array([1.0, 5.0, 9.0, 2.0, 6.0, 100.0, 3.0])
    assert middle(values, 3) == 5.5  # of (1, 5, 9) and (2, 6, 100)
    assert middle(values, 0) == middle(values, 1) == 5.0


def test_workers_share_cores_only_while_they_compute(monkeypatch: pytest.MonkeyPatch, facts: Facts) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    split = Estimator(facts).split(Parallel(tensor=8), [0], [SAMPLES])
    here = platform("local", crowded=True)
    assert here.crowd(split, 1.0, 0.0) == pytest.approx(4)  # all eight compute all the time
    assert here.crowd(split, 1.0, -0.5) == pytest.approx(4)  # never more than there are
    assert here.crowd(split, 1.0, 100.0) == 1
    some = here.crowd(split, 1.0, 4.0)
    assert some == pytest.approx((1 + 7 * some / (some + 4)) / 2)
    assert platform().crowd(split, 1.0, 0.0) == 1  # on a cloud each has its own


@pytest.mark.parametrize("shape", [Parallel(), Parallel(pipeline=3), Parallel(pipeline=2, tensor=2)], ids=str)
def test_workers_with_a_core_each_need_no_simulation_of_their_waiting(
    monkeypatch: pytest.MonkeyPatch, facts: Facts, shape: Parallel
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    split, here = Estimator(facts).split(shape, range(shape.pipeline), [SAMPLES]), platform("local", crowded=True)
    assert not here.shares_cores(split)
    found = predict(split, here, "queue")
    monkeypatch.setattr(Platform, "shares_cores", lambda self, split: True)
    assert predict(split, here, "queue").to_json() == found.to_json()


def test_acks_are_full_or_late() -> None:
    sampler, local = still(attrs.evolve(outline().messages, lease_s=100.0))
    inbox = Inbox(sampler, local, np.zeros((1, 1)), False)
    for at in range(23):
        inbox.receive(np.array([[float(at)]]), np.array([[[at + 0.5]]]), np.array([[1.0]]), 100.0)
    inbox.finish()
    assert inbox.acks == [3]  # two full ones and the rest
    short, local = still(attrs.evolve(outline().messages, lease_s=2.0))
    hasty = Inbox(short, local, np.zeros((1, 1)), False)
    for at in range(6):
        hasty.receive(np.array([[2.0 * at]]), np.array([[[2.0 * at + 0.5]]]), np.array([[1.0]]), 100.0)
    hasty.finish()
    assert hasty.acks == [6]  # half the lease is over before the next message comes


def test_a_bundle_is_polled_with_growing_pauses() -> None:
    sampler, local = still()
    bundles = Bundles(sampler, local, np.zeros((1, 1)), False)
    done = bundles.receive(np.array([[0.0]]), np.array([[[0.1]]]), np.array([[1000.0]]), np.zeros((1, 1), bool))
    assert 0.1 <= done[0, 0] <= 0.15  # a pause is half of the time so far
    assert 8 <= bundles.gets[0] <= 13
    again = bundles.receive(np.array([[1.0]]), np.array([[[1.1]]]), np.array([[1000.0]]), np.zeros((1, 1), bool))
    assert again[0, 0] >= 1.1
    assert bundles.gets[0] <= 16  # it waits for most of what the last bundle took


# Predictions


def test_a_prediction_is_pure_and_its_parts_add_up(facts: Facts) -> None:
    split = Estimator(facts).split(Parallel(pipeline=2, tensor=2), [0, 3], [60, 60])
    where = platform(table=load_table("aws"))
    first, again = predict(split, where, "queue"), predict(split, where, "queue")
    assert first.to_json() == again.to_json()
    assert tuple(first.parts) == PARTS
    assert sum(first.parts.values()) == pytest.approx(first.seconds["p50"], rel=0.1)
    assert first.seconds["p50"] < first.seconds["p95"]
    assert first.usd == pytest.approx(sum(first.usd_by_service.values()))
    json.dumps(first.to_json(), allow_nan=False)


def test_every_exchange_costs_a_delivery_and_a_warm_start_saves_one(facts: Facts) -> None:
    where, estimator = platform(table=load_table("aws")), Estimator(facts)
    one = predict(estimator.split(Parallel(), [0], [SAMPLES]), where, "queue")
    tensor = predict(estimator.split(Parallel(tensor=4), [0], [SAMPLES]), where, "queue")
    hop = load_table("aws").rows["deliver"].p50_ms / 1000
    assert tensor.parts["exchange"] > one.parts["exchange"] + 5 * hop
    warm = predict(estimator.split(Parallel(), [0], [SAMPLES]), attrs.evolve(where, cold=False), "queue")
    assert one.seconds["p50"] - warm.seconds["p50"] == pytest.approx(0.65, abs=0.15)
    slow = predict(estimator.split(Parallel(), [0], [SAMPLES]), attrs.evolve(where, memory_mb=885), "queue")
    assert slow.parts["compute"] == pytest.approx(2 * one.parts["compute"], rel=0.05)


@pytest.mark.parametrize("shape", [Parallel(data=10_000), Parallel(data=100, pipeline=5), Parallel(data=160, tensor=62)], ids=str)
def test_thousands_of_workers_are_simulated(model: Model, shape: Parallel) -> None:
    many = learn(model, open_inputs("random:10000:0.01", model.inputs), 0.05)
    starts = [0, 1, 2, 3, 4][: shape.pipeline]
    split = Estimator(many).split(shape, starts, [10_000 // shape.data] * shape.data)
    found = predict(split.thinned(3), platform(table=load_table("aws")), "queue", runs=16)
    assert found.meter["invocations"] == shape.workers
    assert 1 < found.seconds["p50"] < found.seconds["p95"] < 3600


def test_lines_are_written_as_often_as_workers_write_them() -> None:
    ranks = np.arange(6).reshape(2, 3)
    waits = [[min(SLOWEST_S, first_s(rank) * 2**number) for number in range(20)] for rank in range(6)]
    moments = np.cumsum(waits, axis=1)
    for seconds in (7.9, 8.1, 12.0, 30.0, 200.0, 900.0):
        found = written_lines(np.full((1, 2, 3), seconds), ranks, 1.5)
        assert found["object_puts"] == pytest.approx([1.5 * (moments < seconds).sum()])
