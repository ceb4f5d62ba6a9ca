"""Measures the peak memory of workers against its prediction, for all ways of splitting, and a 2 GB model in functions of 512 MB.

    python benchmarks/memory.py [--data FOLDER] [--samples 3000] [--large [--layers 480]]

For each way of splitting a model: the rank whose peak is furthest from its prediction, of all ranks, as measured / predicted; and the peak
and the prediction of the rank that needs most memory. Models: the official one of the Graph Challenge with its images (--data; else a
RadiX-Net), the same network with signed-normal weights, where all samples stay live, and a RadiX-Net of 16,384 neurons, where weights take
most of the memory. With --large: a RadiX-Net of 16,384 neurons with 2 GB of weights in functions of 512 MB, as a pipeline of 8 and in one
function, which streams: their answers must be equal bit by bit. That needs 8 GB of memory and disk, and some minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsd_core
from fsd_core import Result
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from graphchallenge import load

MB = 1 << 20
WAYS: dict[str, dict[str, Any]] = {
    "one worker": {"workers": 1},
    "2 replicas": {"data_parallel": 2},
    "4 stages": {"pipeline_parallel": 4},
    "tensor 4, queue": {"tensor_parallel": 4, "channel": "queue"},
    "tensor 4, object": {"tensor_parallel": 4, "channel": "object"},
    "tensor 4, block": {"tensor_parallel": 4, "partition": "block"},
    "2 x 2 x 2": {"data_parallel": 2, "pipeline_parallel": 2, "tensor_parallel": 2},
}


def models(data: Path | None, samples: int) -> Iterator[tuple[str, Model, Any]]:
    """Name, model and input of each workload."""
    if data is not None:
        challenge = load(data)
        yield "official", challenge.model, challenge.images[:samples]
    else:
        yield "radixnet", radixnet(1024, 120), open_inputs(f"random:{samples}:0.2:1", 1024)
    yield "normal", radixnet(1024, 24, weights="normal"), open_inputs(f"random:{samples}:0.2:1", 1024)
    yield "wide", radixnet(16384, 60), open_inputs("random:100:0.2:1", 16384)


def line(name: str, way: str, result: Result) -> str:
    """One row of the table."""
    ratios = [rank["peak_bytes"] / rank["predicted_bytes"] for rank in result.ranks]
    peak, expected = result.memory["peak_bytes_max"], result.memory["predicted_bytes_max"]
    streamed = f", {result.memory['streamed']} stream" if result.memory["streamed"] else ""
    return (
        f"{name:9} {way:17} {result.workers:7} {result.micro_batches:7} {expected / MB:12.0f} {peak / MB:9.0f} {peak / expected:6.2f}"
        f"  {min(ratios):.2f} to {max(ratios):.2f}{streamed}"
    )


def large(layers: int, root: str | None) -> None:
    """The 2 GB model in functions of 512 MB."""
    model = radixnet(16384, layers)
    inputs = open_inputs("random:100:0.2:1", 16384)
    print(f"\n{model.name}: {model.nonzeros} weights, {8 * model.nonzeros / 1e9:.2f} GB in shards, functions of 512 MB")
    answers = {}
    for way, options in {"8 stages": {"pipeline_parallel": 8}, "one worker": {"workers": 1}}.items():
        with tempfile.TemporaryDirectory(dir=root) as folder:
            settings = {"root": folder, "memory_mb": 512}
            answers[way] = result = fsd_core.run(model, inputs, settings=settings, batch_size=50, timeout=3600.0, **options)
            print(f"{line('2 GB', way, result)}; load {result.seconds['load']:.1f} s of {result.seconds['total']:.1f} s", flush=True)
    one, other = (result.output for result in answers.values())
    print("equal bits" if (one != other).nnz == 0 else "the answers differ")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--large", action="store_true", help="only the 2 GB model")
    parser.add_argument("--layers", type=int, default=480, help="of the 2 GB model")
    parser.add_argument("--scratch", default=None, help="folder for objects; default: the system's temporary folder")
    options = parser.parse_args()
    print(f"{'model':9} {'way':17} {'workers':>7} {'batches':>7} {'predicted MB':>12} {'peak MB':>9} {'ratio':>6}  ratios of all ranks")
    if options.large:
        return large(options.layers, options.scratch)
    for name, model, inputs in models(options.data, options.samples):
        for way, split in WAYS.items():
            with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                settings = {"root": folder, "memory_mb": 4096}
                print(line(name, way, fsd_core.run(model, inputs, settings=settings, timeout=3600.0, **split)), flush=True)
    return None


if __name__ == "__main__":
    main()
