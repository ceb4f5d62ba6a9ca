"""How long a plan takes: the whole command ``fsd plan``, with imports, in a new process that finds no kept plan.

    python benchmarks/planning.py [--models radixnet:16384:200,FOLDER ...] [--providers "local aws aws,gcp,azure"] [--rounds 5]

Models and providers take turns: A, B, A, B. The first round, which compiles the modules, does not count. The table has the minimum and the
median of the CPU seconds (user and system) and of the wall seconds over the other rounds. A busy machine disturbs the minimum of the CPU
seconds least. On two quiet cores, a plan of 100 million weights is to take less than 3 s, both in CPU and wall seconds.
``radixnet:16384:200`` has 105 million.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from statistics import median


def timed(model: str, inputs: str, providers: str, cache: str) -> tuple[float, float]:
    """The CPU and wall seconds of one command. ``cache``: the folder of compiled modules."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"FSD_HOME": home, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-m", "fsd_core.cli", "plan", model, inputs, "--providers", providers, "--json"]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="radixnet:16384:200")
    parser.add_argument("--input", default="random:100:0.2")
    parser.add_argument("--providers", default="local aws aws,gcp,azure", help="lists of providers, with spaces between them")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as cache:
        for number in range(1 + given.rounds):
            for model in given.models.split(","):
                for providers in given.providers.split():
                    seconds = timed(model, given.input, providers, cache)
                    if number:
                        found[model, providers].append(seconds)
    print(f"{'model':24}  {'providers':16}  CPU s: min, median  wall s: min, median")
    for (model, providers), rounds in found.items():
        cpu, wall = zip(*rounds, strict=True)
        print(f"{model:24}  {providers:16}  {min(cpu):10.2f}, {median(cpu):6.2f}  {min(wall):11.2f}, {median(wall):6.2f}")


if __name__ == "__main__":
    main()
