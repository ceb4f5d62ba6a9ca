"""What the order of a sum can change, and why it changes no category with the weights of the Graph Challenge."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fsd_core import run
from fsd_core.cli import main
from fsd_core.errors import InputError
from fsd_core.model import Layer, Model, radixnet, save
from fsd_core.model.activation import activate
from fsd_core.model.challenge import CHALLENGE_BIAS, CHALLENGE_CLIP
from fsd_core.model.inputs import open_inputs
from fsd_core.model.rounding import cancelling, categories
from fsd_core.model.serial import serial
from fsd_core.partition import Partition

WEIGHT = np.float32(1 / 16)
ACTIVATIONS = st.floats(0, CHALLENGE_CLIP, width=32)


def trees(terms: list[np.float32]) -> list[np.float32]:
    """The sums of ``terms`` in this order, one for each way to place parentheses."""
    if len(terms) == 1:
        return terms
    return [left + right for cut in range(1, len(terms)) for left in trees(terms[:cut]) for right in trees(terms[cut:])]


def every_sum(terms: list[np.float32]) -> set[float]:
    """All float32 sums of ``terms``: for every order and every way to place parentheses."""
    return {float(each) for order in set(permutations(terms)) for each in trees(list(order))}


def challenge(z: np.ndarray, neurons: int) -> np.ndarray:
    return activate(z, np.full(len(z), CHALLENGE_BIAS[neurons], np.float32), "relu", CHALLENGE_CLIP, True)


def test_every_sum_tells_orders_apart() -> None:
    assert every_sum([np.float32(number) for number in (0.1, 0.2, -0.3)]) == {0.0, -(2.0**-27), -(2.0**-26)}


@given(st.lists(ACTIVATIONS, min_size=1, max_size=5))
@example([0.0] * 5)
@example([float(np.float32(2**-149)), 0.0, 0.0])
@example([32.0, 2.0**-25, 2.0**-25])  # some orders lose the small terms, no order loses all terms
def test_no_order_makes_a_benchmark_sum_zero_where_another_does_not(activations: list[float]) -> None:
    """Products of the weight 1/16 are never negative. A rounded sum of such terms is at least the largest: it is zero only if all are."""
    terms = [WEIGHT * np.float32(each) for each in activations]
    sums = every_sum(terms)
    assert min(sums) >= max(terms)
    assert {each != 0 for each in sums} == {any(term != 0 for term in terms)}
    exact = sum(map(Fraction, map(float, terms)))
    assert all(abs(Fraction(each) - exact) <= len(terms) * exact / 2**24 for each in sums)  # `categories` relies on this bound


@given(st.lists(ACTIVATIONS, min_size=32, max_size=32), st.randoms(use_true_random=False))
def test_nor_do_the_32_terms_of_a_row(activations: list[float], random: object) -> None:
    terms = [WEIGHT * np.float32(each) for each in activations]
    exact = sum(map(Fraction, map(float, terms)))
    while len(terms) > 1:  # adds any two terms: every order and every tree is possible
        first, second = (terms.pop(random.randrange(len(terms))) for _ in range(2))  # type: ignore[attr-defined]
        terms.append(first + second)
    assert (terms[0] != 0) == (exact != 0)
    assert abs(Fraction(float(terms[0])) - exact) <= 32 * exact / 2**24


@pytest.mark.parametrize("neurons", CHALLENGE_BIAS)
def test_the_benchmarks_rule_has_no_jump_at_zero(neurons: int) -> None:
    """A negative bias and relu turn every sum near zero into zero, so it does not matter whether the sum is exactly zero."""
    near = np.array([[0.0, 2.0**-149, 7.5e-9, -7.5e-9, 0.29, -1.0]], np.float32)
    assert not challenge(near, neurons).any()


@pytest.mark.parametrize("neurons", CHALLENGE_BIAS)
def test_the_generators_weights_and_bias_are_those(neurons: int) -> None:
    model = radixnet(neurons, 14 if neurons == 1024 else 2)
    for layer in model.layers:
        assert set(layer.weights.values.tolist()) == {1 / 16}  # type: ignore[union-attr]
        assert set(layer.bias.tolist()) == {float(np.float32(CHALLENGE_BIAS[neurons]))}
        assert layer.bias.max() < 0
        assert (layer.activation, layer.challenge) == ("relu", True)
    assert cancelling(model, csr_matrix(np.ones((1, neurons), np.float32))) == []


@pytest.mark.parametrize(("layers", "inputs"), [(12, "random:400:0.30:5"), (120, "digits")])
def test_no_order_of_summation_changes_a_category_of_the_benchmark(layers: int, inputs: str) -> None:
    model, samples = radixnet(1024, layers), open_inputs(inputs, 1024)[:200]
    always, sometimes = categories(model, samples)
    assert 20 < always.sum() < 180
    assert np.array_equal(always, sometimes)
    assert np.array_equal(always, np.diff(serial(model, samples).indptr) > 0)


def test_bounds_leave_open_what_rounding_decides() -> None:
    """Ten terms whose sum is about 1, and a bias of -1: whether the result is zero depends on the order of the sum."""
    values = np.array([[0.1] * 10], np.float32)
    exact = sum(Fraction(float(each)) for each in values[0])
    sums = {float(np.float32(0.1) * 10), float(np.add.accumulate(values[0])[-1])}
    model = Model([Layer(values, np.float32(-1), "relu", None, True)])
    always, sometimes = categories(model, csr_matrix(np.array([[1] * 10, [0] * 10, [2] * 10], np.float32)))
    assert (always.tolist(), sometimes.tolist()) == ([False, False, True], [True, False, True])
    assert len(sums) == 2
    assert all(abs(Fraction(each) - exact) <= 10 * exact / 2**24 for each in sums)


@pytest.mark.parametrize(
    ("weights", "activation", "inputs"), [([[-1, 1]], "relu", [[1, 1]]), ([[1, 1]], "tanh", [[1, 1]]), ([[1, 1]], "relu", [[1, -1]])]
)
def test_bounds_are_refused_where_they_do_not_hold(weights: list[list[int]], activation: str, inputs: list[list[int]]) -> None:
    model = Model([Layer(np.array(weights, np.float32), np.float32(0), activation, None, False)])
    with pytest.raises(InputError, match="expected weights and inputs of at least 0"):
        categories(model, csr_matrix(np.array(inputs, np.float32)))


def jumping() -> Model:
    """A layer that copies three inputs, then a layer with the weights .1, .2 and -.3, the challenge's rule and a positive bias."""
    copied = Layer(np.eye(3, dtype=np.float32), np.float32(0), "relu", None, False)
    summed = Layer(np.array([[0.1, 0.2, -0.3]], np.float32), np.float32(1), "relu", None, True)
    return Model([copied, summed])


