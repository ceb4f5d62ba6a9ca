"""Measures how long workers take to load a large model, over P = 1 to 32 workers of a pipeline.

    python benchmarks/loading.py [--layers 480] [--workers 1,2,4,8,16,32] [--rounds 3] [--latency aws] [--memory-mb 512]

The model is a RadiX-Net of 16,384 neurons; 480 layers are 2 GB of shards. Each P has a run that stages the shards, and rounds of a run with
one sample, of which the slowest worker's load and the total are printed: medians, with minimum and maximum. On this machine P workers
share its cores and its disk; with --latency every request takes as long as on a cloud, and a worker reads at the cloud's rate. If a stage
does not fit a function of --memory-mb, the worker does not keep its weights, and reads them for each micro-batch; the table says so.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from statistics import median

import fsd_core
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs


def spread(values: Sequence[float]) -> str:
    """The median with minimum and maximum."""
    return f"{median(values):7.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=480)
    parser.add_argument("--workers", default="1,2,4,8,16,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", help="a table of latencies, for instance aws")
    parser.add_argument("--memory-mb", type=int, default=4096)
    parser.add_argument("--scratch", default=None, help="folder for objects; default: the system's temporary folder")
    options = parser.parse_args()
    model, one = radixnet(16384, options.layers), open_inputs("random:1:0.2:1", 16384)
    print(
        f"{model.name}: {8 * model.nonzeros / 1e9:.2f} GB of shards, functions of {options.memory_mb} MB, {options.latency or 'no latency'}"
    )
    print(f"{'workers':>7} {'MB each':>8}  {'load, slowest worker':26} {'total':26} {'MB/s together':>13}")
    for workers in map(int, options.workers.split(",")):
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            settings = {"root": folder, "memory_mb": options.memory_mb}
            common = {"settings": settings, "pipeline_parallel": workers, "timeout": 3600.0}
            staged = fsd_core.run(model, one, **common)
            runs = [fsd_core.run(model, one, latency=options.latency, **common) for _ in range(options.rounds)]
            load = [run.seconds["load"] for run in runs]
            read = staged.meter["object_bytes_read"] / 1e6
            words = ", streamed" if staged.memory["streamed"] else ""
            total = spread([run.seconds["total"] for run in runs])
            print(f"{workers:7} {read / workers:8.0f}  {spread(load):26} {total:26} {read / median(load):13.0f}{words}", flush=True)


if __name__ == "__main__":
    main()
