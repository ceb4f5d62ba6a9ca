"""The exchange plan compared with its definition, on small models of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.model import Csr, Layer, Model
from fsd_core.partition import ExchangePlan, Partition, partition
from partition_models import layer, models, sparse


def _columns(layer: Layer, row: int) -> set[int]:
    if isinstance(layer.weights, Csr):
        return set(layer.weights.indices[layer.weights.indptr[row] : layer.weights.indptr[row + 1]].tolist())
    return set(range(layer.inputs))


def _needed(layer: Layer, owner: np.ndarray, rank: int) -> set[int]:
    return set().union(*(_columns(layer, int(row)) for row in np.flatnonzero(owner == rank)))


@st.composite
def shared(draw: st.DrawFn) -> tuple[Model, Partition]:
    """A model and any partition of it, uneven ones included."""
    model, workers, seed = draw(models()), draw(st.integers(1, 9)), draw(st.integers(0, 1000))
    random = np.random.default_rng(seed)
    sizes = [model.inputs, *(layer.outputs for layer in model.layers)]
    return model, Partition(workers, tuple(random.integers(workers, size=size, dtype=np.int32) for size in sizes))


@given(shared())
def test_a_rank_gets_exactly_what_it_needs_and_does_not_own(case: tuple[Model, Partition]) -> None:
    model, made = case
    plan = ExchangePlan(model, made)
    for rank in range(made.workers):
        assert set(plan.inputs(rank).tolist()) == _needed(model.layers[0], made.owners[1], rank)
        for k in range(2, len(model.layers) + 1):
            owner = made.owners[k - 1]
            received = plan.receives(k, rank)
            for source, rows in received.items():
                assert rows.dtype == np.int32
                assert len(rows)
                assert source != rank
                assert (np.diff(rows) > 0).all()
                assert (owner[rows] == source).all()
            arrived = {int(row) for rows in received.values() for row in rows}
            assert arrived == {row for row in _needed(model.layers[k - 1], made.owners[k], rank) if owner[row] != rank}


@given(shared())
def test_sends_mirror_receives_and_add_up_to_the_figures(case: tuple[Model, Partition]) -> None:
    model, made = case
    plan, ranks = ExchangePlan(model, made), range(made.workers)
    by_layer, sent, received, distinct = [], np.zeros(made.workers), np.zeros(made.workers), 0
    for k in range(2, len(model.layers) + 1):
        sends = {(s, t): rows.tolist() for s in ranks for t, rows in plan.sends(k, s).items()}
        assert sends == {(s, t): rows.tolist() for t in ranks for s, rows in plan.receives(k, t).items()}
        by_layer.append(sum(map(len, sends.values())))
        distinct += len({row for rows in sends.values() for row in rows})
        for (s, t), rows in sends.items():
            sent[s] += len(rows)
            received[t] += len(rows)
    figures = plan.figures()
    assert figures["rows_moved_by_layer"] == by_layer
    assert figures["rows_moved"] == sum(by_layer)
    assert figures["rows_per_source_row"] == (sum(by_layer) / distinct if distinct else 0.0)
    assert (figures["max_sent"], figures["max_received"]) == (sent.max(), received.max())
    worst = 1.0
    for k, layer_ in enumerate(model.layers):
        load = [sum(len(_columns(layer_, int(row))) for row in np.flatnonzero(made.owners[k + 1] == rank)) for rank in ranks]
        worst = max(worst, max(load) * made.workers / sum(load) if sum(load) else 1.0)
    assert figures["imbalance"] == pytest.approx(worst)


def test_a_stored_zero_is_a_weight() -> None:
    weights = Csr(np.array([0, 1, 2]), np.array([1, 0], np.int32), np.zeros(2, np.float32), (2, 2))
    model = Model((layer(np.eye(2, dtype=np.bool_)), Layer(weights, np.zeros(2, np.float32), "relu", None, False)))
    assert ExchangePlan(model, partition(model, 2, "block")).figures()["rows_moved"] == 2


def test_rows_given_out_cannot_be_changed() -> None:
    model = sparse([10, 10, 10], 0.5)
    rows = ExchangePlan(model, partition(model, 2, "block")).sends(2, 0)[1]
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 3


def test_layers_and_ranks_outside_are_refused() -> None:
    model = sparse([10, 10, 10], 0.5)
    plan = ExchangePlan(model, partition(model, 2, "block"))
    for k in (0, 1, 3, -1):
        with pytest.raises(IndexError, match="layers 2 to 2"):
            plan.sends(k, 0)
    for rank in (-1, 2):
        for call in (plan.inputs, lambda r: plan.sends(2, r), lambda r: plan.receives(2, r)):
            with pytest.raises(IndexError, match="ranks 0 to 1"):
                call(rank)


def test_a_partition_of_another_model_is_refused() -> None:
    made = partition(sparse([10, 10, 10], 0.5), 2, "block")
    with pytest.raises(InputError, match="owner_2 has shape"):
        ExchangePlan(sparse([10, 10, 11], 0.5), made)
    with pytest.raises(InputError, match="3 arrays of owners"):
        ExchangePlan(sparse([10, 10], 0.5), made)
