"""Every kernel gives the product that scipy gives, within a bound; compiled kernels agree bit for bit; blocks keep every sample's value."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fsd_core import kernel
from fsd_core.errors import InputError
from fsd_core.kernel import Block, Finish, Fused, Weights, compiled, stacked, union
from fsd_core.model import Csr, radixnet
from fsd_core.model.activation import activate

KERNELS = ["numpy", *compiled.instruction_sets()]
SPECIAL = np.array([0.0, -0.0, 1.0, 32.0, np.inf, -np.inf, np.nan, 1e-45, 1e30], np.float32)
UNIT = 2.0**-24


@pytest.fixture(params=KERNELS, name="each")
def each_kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    with compiled.using(request.param):
        yield request.param


def parts(matrix: sp.csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32)


def csr(matrix: sp.csr_matrix) -> Weights:
    return Weights(matrix.shape, parts(matrix), None)


def whole(x: NDArray[np.float32]) -> Block:
    """The block with a base of zeros and the columns of ``x`` as live samples."""
    return Block(np.hstack([np.zeros((len(x), 1), np.float32), x]), np.arange(x.shape[1], dtype=np.int32), x.shape[1])


@st.composite
def layers(draw: st.DrawFn) -> tuple[sp.csr_matrix, Finish]:
    """Rows that read equal inputs, in any order, rows without weights, and rows of their own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(0, 40)), draw(st.integers(1, 60))
    patterns = [rng.permutation(columns)[: rng.integers(0, columns + 1)] for _ in range(draw(st.integers(1, 8)))]
    reads = [patterns[rng.integers(len(patterns))] for _ in range(rows)]
    indptr = np.concatenate([[0], np.cumsum([len(each) for each in reads])])
    indices = np.concatenate([*reads, np.zeros(0)]).astype(np.int32)
    values = rng.standard_normal(len(indices)).astype(np.float32)
    activation = draw(st.sampled_from(["identity", "relu", "sigmoid", "tanh", "softmax"]))
    clip = draw(st.sampled_from([None, 0.75])) if activation == "relu" else None
    finish = Finish(rng.standard_normal(rows).astype(np.float32), activation, clip, draw(st.booleans()))
    return sp.csr_matrix((values, indices, indptr), (rows, columns)), finish


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60)
@given(layers(), st.sampled_from([0, 1, 30, 31, 32, 100]), st.integers(0, 99))
def test_every_kernel_equals_the_definition(name: str, layer: tuple[sp.csr_matrix, Finish], samples: int, seed: int) -> None:
    matrix, finish = layer
    x = np.random.default_rng(seed).standard_normal((matrix.shape[1], samples)).astype(np.float32)
    x[np.random.default_rng(seed).random(x.shape) < 0.3] = 0
    with compiled.using(name):
        got = kernel.weights(matrix.shape, parts(matrix), None, None, finish).forward(whole(x)).dense()
    z = (matrix.astype(np.float64) @ x.astype(np.float64)).astype(np.float32)
    if finish.challenge and len(z) and not (matrix.indptr[1:] > matrix.indptr[:-1]).all():
        z[matrix.indptr[1:] == matrix.indptr[:-1]] = 0
    # A float32 sum of n products differs from the exact one by at most n roundings of the sum of their absolute values.
    terms = np.diff(matrix.indptr)[:, None]
    bound = (terms + 3) * UNIT * (abs(matrix).astype(np.float64) @ np.abs(x) + np.abs(finish.bias)[:, None] + 1)
    expected = activate(z.copy(), finish.bias, finish.activation, finish.clip, finish.challenge)
    assert (np.abs(got - expected) <= bound + 4 * UNIT).all()


@pytest.mark.parametrize("name", KERNELS)
@given(layers(), st.integers(0, 70), st.integers(0, 99))
def test_special_values_are_where_numpy_has_them(name: str, layer: tuple[sp.csr_matrix, Finish], samples: int, seed: int) -> None:
    matrix, finish = layer
    rng = np.random.default_rng(seed)
    x = rng.choice(SPECIAL, (matrix.shape[1], samples), p=[0.4, 0.1, 0.2, 0.2, 0.02, 0.02, 0.02, 0.02, 0.02])
    with compiled.using(name), np.errstate(all="ignore"):
        got = kernel.weights(matrix.shape, parts(matrix), None, None, finish).forward(whole(x)).dense()
        z = csr(matrix).gather(x)
        expected = activate(z, finish.bias, finish.activation, finish.clip, finish.challenge)
    assert np.array_equal(np.isnan(got), np.isnan(expected))
    assert np.array_equal(np.isinf(got), np.isinf(expected))


