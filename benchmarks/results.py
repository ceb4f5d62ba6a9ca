"""Runs the benchmarks of kernel, codec, memory and loading, and writes what they print into `benchmarks/results.md`.

    python benchmarks/results.py [--data FOLDER] [--only kernel,codec]

With --only, the other sections of the page stay as they are. Each section says on which machine and day its figures were printed, and by
which command. Without --data, the official network of the Graph Challenge is replaced by a generated one, as the benchmarks say.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "results.md"
HEAD = """# Results of the benchmarks

`make bench DATA=FOLDER` makes this page: each section holds what the command above it printed. FOLDER has the files of the Graph Challenge.
Candidates take turns in one run; figures are medians, with their spread.
"""
SECTIONS = {
    "kernel": ("Kernels, on one thread", ["kernel.py", "--rounds", "3"], True),
    "codec": ("Codec", ["codec.py"], True),
    "memory": ("Peak memory of workers and its prediction", ["memory.py"], True),
    "large": ("2 GB of weights in functions of 512 MB", ["memory.py", "--large"], False),
    "loading": ("Loading 2 GB of weights", ["loading.py", "--latency", "aws"], False),
}


def main() -> None:
    """Run the chosen benchmarks, and write the page after each. The exit code is that of the last benchmark that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections to make: {', '.join(SECTIONS)}")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected some of {', '.join(SECTIONS)}")
    texts = sections(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    failed = 0
    for name in chosen:
        title, command, with_data = SECTIONS[name]
        shown = " ".join(["python", f"benchmarks/{command[0]}", *command[1:], *(["--data FOLDER"] if with_data and options.data else [])])
        more = ["--data", str(options.data)] if with_data and options.data else []
        ran = subprocess.run([sys.executable, str(HERE / command[0]), *command[1:], *more], stdout=subprocess.PIPE, text=True, check=False)
        print(ran.stdout, flush=True)
        ended = f" (exit code {ran.returncode})" if ran.returncode else ""
        texts[title] = f"`{shown}`{ended} on {time.strftime('%Y-%m-%d')}, {machine()}:\n\n```\n{ran.stdout.strip()}\n```\n"
        failed = ran.returncode or failed
        parts = [f"## {title}\n\n{texts[title]}" for title, *_ in SECTIONS.values() if title in texts]
        PAGE.write_text("\n".join([HEAD, *parts]), encoding="utf-8")
    sys.exit(failed)


def sections(page: str) -> dict[str, str]:
    """The texts of a page by their titles."""
    parts = re.split(r"^## (.*)\n\n", page, flags=re.MULTILINE)[1:]
    return {title: f"{text.rstrip()}\n" for title, text in zip(parts[::2], parts[1::2], strict=True)}


def machine() -> str:
    """The processor of this machine, and how many cores a process may use."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {found[1].strip() if found else 'a processor without a name'}"


if __name__ == "__main__":
    main()
