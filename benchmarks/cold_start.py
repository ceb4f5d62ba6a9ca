"""The cold start of a worker: the time and memory that a new process takes to import what the platform's entry file imports.

    python benchmarks/cold_start.py [--root PATH ...] [--provider NAME ...] [--rounds 9]

Every measurement is a new process that imports the entry file below ``handlers/`` of its root (locally: the modules of a function), with
byte code and disk warm. Roots (checkouts of this project; this one by default) and providers take turns: A, B, A, B. The table has medians
over the rounds, and the minimum of the CPU time, which a busy machine disturbs least. A ratio divides the CPU time of a root by that of the
first root: the median over the rounds, and the minimum. The start of the interpreter is not included, and no connection is opened.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

LOCAL = "import fsd_local.function, fsd_local.invoke, fsd_local.messages, fsd_local.objects, fsd_core.worker"
ENTRIES = {  # provider -> the folder of its handler below handlers/, and the import of its entry file
    "local": ("", LOCAL),
    "aws": ("aws_lambda", "import handler"),
    "gcp": ("google_cloud_run", "import main"),
    "azure": ("azure_functions", "import function_app"),
}
FIGURES = ("cpu_ms", "wall_ms", "resident_mb", "modules")
CHILD = """
import sys, time
sys.modules["aiohttp"] = None  # other packages bring it to this machine, not to a function; azure-core would import it
before, wall, cpu = len(sys.modules), time.perf_counter(), time.process_time()
try:
    {entry}
except ModuleNotFoundError as error:
    print("null", error)
    sys.exit()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
import json, os, resource
try:
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
except OSError:  # not Linux: the peak instead, which macOS gives in bytes and others in KiB
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
figures = {{"cpu_ms": 1e3 * cpu, "wall_ms": 1e3 * wall, "resident_mb": resident / 1e6, "modules": len(sys.modules) - before}}
print(json.dumps({{"core": sys.modules["fsd_core"].__file__, "figures": figures}}))
"""


def measure(root: Path, provider: str) -> dict[str, float] | str:
    """The `FIGURES` of one new process, or the reason why the provider is not installed."""
    folder, entry = ENTRIES[provider]
    paths = [root, root / "adapters", *([root / "handlers" / folder] if folder else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD.format(entry=entry)], env=environment, cwd=root, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise SystemExit(f"{root}: {provider}: the import fails: {done.stderr.strip()[-500:]}")
    if done.stdout.startswith("null"):
        return done.stdout.removeprefix("null").strip()
    found = json.loads(done.stdout)
    if not Path(found["core"]).is_relative_to(root):
        raise SystemExit(f"{root}: fsd_core comes from {found['core']}: expected a checkout of this project")
    figures: dict[str, float] = found["figures"]
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", action="append", type=Path, metavar="PATH", help="a checkout to measure; may be given several times")
    parser.add_argument(
        "--provider", action="append", choices=ENTRIES, help="measure this provider; may be given several times; default: all"
    )
    parser.add_argument("--rounds", type=int, default=9, help="processes for each root and provider")
    options = parser.parse_args()
    roots = [root.resolve() for root in options.root or [Path(__file__).parents[1]]]
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: expected a whole number of at least 1")
    for root in roots:
        if not (root / "fsd_core").is_dir():
            parser.error(f"--root {root}: expected a checkout of this project, with a folder fsd_core")
    missing: dict[str, str] = {}
    found: dict[tuple[str, Path], list[dict[str, float]]] = defaultdict(list)
    for number in range(options.rounds + 1):
        for provider in options.provider or ENTRIES:
            for root in roots:
                figures = measure(root, provider)
                if isinstance(figures, str):
                    missing[provider] = figures
                elif number:  # the first round compiles the byte code and fills the disk cache
                    found[provider, root].append(figures)
    width = max(len(str(root)) for root in roots)
    columns = f"{'CPU ms':>8} {'min':>8} {'wall ms':>8} {'resident MB':>12} {'modules':>8} {'ratio':>6} {'min':>6}"
    print(f"{'provider':8} {'root':{width}} {columns}")
    for (provider, root), rounds in found.items():
        shown = {name: median(figures[name] for figures in rounds) for name in FIGURES}
        ratio = median(mine["cpu_ms"] / first["cpu_ms"] for mine, first in zip(rounds, found[provider, roots[0]], strict=True))
        minimum = min(figures["cpu_ms"] for figures in rounds)
        first_minimum = min(figures["cpu_ms"] for figures in found[provider, roots[0]])
        print(
            f"{provider:8} {root!s:{width}} {shown['cpu_ms']:8.1f} {minimum:8.1f} {shown['wall_ms']:8.1f} {shown['resident_mb']:12.1f}"
            f" {shown['modules']:8.0f} {ratio:6.3f} {minimum / first_minimum:6.3f}"
        )
    for provider, reason in missing.items():
        print(f"{provider:8} is not installed: {reason}")


if __name__ == "__main__":
    main()