@pytest.mark.skipif(not compiled.instruction_sets(), reason="the compiled kernel is not built")
@settings(max_examples=60)
@given(layers(), st.integers(1, 200), st.integers(1, 3), st.integers(0, 99))
def test_compiled_kernels_agree_bit_for_bit(layer: tuple[sp.csr_matrix, Finish], samples: int, threads: int, seed: int) -> None:
    """Whatever the instruction set, the threads and the batch that a sample is in."""
    matrix, finish = layer
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((matrix.shape[1], samples)) * 10.0 ** rng.integers(-40, 15, (matrix.shape[1], samples))).astype(np.float32)
    cut = int(rng.integers(0, samples + 1))
    found = []
    for name in compiled.instruction_sets():
        with compiled.using(name, threads):
            weights = Fused(matrix.shape, parts(matrix), None, None, finish)
            found.append(weights.forward(whole(x)).dense())
            found.append(np.hstack([weights.forward(whole(part)).dense() for part in (x[:, :cut], x[:, cut:])]))
    assert all(each.tobytes() == found[0].tobytes() for each in found)


@given(st.integers(0, 40), st.integers(1, 60), st.integers(0, 300), st.sampled_from([0.0, 0.01, 0.2, 1.0]), st.integers(0, 99))
def test_both_methods_of_numpy_equal_scipy(rows: int, columns: int, samples: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = sp.random(rows, columns, density, "csr", np.float32, rng=rng)
    matrix.data -= np.float32(0.5)
    x = rng.standard_normal((columns, samples)).astype(np.float32)
    expected = matrix.astype(np.float64) @ x.astype(np.float64)
    np.testing.assert_allclose(csr(matrix).gather(x), expected, atol=1e-4)
    np.testing.assert_allclose(csr(matrix).multiply(x), expected, atol=1e-4)


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


def test_an_infinite_activation_stays_where_its_weight_is(each: str) -> None:
    matrix = sp.csr_matrix(np.array([[1, 0], [0, 2]], np.float32))
    x = np.array([[np.inf], [3]], np.float32)
    assert kernel.weights(matrix.shape, parts(matrix), None).forward(whole(x)).dense().tolist() == [[np.inf], [6]]


def test_layers_one_by_one_and_together_give_equal_bits(each: str) -> None:
    """Also for samples that die on the way, and for a layer of another activation and a dense one between the others."""
    rng = np.random.default_rng(3)
    made = []
    for number, layer in enumerate(radixnet(1024, 12).layers):
        assert isinstance(layer.weights, Csr)
        activation = "tanh" if number == 8 else "relu"
        finish = Finish(layer.bias, activation, layer.clip if activation == "relu" else None, layer.challenge)
        arrays = (layer.weights.indptr, layer.weights.indices, layer.weights.values)
        made.append(kernel.weights((1024, 1024), arrays, None, None, finish))
    dense = rng.standard_normal((1024, 1024)).astype(np.float32)
    made.insert(10, kernel.weights((1024, 1024), None, dense, None, Finish(np.ones(1024, np.float32), "identity", None, False)))
    block = whole((rng.random((1024, 900)) < rng.random(900) * 0.5).astype(np.float32))
    together = kernel.forward(made, block)
    for layer in made:
        block = layer.forward(block)
    assert 0 < len(together.live) < 900
    assert np.array_equal(together.live, block.live)
    if each == "numpy":
        np.testing.assert_allclose(together.dense(), block.dense(), rtol=1e-4, atol=1e-4)
    else:
        assert together.dense().tobytes() == block.dense().tobytes()


@pytest.mark.skipif(not compiled.instruction_sets(), reason="the compiled kernel is not built")
def test_a_wide_block_of_several_pieces_equals_its_parts_bit_for_bit() -> None:
    """Of 1,024 rows, a piece has 248 lanes. Some samples are not live, some have NaN or infinity; parts have 1 to 472 samples."""
    rng = np.random.default_rng(5)
    x = (rng.random((1024, 800)) < rng.random(800) * 0.6).astype(np.float32) * rng.random((1024, 800), np.float32)
    x[rng.integers(0, 1024, 12), rng.integers(0, 800, 12)] = np.repeat(np.array([np.nan, np.inf, -np.inf], np.float32), 4)
    live = np.flatnonzero(rng.random(1000) < 0.8)[:800].astype(np.int32)
    x = x[:, : len(live)]
    model = radixnet(1024, 3, weights="normal")
    found = []
    for name in compiled.instruction_sets():
        for threads, edges in ((1, (0, 1000)), (2, (0, 1000)), (1, (0, 1, 32, 279, 528, 1000)), (2, (0, 310, 1000))):
            with compiled.using(name, threads):
                made = []
                for layer in model.layers:
                    assert isinstance(layer.weights, Csr)
                    finish = Finish(layer.bias, layer.activation, layer.clip, layer.challenge)
                    arrays = (layer.weights.indptr, layer.weights.indices, layer.weights.values)
                    made.append(kernel.weights((1024, 1024), arrays, None, None, finish))
                outs = []
                for first, last in pairwise(edges):
                    some = (live >= first) & (live < last)
                    values = np.hstack([np.zeros((1024, 1), np.float32), x[:, some]])
                    outs.append(kernel.forward(made, Block(values, live[some] - np.int32(first), last - first)).dense())
                found.append(np.hstack(outs))
    assert np.isnan(found[0]).any()
    for other in found[1:]:
        same = (other.view(np.uint32) == found[0].view(np.uint32)) | (np.isnan(other) & np.isnan(found[0]))
        assert same.all()
    with compiled.using("numpy"):
        expected = np.zeros((1024, 1000), np.float32)
        expected[:, live] = x
        for layer in model.layers:
            assert isinstance(layer.weights, Csr)
            with np.errstate(invalid="ignore"):
                expected = activate(layer.weights.scipy() @ expected, layer.bias, layer.activation, layer.clip, layer.challenge)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_own_rows_and_a_start(each: str) -> None:
    """The local part reads some of the rows that a rank holds; the remote part goes on with its sums."""
    rng = np.random.default_rng(2)
    held, away = whole(rng.standard_normal((9, 80)).astype(np.float32)), whole(rng.standard_normal((5, 80)).astype(np.float32))
    own = np.array([1, 2, 4, 8], np.int32)
    matrix = sp.random(7, 9, 0.5, "csr", np.float32, rng=rng)
    finish = Finish(np.full(7, -0.1, np.float32), "relu", 1.5, True)
    local = kernel.weights((7, 4), parts(matrix[:, :4]), None, own)
    remote = kernel.weights((7, 5), parts(matrix[:, 4:]), None, None, finish)
    z = local.forward(held)
    live = union([z, away], 80)
    got = remote.forward(stacked([away], live), z.over(live)).dense()
    expected = matrix @ np.vstack([held.dense()[own], away.dense()])
    np.testing.assert_allclose(got, activate(expected, finish.bias, "relu", 1.5, True), atol=1e-5)


@pytest.mark.skipif(not compiled.instruction_sets(), reason="the compiled kernel is not built")
@pytest.mark.parametrize(
    ("indptr", "indices", "word"),
    [([0, 1, 2], [0, 3], "index 3: expected"), ([0, 1, 2], [-1, 0], "index -1: expected"), ([0, 2, 1], [0, 1], "indptr"),
     ([0, 3, 2], [0, 1], "indptr"), ([0, 1], [0, 1], "size"), ([1, 1, 2], [0, 1], "indptr")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(indptr: list[int], indices: list[int], word: str) -> None:
    arrays = np.array(indptr, np.int64), np.array(indices, np.int32), np.ones(len(indices), np.float32)
    with pytest.raises(InputError, match=word):
        Fused((2, 3), arrays, None)


def test_a_kernel_that_the_machine_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"kernel 'mmx': expected one that this machine has: auto, .*numpy"), compiled.using("mmx"):
        pass


@pytest.mark.parametrize("name", KERNELS)
@given(st.integers(0, 6), st.integers(1, 140), st.integers(0, 99))
@example(3, 31, 0)
def test_blocks_keep_every_value(name: str, rows: int, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    live = np.flatnonzero(rng.random(samples) < 0.6).astype(np.int32)
    block = Block(rng.integers(0, 2, (rows, 1 + len(live))).astype(np.float32), live, samples)
    dense = block.dense()
    some = np.flatnonzero(rng.random(rows) < 0.5).astype(np.int32)
    with compiled.using(name):
        tiled = block.packed(compiled.WIDTH)
        for form in (block, tiled):
            assert np.array_equal(form.dense(), dense)
            trimmed = form.trimmed()
            assert np.array_equal(trimmed.dense(), dense)
            assert set(trimmed.live) == {number for number in live if (dense[:, number] != block.values[:, 0]).any()}
            assert np.array_equal(form.take(some).dense(), dense[some])
            assert np.array_equal(trimmed.packed(compiled.WIDTH).dense(), dense)
        pair = [tiled.take(some), tiled.trimmed(), block]
        every = union(pair, samples)
        assert np.array_equal(every, np.flatnonzero(np.isin(np.arange(samples), live)))
        assert np.array_equal(stacked(pair, every).dense(), np.vstack([dense[some], dense, dense]))
        for part in pair:
            assert np.array_equal(part.over(every).dense(), part.dense())


def test_without_the_extension_numpy_computes_and_says_why_once() -> None:
    code = (
        "import logging, sys; logging.basicConfig(format='%(message)s'); sys.modules['fsd_core.kernel._kernel'] = None\n"
        "from fsd_core.kernel import compiled; from fsd_core.machine.doctor import _kernel\n"
        "print(compiled.active(), compiled.active(), *_kernel())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FSD_KERNEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("None None None install a C compiler")
    assert done.stderr.count("numpy computes") == 1
