"""Checks that distributed runs give the official answer of the Graph Challenge, for each channel, partition and split of the work.

    python benchmarks/truth.py --data FOLDER [--only TEXT] [--faults SPEC] [--provider aws --emulator NAME]

It prints a line for each case, and exits with code 1 if the categories of a case differ from the truth.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import fsd_core
from emulated import where
from fsd_core.errors import FsdError
from fsd_core.model.rounding import categories
from graphchallenge import Challenge, load

FAULTS = "duplicate=.1,reorder=.2,delay=5ms,reject=.02,throttle=.02,lost_reply=.002,late=.1,seed=1"


def cases(challenge: Challenge, faults: str) -> list[tuple[str, dict[str, object]]]:
    """The name and the arguments of `fsd_core.run` of each case."""
    partitions: dict[str, object] = {"hypergraph": "hypergraph", "random": "random"}
    if challenge.published:
        partitions["published"] = str(challenge.published)
    found: list[tuple[str, dict[str, object]]] = [
        (f"P=8 {channel} {name}", {"tensor_parallel": 8, "channel": channel, "partition": wanted})
        for channel in ("queue", "object", "hybrid")
        for name, wanted in partitions.items()
    ]
    found += [(f"P={workers} queue hypergraph", {"tensor_parallel": workers, "channel": "queue"}) for workers in (1, 3, 20)]
    found += [
        (f"P=8 {channel} hypergraph, faults", {"tensor_parallel": 8, "channel": channel, "faults": faults})
        for channel in ("queue", "object", "hybrid")
    ]
    for data, pipeline, tensor in ((1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4)):
        split = {"data_parallel": data, "pipeline_parallel": pipeline, "tensor_parallel": tensor}
        for channel in ("queue", "object", "hybrid"):
            name = f"{data}x{pipeline}x{tensor} {channel}"
            found.append((name, {"channel": channel, **split}))
            found += [(f"{name}, micro-batches of {size}", {"channel": channel, "batch_size": size, **split}) for size in (1250, 625)]
            found.append((f"{name}, faults", {"channel": channel, "batch_size": 1250, "faults": faults, **split}))
    return found


def check(challenge: Challenge, name: str, arguments: dict[str, object]) -> bool:
    """Run one case and print its line; True if its categories are the truth."""
    began = time.monotonic()
    try:
        result = fsd_core.run(challenge.model, challenge.images, **arguments)  # type: ignore[arg-type]
    except FsdError as error:
        print(f"{name:36} FAILED   {error}", flush=True)
        return False
    found = set(np.flatnonzero(np.diff(result.output.indptr)).tolist())
    right, extra = found == challenge.truth, len(found - challenge.truth)
    meter = result.meter_layers
    print(
        f"{name:36} {'exact' if right else 'WRONG':6} {len(found & challenge.truth)}/{len(challenge.truth)}, {extra} extra"
        f"  {time.monotonic() - began:6.1f} s  {meter['payload_bytes_sent'] / 1e6:6.2f} MB payload"
        f"  publish {meter['publish_requests']} receive {meter['receive_requests']} ack {meter['ack_requests']}"
        f"  put {meter['object_puts']} get {meter['object_gets']} list {meter['object_lists']}",
        flush=True,
    )
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="run on an emulator of the provider: its name; without a name: the default")
    parser.add_argument("--only", default="", help="run only the cases whose name contains this text")
    parser.add_argument("--faults", default=FAULTS, help="the faults to inject in the cases with faults")
    options = parser.parse_args()
    challenge = load(options.data)
    always, sometimes = categories(challenge.model, challenge.images)
    right = set(np.flatnonzero(always).tolist()) <= challenge.truth <= set(np.flatnonzero(sometimes).tolist())
    undecided = np.count_nonzero(always != sometimes)
    print(f"{'any order of summation':36} {'exact' if right else 'WRONG':6} {undecided} samples that rounding decides")
    with where(options.provider, options.emulator) as (place, fresh):
        for name, arguments in cases(challenge, options.faults):
            if options.only in name:
                fresh()
                right &= check(challenge, name, arguments | place)
        if options.only in "two at once on one app":
            fresh()
            with ThreadPoolExecutor(2) as pool:
                both = [
                    pool.submit(check, challenge, f"two at once on one app: {channel}", {"channel": channel, **place})
                    for channel in ("queue", "hybrid")
                ]
                right &= all(case.result() for case in both)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