def test_other_weights_may_change_their_category_with_the_partition(tmp_path: Path) -> None:
    """Rank 0 adds its own terms first: (.1 + .2) - .3 is zero and gets no bias, .1 + (.2 - .3) is -7e-9 and gets the bias."""
    model, inputs = jumping(), csr_matrix(np.ones((1, 3), np.float32))
    nonzero = []
    for owners in ([0, 0, 1], [0, 1, 1]):
        parts = Partition(2, (np.array(owners, np.int32), np.array(owners, np.int32), np.array([0], np.int32)))
        result = run(model, inputs, workers=2, partition=parts, settings={"root": str(tmp_path / "root")}, home=tmp_path / "home")
        nonzero.append(result.output_nonzero_samples)
    assert nonzero == [0, 1]
    assert cancelling(model, inputs) == [2]


def test_equal_workers_and_partition_give_equal_bits(tmp_path: Path) -> None:
    """A rank adds the contributions in the order of the ranks, whatever the channel, the launch tree and the services do."""
    model, inputs = radixnet(1024, 4, weights="normal"), open_inputs("random:50:0.3:1", 1024)
    faults = "duplicate=.2,reorder=.4,delay=10ms,reject=.1,seed=6"
    ways: list[dict[str, Any]] = [{"channel": "object"}, {"channel": "queue", "faults": faults, "branching": 1}, {"channel": "hybrid"}]
    made = [
        run(model, inputs, workers=3, partition="random", settings={"root": str(tmp_path / str(n))}, home=tmp_path / "home", **way).output
        for n, way in enumerate(ways)
    ]
    assert made[0].nnz > 1000
    assert len({(each.indptr.tobytes(), each.indices.tobytes(), each.data.tobytes()) for each in made}) == 1
    other = run(model, inputs, workers=2, partition="random", settings={"root": str(tmp_path / "2")}, home=tmp_path / "home").output
    assert other.data.tobytes() != made[0].data.tobytes()  # otherwise this test would prove nothing
    np.testing.assert_allclose(other.toarray(), made[0].toarray(), rtol=1e-4, atol=1e-4)


def test_truth_warns_of_such_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    save(jumping(), tmp_path / "model")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3), np.float32))
    Path("truth.tsv").write_text("1\n")
    words = ["run", "model", "x.npz", "--workers", "1"]
    found = {}
    for more in ((), ("--truth", "truth.tsv"), ("--truth", "truth.tsv", "--json")):
        assert main([*words, *more]) in (0, 1)
        found[more] = capfd.readouterr().out
    word = "1 of 2 layers adds terms of both signs"
    assert [word in " ".join(out.split()) for out in found.values()] == [False, True, False]
    Path("none.tsv").write_text("")
    assert main(["run", "radixnet:1024:1", "random:2:0.001", "--workers", "1", "--truth", "none.tsv"]) == 0
    assert "of both signs" not in capfd.readouterr().out
