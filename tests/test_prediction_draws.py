"""What a simulated run takes from the seed of ``--latency TABLE,seed=N``, and what it takes from this machine."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fsd_core.codec.values import TRIAL
from fsd_core.kernel import Block
from fsd_core.latency import Draws, Latency
from fsd_core.latency import load as load_table
from fsd_core.model import Model
from fsd_core.partition import ExchangePlan, Parallel, partition
from fsd_core.plan import coding, launching
from fsd_core.plan.counts import exchange, fixed
from fsd_core.plan.ending import written_reports
from fsd_core.plan.facts import Facts, learn
from fsd_core.plan.launching import forked
from fsd_core.plan.order import CLAIM_PUTS, Order
from fsd_core.plan.pace import python_pace
from fsd_core.plan.polling import Bundles
from fsd_core.plan.predict import Platform
from fsd_core.plan.sample import Sampler
from fsd_core.plan.split import Split
from fsd_core.plan.traffic import of_partition
from fsd_core.worker import progress
from networks import SAMPLES, dense, learned
from places import outline

# Draws


@pytest.mark.parametrize(("provider", "verb"), [("aws", "put"), ("gcp", "deliver"), ("azure", "ack")])  # the last has a second share
def test_numbered_draws_are_those_of_the_latency_wrapper(provider: str, verb: str) -> None:
    table, seeds, ranks = attrs.evolve(load_table(provider), hour_share=0.3, function_share=0.3), (1, 2, 3), np.arange(3)
    ours = Sampler(table, 6, 0, seeds=seeds)  # two runs of each seed
    shared, client = ours.functions(ranks), ours.client()
    for rank in (-1, *ranks.tolist()):
        theirs = [Draws(Latency(table, seed=seed), rank, 0) for seed in seeds]
        for number in range(4):
            expected = [each.next(verb) for each in theirs] * 2
            found = ours.numbered(verb, number, -1, client) if rank < 0 else ours.numbered(verb, number, ranks, shared)[:, rank]
            np.testing.assert_allclose(found, expected, rtol=1e-4)  # the curve beyond p99 is interpolated
    several = ours.numbered(verb, np.array([0, 2, 1]), ranks, shared)
    for rank, number in enumerate((0, 2, 1)):
        np.testing.assert_array_equal(several[:, rank], ours.numbered(verb, number, ranks, shared)[:, rank])


def test_numbered_draws_count_ranks_from_the_first_one_of_a_replica() -> None:
    table, seeds = attrs.evolve(load_table("aws"), hour_share=0.3, function_share=0.3), (1, 2)
    whole = Sampler(table, 2, 0, seeds=seeds)
    inner = Sampler(table, 4, 1, like=whole, copies=2, first=np.tile([0, 2], 2))  # two replicas of two ranks
    found = inner.numbered("put", 1, np.arange(2), inner.functions(np.arange(2)))
    np.testing.assert_allclose(found.reshape(2, 4), whole.numbered("put", 1, np.arange(4), whole.functions(np.arange(4))), rtol=1e-12)


def test_without_seeds_numbered_draws_are_like_others() -> None:
    one, other = Sampler(load_table("aws"), 4, 0), Sampler(load_table("aws"), 4, 0)
    np.testing.assert_array_equal(one.numbered("put", 3, -1, one.client()), other.draw("put", other.client()))
    assert (Sampler(None, 4, 0, seeds=(1,)).numbered("put", 3, -1, np.zeros(4)) == 0).all()


# The order of requests


def made(model: Model, facts: Facts, shape: Parallel, batches: list[int]) -> Split:
    found = partition(model, shape.parts, "block", stages=shape.pipeline)
    return of_partition(facts, found, ExchangePlan(model, found), shape, batches)


@pytest.mark.parametrize("channel", ["queue", "object", "hybrid"])
@pytest.mark.parametrize("shape", [Parallel(pipeline=3), Parallel(tensor=4), Parallel(pipeline=2, tensor=2)], ids=str)
def test_the_order_has_every_put_and_every_message(shape: Parallel, channel: str) -> None:
    split, small = made(*learned(), shape, [60, 60]), attrs.evolve(outline().messages, message_bytes=20_000, batch_bytes=20_000)
    where = attrs.evolve(outline(), messages=small)  # so that the hybrid channel stores payloads, and the queue has pieces
    exchanges = {step.layer: exchange(step, split.share, channel, False, where) for step in split.steps}
    around = fixed(split, channel, where, staged=True, keep=True)
    order = Order(split, exchanges, around, channel)
    assert order.certain
    puts, messages = order.ended(2)
    outputs = int((around.output_bytes > 0).sum())
    bundles = sum(each.counts["object_puts"] for each in exchanges.values())
    assert puts.sum() == CLAIM_PUTS * shape.parts + 2 * (bundles + outputs)
    assert messages.sum() == 2 * sum(each.counts["messages_sent"] for each in exchanges.values())
    # No two messages of a rank have the same number, and no two puts of its exchanges.
    for rank in range(shape.parts):
        places, stored = list[int](), list[int]()
        for batch in range(2):
            for layer, each in exchanges.items():
                mine = each.step.sources == rank
                if channel != "object":
                    count = np.where(each.stored, 1, each.pieces)[mine].astype(int)
                    starts = order.delivery(each, batch)[mine]
                    places += [int(start) + number for start, some in zip(starts, count, strict=True) for number in range(some)]
                if each.stored[mine].any():
                    stored.append(int(order.put(layer, batch)[rank]))
        assert sorted(places) == list(range(len(places)))
        assert len(set(stored)) == len(stored)
        assert not stored or min(stored) == CLAIM_PUTS


# This machine


def test_the_codec_is_measured_on_the_values_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def timed(block: Block, values: int) -> tuple[int, float, float]:
        taken.append(values)
        count = min(values, block.rows * len(block.live))
        return count, 2e-8 * count + 5e-8 * min(count, TRIAL), 1e-8 * count

    monkeypatch.setattr(coding, "_timed", timed)
    x = np.random.default_rng(0).random((1024, 201), np.float32)
    block = Block(x, np.arange(200, dtype=np.int32), 200)
    found = coding.measured([block] * 9, np.inf)
    assert len(found) == 9
    assert 2 * 5 <= len(taken) <= 2 * coding.LAYERS
    for each in found:
        assert (each.encode_s, each.trial_s, each.decode_s) == pytest.approx((2e-8, 5e-8, 1e-8))
    payloads = np.array([100.0, TRIAL, 1e6])
    assert found[0].encodes(payloads) == pytest.approx(payloads * 2e-8 + np.minimum(payloads, TRIAL) * 5e-8)
    assert found[0].decodes(payloads) == pytest.approx(payloads * 1e-8)
    taken.clear()
    coding.measured([block] * 9, 0.0)  # no time left: one block says it
    assert len(taken) == 2


def test_layers_without_enough_live_values_take_what_others_take() -> None:
    x = np.random.default_rng(0).random((1024, 201), np.float32)
    full = Block(x, np.arange(200, dtype=np.int32), 200)
    empty = Block(np.zeros((1024, 1), np.float32), np.zeros(0, np.int32), 200)
    found = coding.measured([full, empty, empty], np.inf)
    assert found[0] == found[1] == found[2] != coding.Coding()
    assert found[0].encodes(np.array([1e6]))[0] > 0
    assert found[0].decode_s > 0
    assert coding.measured([empty], np.inf) == [coding.Coding()]


def test_the_pace_of_python_is_measured_once() -> None:
    assert python_pace() > 0
    assert python_pace() is python_pace()


def test_functions_are_forked_one_after_another_while_the_others_use_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    found = forked(4, 2.0)
    gaps = np.array([1.0, 1.0, 1.5, 2.0]) * 2 * launching.HOST_FORK_S
    assert found == pytest.approx(launching.HOST_S + np.cumsum(gaps))


# Workers


def test_equal_rows_are_encoded_once_for_all_targets() -> None:
    network = dense(3, 32, 32)
    known = learn(network, csr_matrix(np.random.default_rng(0).random((20, 32), np.float32)), 10.0)
    split = made(network, known, Parallel(tensor=4), [20])
    for step in split.steps:  # of a dense layer, all other ranks need all rows of a rank
        assert step.packed is not None
        assert step.packed.sum() == len(np.unique(step.sources)) == 4
        assert ((step.encoding_s(1.0) > 0) == step.packed).all()


def test_layers_with_enough_products_use_several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, facts = learned()
    monkeypatch.setattr("fsd_core.kernel.compiled.active", lambda: object())
    one, several = made(model, facts, Parallel(), [SAMPLES]), made(model, facts, Parallel(tensor=4), [SAMPLES])
    assert one.threaded == 1  # it computes all six layers together
    least, most = several.products.min(), several.products.max()
    for terms, share in ((least, 1.0), (most, several.work_s[several.products == most].sum() / several.work_s.sum()), (most + 1, 0.0)):
        monkeypatch.setattr("fsd_core.plan.traffic.THREAD_TERMS", terms)
        assert several.threaded == pytest.approx(share)
    monkeypatch.setattr("fsd_core.plan.traffic.THREAD_TERMS", least)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    here = Platform(provider="local", outline=outline(), table=None, tariff=None, memory_mb=2048, crowded=True)
    assert here.gain(several) == pytest.approx(2)  # four workers share eight cores
    monkeypatch.setattr("fsd_core.kernel.compiled.active", lambda: None)  # numpy computes in one thread
    assert (one.threaded, here.gain(several)) == (0, 1)


def test_a_worker_opens_the_connections_that_it_lacks() -> None:
    table = load_table("aws")
    rows = {
        verb: attrs.evolve(table.rows[verb], p50_ms=each, p90_ms=each, p99_ms=each, second_share=0.0)
        for verb, each in (("get", 10.0), ("connect", 40.0))
    }
    bundles = Bundles(Sampler(attrs.evolve(table, rows=rows, links={}), 1, 0), outline(), np.zeros((1, 1)), False)
    there, nothing = np.full((1, 1, 4), -1.0), np.zeros((1, 4))
    assert bundles.receive(np.zeros((1, 1)), there, nothing, nothing > 0) == pytest.approx(0.05)  # two of four gets open a connection
    took = bundles.receive(np.ones((1, 1)), there, nothing, nothing > 0) - 1
    assert 0.01 <= took[0, 0] < 0.05  # they are open now


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 30), st.floats(0.1, 60), st.sampled_from([0.0, 0.5, 0.75]))
def test_progress_is_reported_as_often_as_a_worker_reports_it(waits: float, works: float, before: float) -> None:
    layers, reports, latest = 4000, 0, 0.0
    for layer in range(round(before * layers) + 1, layers + 1):  # as `Progress.report` after each layer
        now = waits + works * (layer / layers - before) / (1 - before)
        if now - latest >= progress.INTERVAL_S and layer >= layers * (reports + 1) / progress.REPORTS:
            reports, latest = reports + 1, now
    found = written_reports(np.zeros(1), np.array([waits]), np.array([waits + works]), before)
    assert found["object_puts"][0] == pytest.approx(reports, abs=1)
