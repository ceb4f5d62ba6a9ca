"""Measures whole runs, with the channels in turns: seconds by phase, bytes and requests, beside the published figures of FSD-Inference.

    python benchmarks/end_to_end.py [--data FOLDER] [--workers 8] [--rounds 3] [--model radixnet:1024:120] [--input digits]
                                    [--provider aws --emulator NAME]

With --data it takes the official N = 1024 model of the Graph Challenge and its first 10,000 images, as in the published runs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import fsd_core
from emulated import where
from fsd_core.model import open_model
from fsd_core.model.inputs import open_inputs
from graphchallenge import load

# FSD-Inference (Oakley and Ferhatosmanoglu, ICDE 2024), 1,024 neurons, 120 layers, 8 workers, 10,000 samples, on AWS.
PUBLISHED = {
    "queue": {"message_bytes_sent": 104_131_260, "messages_sent": 6_774, "publish_units": 2_204, "receive_requests": 4_318},
    "object": {"object_bytes_written": 240_694_300, "object_puts": 6_452, "object_gets": 6_450, "object_lists": 1_615},
}
PHASES = ("total", "launch", "load", "compute", "exchange")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--model", default="radixnet:1024:120")
    parser.add_argument("--input", default="digits")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--partition", default="hypergraph")
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="run on an emulator of the provider: its name; without a name: the default")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.data:
        challenge = load(options.data)
        model, inputs = challenge.model, challenge.images
    else:
        model = open_model(options.model)
        inputs = open_inputs(options.input, model.inputs)
    cases: list[tuple[str, dict[str, Any]]] = [("serial", {"workers": 1})]
    cases += [(channel, {"tensor_parallel": options.workers, "channel": channel}) for channel in ("queue", "object", "hybrid")]
    results: dict[str, list[fsd_core.Result]] = defaultdict(list)
    with where(options.provider, options.emulator) as (place, _):
        common = {"partition": options.partition, **place}
        for _, arguments in cases:
            fsd_core.run(model, inputs, **common, **arguments)  # not measured: this run stages the model and computes the partition
        for _ in range(options.rounds):
            for name, arguments in cases:
                results[name].append(fsd_core.run(model, inputs, **common, **arguments))
    provider = options.provider if options.emulator is None else f"{options.provider} on {options.emulator or 'its emulator'}"
    print(
        f"{model.name}: {inputs.shape[0]} samples, {len(model.layers)} layers, P = {options.workers}, {options.partition},"
        f" {provider}; medians of {options.rounds} interleaved rounds"
    )
    print(f"{'':8}" + "".join(f"{phase:>10}" for phase in PHASES) + f"{'ratio':>8}   (seconds; ratio of totals to serial)")
    base = median(result.seconds["total"] for result in results["serial"])
    for name, _ in cases:
        seconds = {phase: median(result.seconds[phase] for result in results[name]) for phase in PHASES}
        print(f"{name:8}" + "".join(f"{seconds[phase]:10.2f}" for phase in PHASES) + f"{seconds['total'] / base:8.2f}")
    official = options.data is not None and options.workers == 8
    print("\nIn the layer loop, all workers:" + (" (the published figure in brackets)" if official else ""))
    for name, _ in cases[1:]:
        meter = {key: median(result.meter_layers[key] for result in results[name]) for key in results[name][0].meter_layers}
        published = PUBLISHED.get(name, {}) if official else {}
        shown = [f"{key} {value:,.0f}" + (f" [{published[key]:,}]" if key in published else "") for key, value in meter.items() if value]
        print(f"{name}: " + ", ".join(shown))


if __name__ == "__main__":
    main()
