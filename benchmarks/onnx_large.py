"""Runs ONNX models that are larger than a function, and measures the peak memory of each worker against its prediction.

    python benchmarks/onnx_large.py [--gb 3] [--memory-mb 1024] [--scratch FOLDER]

Two models with seeded weights in a file beside them: 12 residual blocks of --gb in all, as a pipeline of 4; and one MatMul of 1.3 GB at
--gb 3, which two ranks share by its columns. Functions have --memory-mb, and the local host kills one that takes more. A run that does not
fit has to be refused first, with the megabytes that are missing. ONNX Runtime computes the whole file in a process of its own, and the
answers have to be equal within 1e-4 relative and 1e-5 absolute. Needs 2 x --gb of disk, as much memory, and some minutes; all files are in
a temporary folder, which is removed at the end.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

import fsd_core
from fsd_core.worker.memory import peak_bytes

MB = 1 << 20
BLOCKS, SAMPLES, ROWS = 12, 8, 1024


def stored(folder: Path, name: str, nodes: list[Any], inputs: int, outputs: int, weights: Mapping[str, tuple[int, int]]) -> Path:
    """Write a model; the weights, of these shapes, go to disk in blocks of rows."""
    tensors, rng = [], np.random.default_rng(7)
    with (folder / f"{name}.data").open("wb") as file:
        for each, (rows, columns) in weights.items():
            tensor = TensorProto(name=each, dims=(rows, columns), data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
            for key, value in (("location", file.name.rpartition("/")[2]), ("offset", file.tell()), ("length", 4 * rows * columns)):
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            for start in range(0, rows, ROWS):
                block = rng.random((min(ROWS, rows - start), columns), np.float32)
                file.write(((block - 0.5) * (12 / rows) ** 0.5).astype(np.float32).tobytes())
    values = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["N", size]) for each, size in (("x", inputs), ("y", outputs))]
    graph = helper.make_graph(nodes, name, values[:1], values[1:], tensors)
    path = folder / f"{name}.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


def blocks(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """A model of residual blocks, and the size of its input."""
    size = math.isqrt(int(gigabytes * 1e9 / BLOCKS / 4))
    nodes = []
    for k in range(BLOCKS):
        before, after = (f"h{k}" if k else "x"), ("y" if k == BLOCKS - 1 else f"h{k + 1}")
        nodes += [
            helper.make_node("MatMul", [before, f"w{k}"], [f"m{k}"], f"matmul{k}"),
            helper.make_node("Tanh", [f"m{k}"], [f"t{k}"], f"tanh{k}"),
            helper.make_node("Add", [f"t{k}", before], [after], f"add{k}"),
        ]
    return stored(folder, "blocks", nodes, size, size, {f"w{k}": (size, size) for k in range(BLOCKS)}), size


def wide(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """A model of one large MatMul, and the size of its input."""
    size = 16 * math.isqrt(int(0.45 * gigabytes * 1e9 / 4 / 5 / 256))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"), helper.make_node("Tanh", ["m"], ["y"], "tanh")]
    return stored(folder, "wide", nodes, size, 5 * size, {"w": (size, 5 * size)}), size


def whole(path: Path, inputs: Path, output: Path) -> None:
    """Compute the whole file with ONNX Runtime, in this process."""
    session = onnxruntime.InferenceSession(str(path), None, ["CPUExecutionProvider"])
    np.save(output, session.run(["y"], {"x": np.load(inputs)})[0])
    print(f"ONNX Runtime on the whole file: peak {peak_bytes() / MB:.0f} MB")


def check(path: Path, size: int, too_few: dict[str, int], enough: dict[str, int], memory_mb: int, folder: Path) -> bool:
    """Run a model where it does not fit, then where it does. Print the memory of each rank; return whether all is right."""
    x: NDArray[Any] = np.random.default_rng(8).random((SAMPLES, size), np.float32)
    weights = path.with_suffix(".data").stat().st_size
    print(f"\n{path.stem}: {weights / 1e9:.2f} GB of weights, functions of {memory_mb} MB")
    options: dict[str, Any] = {"engine": "onnx", "home": folder / "home", "timeout": 3600.0}
    options["settings"] = {"root": str(folder / "root"), "memory_mb": memory_mb}
    try:
        fsd_core.run(path, {"x": x}, **options, **too_few)
        refused = False
        print(f"{too_few}: runs, and has to be refused")
    except fsd_core.InputError as error:
        refused = True
        print(f"{too_few}: refused: {error}")
    result = fsd_core.run(path, {"x": x}, **options, **enough)
    print(f"{enough}: {result.seconds['total']:.0f} s, of which staging {result.seconds['stage']:.0f} s")
    print(f"{'rank':>4} {'predicted MB':>13} {'peak MB':>9} {'ratio':>6}")
    ratios = [each["peak_bytes"] / each["predicted_bytes"] for each in result.ranks]
    for each, ratio in zip(result.ranks, ratios, strict=True):
        print(f"{each['rank']:4} {each['predicted_bytes'] / MB:13.0f} {each['peak_bytes'] / MB:9.0f} {ratio:6.2f}")
    np.save(folder / "x.npy", x)
    subprocess.run([sys.executable, __file__, "--whole", path, folder / "x.npy", folder / "y.npy"], check=True)
    compared = result.check_values({"y": np.load(folder / "y.npy")}) if isinstance(result, fsd_core.TensorResult) else {"differing": 1}
    print(f"{compared['values']} values, {compared['differing']} differ, the largest difference is {compared['largest']:.1e}")
    return refused and not compared["differing"] and all(0.8 <= ratio <= 1.2 for ratio in ratios)


def main() -> None:
    """Print the tables. The exit code is 1 if an answer differs, or if memory is more than 20 % away from its prediction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3.0, help="of weights of the first model")
    parser.add_argument("--memory-mb", type=int, default=1024, help="of a function")
    parser.add_argument("--scratch", default=None, help="folder for models and objects; default: the system's temporary folder")
    parser.add_argument("--whole", nargs=3, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.whole:
        return whole(*options.whole)
    good = []
    for make, too_few, enough in (
        (blocks, {"pipeline_parallel": 2}, {"pipeline_parallel": 4}),
        (wide, {"pipeline_parallel": 2}, {"tensor_parallel": 2}),
    ):
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            path, size = make(Path(folder), options.gb)
            good.append(check(path, size, too_few, enough, options.memory_mb, Path(folder)))
    print(f"\n{'all' if all(good) else 'not all'} as expected")
    return sys.exit(not all(good))


if __name__ == "__main__":
    main()
