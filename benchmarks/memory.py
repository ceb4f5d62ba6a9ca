"""Measures the peak memory of workers against its prediction, for all ways of splitting, and a 2 GB model in functions of 512 MB.

    python benchmarks/memory.py [--data FOLDER] [--samples 3000] [--only "official,tensor 4"] [--times 3] [--large [--layers 480]]

For each way of splitting a model: the peak and the prediction of the rank that needs most memory, and the smallest and the largest of
measured / predicted of all ranks. Ends with exit code 1 if the rank that needs most is more than 15 % away from its prediction, or if any
rank takes more than 15 % more than was predicted. --only: the rows whose model and way contain all of these words.

Models: the official one of the Graph Challenge with its images (--data; else a RadiX-Net), the same network with signed-normal weights,
where all samples stay live, and a RadiX-Net of 16,384 neurons, where weights take most of the memory. With --large: a RadiX-Net of 16,384
neurons with 2 GB of weights in functions of 512 MB, as a pipeline of 8 and in one function, which streams: the exit code is 1 if a bit of
their answers differs. That needs 8 GB of memory and disk, and some minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsd_core
from fsd_core import Result
from fsd_core.client import expected
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from graphchallenge import load

MB = 1 << 20
WITHIN = 0.15  # so far a peak may be from its prediction
WAYS: dict[str, dict[str, Any]] = {
    "one worker": {"workers": 1},
    "2 replicas": {"data_parallel": 2},
    "4 stages": {"pipeline_parallel": 4},
    "tensor 4, queue": {"tensor_parallel": 4, "channel": "queue"},
    "tensor 4, object": {"tensor_parallel": 4, "channel": "object"},
    "tensor 4, block": {"tensor_parallel": 4, "partition": "block"},
    "2 x 2 x 2": {"data_parallel": 2, "pipeline_parallel": 2, "tensor_parallel": 2},
}


def models(data: Path | None, samples: int) -> dict[str, Callable[[], tuple[Model, Any]]]:
    """By its name, what makes the model and the input of each workload."""

    def official() -> tuple[Model, Any]:
        assert data is not None
        challenge = load(data)
        return challenge.model, challenge.images[:samples]

    def like_official() -> tuple[Model, Any]:
        return radixnet(1024, 120), open_inputs(f"random:{samples}:0.2:1", 1024)

    first = {"radixnet": like_official} if data is None else {"official": official}
    return first | {
        "normal": lambda: (radixnet(1024, 24, weights="normal"), open_inputs(f"random:{samples}:0.2:1", 1024)),
        "wide": lambda: (radixnet(16384, 60), open_inputs("random:100:0.2:1", 16384)),
    }


def ratios(result: Result) -> list[float]:
    """Measured / predicted of the rank that needs most, then of each rank."""
    most = result.memory["peak_bytes_max"] / result.memory["predicted_bytes_max"]
    return [most, *(rank["peak_bytes"] / rank["predicted_bytes"] for rank in result.ranks)]


def line(name: str, way: str, result: Result) -> str:
    """One row of the table."""
    most, *each = ratios(result)
    peak, predicted = result.memory["peak_bytes_max"], result.memory["predicted_bytes_max"]
    streamed = f", {result.memory['streamed']} stream" if result.memory["streamed"] else ""
    return (
        f"{name:9} {way:17} {result.workers:7} {result.micro_batches:7} {predicted / MB:12.0f} {peak / MB:9.0f} {most:6.2f}"
        f"  {min(each):.2f} to {max(each):.2f}{streamed}"
    )


def large(layers: int, root: str | None) -> int:
    """The 2 GB model in functions of 512 MB. Returns the exit code."""
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
    differ = (one != other).nnz > 0
    print("the answers differ" if differ else "equal bits")
    return int(differ)


def main() -> int:
    """Print the tables. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--only", default="", metavar="WORDS", help='rows that have these, as in "official,tensor 4"')
    parser.add_argument("--times", type=int, default=1, help="so often each row is run")
    parser.add_argument("--large", action="store_true", help="only the 2 GB model")
    parser.add_argument("--layers", type=int, default=480, help="of the 2 GB model")
    parser.add_argument("--scratch", default=None, help="folder for objects; default: the system's temporary folder")
    options = parser.parse_args()
    expected.FORECAST_S = 60.0  # on a busy machine too, the prediction of a run knows which samples stay live and what ranks keep
    print(f"{'model':9} {'way':17} {'workers':>7} {'batches':>7} {'predicted MB':>12} {'peak MB':>9} {'ratio':>6}  ratios of all ranks")
    if options.large:
        return large(options.layers, options.scratch)
    words, wrong = [word.strip() for word in options.only.split(",")], []
    for name, make in models(options.data, options.samples).items():
        rows = {way: split for way, split in WAYS.items() if all(word in f"{name} {way}" for word in words)}
        if not rows:
            continue
        model, inputs = make()
        for way, split in rows.items():
            for _ in range(options.times):
                with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                    settings = {"root": folder, "memory_mb": 4096}
                    result = fsd_core.run(model, inputs, settings=settings, timeout=3600.0, **split)
                print(line(name, way, result), flush=True)
                most, *each = ratios(result)
                if abs(most - 1) > WITHIN or max(each) > 1 + WITHIN:
                    wrong.append(f"{name} {way}")
    print(f"more than {WITHIN:.0%} off: {', '.join(wrong)}" if wrong else f"all within {WITHIN:.0%}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
