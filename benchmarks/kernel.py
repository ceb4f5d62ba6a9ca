"""The kernels on one thread: CPU seconds of a whole network, bias, activation and dead samples included.

    python benchmarks/kernel.py [--data FOLDER] [--rounds 5] [--small]

The candidates are loops over scipy's CSR x CSR and CSR x dense, SuiteSparse:GraphBLAS (where python-graphblas is installed), this project's
numpy path, and its compiled kernel with each instruction set of the machine. They take turns (A, B, A, B); a ratio is that of the medians
to the fastest set. Networks: RadiX-Nets of 1024, 4096 and 16384 neurons with the challenge's weights, where most samples die, and with
signed normal weights, where none does. Inputs: the official images, magnified for the larger networks; without ``--data``, blobs of ones.
With ``--data``, the first network is the official one with all its layers and images.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fsd_core import kernel
from fsd_core.kernel import Block, Finish, compiled
from fsd_core.model import Csr, Layer, Model, radixnet
from fsd_core.model.activation import activate
from graphchallenge import load

Floats = NDArray[np.float32]
Candidate = Callable[[], Floats]
CASES = [(1024, 120, 10000, "official"), (1024, 24, 4000, "normal"), (4096, 24, 1000, "official"), (4096, 12, 1000, "normal"),
         (16384, 12, 500, "official"), (16384, 6, 250, "normal")]  # fmt: skip


def images(neurons: int, samples: int, official: sp.csr_matrix | None) -> Floats:
    """The inputs, float32 (neurons, samples)."""
    side = int(neurons**0.5)
    if official is not None:
        small = official[:samples].toarray().reshape(-1, 32, 32)
        return np.ascontiguousarray(np.kron(small, np.ones((side // 32, side // 32), np.float32)).reshape(samples, -1).T)
    rng, axis = np.random.default_rng(0), np.arange(side) / side
    middle, size = rng.random((2, samples)), rng.uniform(0.15, 0.45, (2, samples))
    near = [np.abs(axis[:, None] - middle[k]) < size[k] / 2 for k in range(2)]
    return np.ascontiguousarray((near[0][:, None] & near[1][None]).reshape(neurons, samples).astype(np.float32))


def csr(layer: Layer) -> sp.csr_matrix:
    assert isinstance(layer.weights, Csr)
    return layer.weights.scipy()


def sparse_loop(model: Model, x: Floats) -> Candidate:
    """The activations stay sparse. Under the plain rule zeros get the bias too, so every layer first makes a dense array."""
    weights = [csr(layer) for layer in model.layers]
    start = sp.csr_matrix(x)

    def run() -> Floats:
        y = start
        for layer, matrix in zip(model.layers, weights, strict=True):
            y = matrix @ y
            if layer.challenge:
                y.data = activate(y.data[None], layer.bias[:1], layer.activation, layer.clip, True)[0]
                y.eliminate_zeros()
            else:
                y = sp.csr_matrix(activate(y.toarray(), layer.bias, layer.activation, layer.clip, False))
        return y.toarray()  # type: ignore[no-any-return]

    return run


def dense_loop(model: Model, x: Floats) -> Candidate:
    weights = [csr(layer) for layer in model.layers]

    def run() -> Floats:
        y = x
        for layer, matrix in zip(model.layers, weights, strict=True):
            y = activate(matrix @ y, layer.bias, layer.activation, layer.clip, layer.challenge)
        return y

    return run


def graphblas_loop(model: Model, x: Floats) -> Candidate | None:
    """With samples as rows, which SuiteSparse computes faster. Its matrices become dense by themselves."""
    try:
        import graphblas as gb
    except ImportError:
        return None
    gb.ss.config["nthreads"] = 1
    weights = [gb.io.from_scipy_sparse(csr(layer).T.tocsr()) for layer in model.layers]
    start = gb.io.from_scipy_sparse(sp.csr_matrix(x.T))
    biases = [gb.Vector.from_dense(layer.bias).diag() for layer in model.layers]

    def run() -> Floats:
        y = start
        for layer, matrix, bias in zip(model.layers, weights, biases, strict=True):
            y = y.mxm(matrix, gb.semiring.plus_times).new(dtype="FP32")
            if layer.challenge:
                y = y.mxm(bias, gb.semiring.min_plus).new(dtype="FP32")
            else:
                y(~y.S) << 0.0
                y = y.mxm(bias, gb.semiring.min_plus).new(dtype="FP32")
            y = y.select(">", 0.0).new()
            if layer.clip is not None:
                y = y.apply(gb.binary.min, right=layer.clip).new(dtype="FP32")
        y.wait()
        return gb.io.to_scipy_sparse(y, format="csr").toarray().T  # type: ignore[no-any-return]

    return run


def ours(name: str, model: Model, x: Floats) -> Candidate:
    with compiled.using(name, 1):
        made = []
        for layer in model.layers:
            assert isinstance(layer.weights, Csr)
            arrays = (layer.weights.indptr, layer.weights.indices, layer.weights.values)
            finish = Finish(layer.bias, layer.activation, layer.clip, layer.challenge)
            made.append(kernel.weights(layer.weights.shape, arrays, None, None, finish))
    values = np.hstack([np.zeros((len(x), 1), np.float32), x])
    live = np.arange(x.shape[1], dtype=np.int32)

    def run() -> Floats:
        with compiled.using(name, 1):
            return kernel.forward(made, Block(values, live, x.shape[1])).dense()

    return run


def compare(name: str, model: Model, x: Floats, rounds: int) -> None:
    sets = [each for each in compiled.instruction_sets() if each != "plain"]
    candidates = {"scipy CSR x CSR": sparse_loop(model, x), "scipy CSR x dense": dense_loop(model, x), "numpy": ours("numpy", model, x)}
    candidates |= {each: ours(each, model, x) for each in sets}
    if (graphblas := graphblas_loop(model, x)) is not None:
        candidates["GraphBLAS"] = graphblas
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, Floats] = {}
    for _ in range(rounds):
        for each, run in candidates.items():
            began = time.process_time()
            found[each] = run()
            seconds[each].append(time.process_time() - began)
    expected = found["scipy CSR x dense"]
    for each, output in found.items():
        assert np.array_equal(output.any(axis=0), expected.any(axis=0)), f"{each}: other samples have an output"
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max(initial=1)), err_msg=each)
    best = median(seconds[sets[0] if sets else "numpy"])
    products = sum(layer.nonzeros for layer in model.layers) * x.shape[1]
    print(
        f"{name}: {len(model.layers)} layers, {x.shape[1]} samples, {products:.1e} products, {expected.any(axis=0).sum()} alive at the end"
    )
    for each, times in seconds.items():
        middle = median(times)
        print(f"  {each:18} {middle:8.3f} s  ({min(times):.3f} to {max(times):.3f})  {middle / best:6.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="only the networks of 1024 neurons")
    options = parser.parse_args()
    challenge = load(options.data) if options.data else None
    for neurons, layers, samples, weights in CASES:
        if options.small and neurons > 1024:
            continue
        x = images(neurons, samples, challenge.images if challenge else None)
        official = challenge is not None and (neurons, weights) == (1024, "official")
        model = challenge.model if challenge is not None and official else radixnet(neurons, layers, weights=weights)
        compare(f"{neurons} neurons, {'official' if official else weights + ' weights'}", model, x, options.rounds)


if __name__ == "__main__":
    main()
