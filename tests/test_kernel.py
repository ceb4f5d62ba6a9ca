"""The dense and the gather method give the product that scipy gives; blocks keep the value of every sample."""

import numpy as np
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.kernel import Block, Weights, merge
from fsd_core.model import Csr, radixnet


def csr(matrix: sp.csr_matrix) -> Weights:
    return Weights(matrix.shape, (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data), None)


@given(st.integers(0, 40), st.integers(1, 60), st.integers(0, 300), st.sampled_from([0.0, 0.01, 0.2, 1.0]), st.integers(0, 99))
def test_both_methods_equal_scipy(rows: int, columns: int, samples: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = sp.random(rows, columns, density, "csr", np.float32, rng=rng)
    matrix.data -= np.float32(0.5)
    x = rng.standard_normal((columns, samples)).astype(np.float32)
    expected = matrix.astype(np.float64) @ x.astype(np.float64)
    weights = csr(matrix)
    np.testing.assert_allclose(weights.gather(x), expected, atol=1e-4)
    np.testing.assert_allclose(weights.multiply(x), expected, atol=1e-4)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.integers(1, 90), st.integers(0, 99))
def test_groups_equal_the_gather_method(groups: int, tall: int, wide: int, uneven: int, samples: int, seed: int) -> None:
    """Rows that read the same inputs, in any order, and rows without weights between them."""
    rng = np.random.default_rng(seed)
    reads = [np.sort(rng.choice(40, wide, replace=False)) for _ in range(groups)]
    rows = [columns for columns in reads for _ in range(tall + int(rng.integers(0, 1 + uneven)))]
    rows += [np.zeros(0, np.int64)] * uneven
    order = rng.permutation(len(rows))
    indptr = np.concatenate([[0], np.cumsum([len(rows[each]) for each in order])])
    indices = np.concatenate([rows[each] for each in order]).astype(np.int32)
    weights = Weights((len(rows), 40), (indptr, indices, rng.standard_normal(len(indices)).astype(np.float32)), None)
    x = rng.standard_normal((40, samples)).astype(np.float32)
    np.testing.assert_allclose(weights.multiply(x), weights.gather(x), atol=1e-4)


def test_a_radixnet_is_multiplied_in_groups() -> None:
    layer = radixnet(1024, 3).layers[1]
    assert isinstance(layer.weights, Csr)
    weights = Weights((1024, 1024), (layer.weights.indptr, layer.weights.indices, layer.weights.values), None)
    assert weights._groups is not None
    x = np.random.default_rng(1).random((1024, 1500)).astype(np.float32)
    np.testing.assert_allclose(weights.multiply(x), weights.gather(x), atol=1e-4)


def test_large_pieces_are_cut_and_joined() -> None:
    rng = np.random.default_rng(1)
    matrix = sp.random(3000, 2000, 0.01, "csr", np.float32, rng=rng)
    x = rng.standard_normal((2000, 700)).astype(np.float32)
    np.testing.assert_allclose(csr(matrix).gather(x), matrix @ x, atol=1e-4)


def test_an_infinite_activation_stays_where_its_weight_is() -> None:
    matrix = sp.csr_matrix(np.array([[1, 0], [0, 2]], np.float32))
    x = np.array([[np.inf], [3]], np.float32)
    assert csr(matrix).multiply(x).tolist() == [[np.inf], [6]]


@given(st.integers(0, 6), st.integers(1, 40), st.integers(0, 99))
def test_take_trim_and_merge_keep_every_value(rows: int, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    live = np.flatnonzero(rng.random(samples) < 0.6).astype(np.int32)
    block = Block(rng.integers(0, 2, (rows, 1 + len(live))).astype(np.float32), live, samples)
    assert np.array_equal(block.trimmed().dense(), block.dense())
    some = np.flatnonzero(rng.random(rows) < 0.5).astype(np.int32)
    assert np.array_equal(block.take(some).dense(), block.dense()[some])
    parts = [block.take(some), block]
    union, columns = merge(parts, samples)
    for part, column in zip(parts, columns, strict=True):
        values = part.values if column is None else part.values[:, column]
        assert np.array_equal(Block(values, union, samples).dense(), part.dense())
