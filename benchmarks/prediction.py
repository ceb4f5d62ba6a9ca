"""Compares predictions with the meters of runs on this machine, for several models, splits and channels.

    python benchmarks/prediction.py [--models radixnet,digits,normal] [--workers 1,2,4,8] [--splits data,pipeline,tensor,mixed]
    python benchmarks/prediction.py --data FOLDER --models official          # the official network and images of the Graph Challenge
    python benchmarks/prediction.py --models minilm,ocr,vad                  # ONNX models, in --ways 1x1x1,1x2x1,1x4x1,2x2x1
    python benchmarks/prediction.py --latency aws,gcp,azure --kept runs.jsonl --minutes 3    # seconds too: let nothing else run meanwhile
    python benchmarks/prediction.py --provider aws --emulator                # the counts of a cloud, on its emulator

Counts that follow from the plan are judged: publishes, puts, acks, messages and bytes within 10 % (and 2 requests). With --latency, the
medians of the seeds are judged too: receives and gets within 10 % (and 2 requests), seconds within 25 % and within 15 % at the median of
the cases, USD within 15 % at the median. Without it, these are only printed. Seconds begin with the lease of a slot, after
staging.

On an emulator, `fsd_core.measure` first measures how fast it is, and messages have a lease of 300 s: a worker has to acknowledge in time
what it has, so with a short lease the acks would follow from the speed of the emulator.

The models: `radixnet`, a generated network of the challenge on handwritten digits; `digits`, the trained network of `fsd demo`; `normal`, a
generated network with signed normal weights; `minilm`, `ocr`, `vad` or any other file of the packages of `onnx_matrix.py`, by its name
without .onnx. A way is replicas x stages x workers that share layers.

--kept FILE keeps the figures of each run as a line of JSON, and reads them from there. It does not repeat a run with kept figures, unless
the code of a run has changed; the code of predictions does not count. With --minutes N, the command only makes runs, for N minutes, and
prints how many are missing: call it again. Without --minutes, it makes all missing runs, and judges.

At the end, it prints which of the cases that ran the planner would choose for cost and for latency, and by how much that case is worse than
the best case. With --latency, a choice that is more than 10 % worse counts as wrong. Prices are those of the tariff of the table of
latencies, else those of --provider; for this machine, those of AWS. The exit code is 1 if a judged figure or a choice is wrong, or if runs
are missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import attrs

import fsd_core
from cases import CHANNELS, MEMORY_MB, Case, cases, way
from emulated import where
from fsd_core.client.expected import Expectation
from fsd_core.plan.choose import Candidate, choose
from fsd_core.plan.predict import Prediction

PLANNED: tuple[str, ...] = (
    "payload_bytes_sent",
    "message_bytes_sent",
    "messages_sent",
    "publish_requests",
    "publish_units",
    "ack_requests",
)
PLANNED += ("object_puts", "object_bytes_written", "object_bytes_read", "invocations")
TIMED = ("receive_requests", "object_gets")
COLUMNS = (*PLANNED, *TIMED, "seconds", "usd")
SLACK, SLACK_REQUESTS, SLACK_S, MEDIAN = 0.1, 2, 0.25, 0.15
LEASE_S = 300  # of messages on an emulator
WORSE = 0.1  # a choice may be worse than the best case by this share
CORE = Path(fsd_core.__file__).parent
PREDICTS = ("plan/", "report/", "cli/", "client/expected.py", "client/planning.py", "client/stage_workload.py")  # what no run executes


class Kept:
    """The figures of runs by their keys, kept in a file if one is given."""

    def __init__(self, file: str | None) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._file = Path(file) if file else None
        self._code = code()
        if self._file is not None and self._file.exists():
            lines = [json.loads(line) for line in self._file.read_text().splitlines()]
            self.found = {line["run"]: line for line in lines if line["code"] == self._code}

    def add(self, key: str, figures: Mapping[str, Any]) -> None:
        """Keep the figures of a run."""
        self.found[key] = {"run": key, "code": self._code, "at": time.strftime("%Y-%m-%d %H:%M"), **figures}
        if self._file is not None:
            with self._file.open("a") as out:
                out.write(json.dumps(self.found[key]) + "\n")


def code() -> str:
    """A digest of the code that a run executes: without the code of predictions, and without the adapters of clouds."""
    hashed = hashlib.sha256()
    for file in sorted([*CORE.rglob("*.py"), *(CORE.parent / "adapters" / "fsd_local").rglob("*.py"), *CORE.glob("kernel/*.c")]):
        if not file.is_relative_to(CORE) or not file.relative_to(CORE).as_posix().startswith(PREDICTS):
            hashed.update(file.read_bytes())
    return hashed.hexdigest()[:12]


@attrs.frozen
class Ran:
    """A case that ran: what was predicted, and medians of its runs."""

    case: Case
    found: Prediction
    runs: Sequence[Mapping[str, Any]]

    def predicted(self, column: str) -> float:
        """A predicted figure."""
        own = {"seconds": self.found.seconds["p50"], "usd": self.found.usd or 0.0}
        return own[column] if column in own else self.found.meter[column]

    def real(self, column: str) -> float:
        """The median of the figures of the runs."""
        return float(median(run[column] if column in ("seconds", "usd") else run["meter"][column] for run in self.runs))

    def error(self, column: str) -> float:
        """The predicted figure minus the metered one, as a share of the metered one."""
        mine, real = self.predicted(column), self.real(column)
        return (mine - real) / real if real else float(mine > SLACK_REQUESTS)

    def bad(self, column: str) -> bool:
        """Whether a figure is judged in each case, and wrong."""
        if column == "usd" or (column not in PLANNED and self.case.table is None):
            return False
        if column == "seconds":
            return abs(self.error(column)) > SLACK_S
        return abs(self.error(column)) > SLACK and abs(self.predicted(column) - self.real(column)) > SLACK_REQUESTS

    @property
    def row(self) -> str:
        """The row of the table: predicted/metered of each column."""
        cells = []
        for column in COLUMNS:
            digits, mark = (".3g" if column in ("seconds", "usd") else ".0f"), "**" if self.bad(column) else ""
            cells.append(f"{mark}{self.predicted(column):{digits}}/{self.real(column):{digits}}{mark}")
        return f"| {self.case.name} | " + " | ".join(cells) + " |"

    @property
    def words(self) -> str:
        """The way and its figures, for people."""
        return f"{way(self.case.work.parallel)} {self.case.channel}, {self.real('seconds'):.2f} s, {self.real('usd'):.2g} USD"


def worse(ran: Sequence[Ran], objective: str) -> tuple[Ran, Ran, float]:
    """Of the cases that ran: the case that the planner chooses, the best case, and by what share the first is worse than the second."""
    candidates = {id(each.found): each for each in ran}
    options = [
        Candidate(
            provider=each.found.provider,
            channel=each.case.channel,
            parallel=each.case.work.parallel,
            memory_mb=MEMORY_MB,
            cold=True,
            prediction=each.found,
        )
        for each in ran
    ]
    mine = candidates[id(choose(objective, options).prediction)]
    real = "usd" if objective == "cost" else "seconds"
    best = min(ran, key=lambda each: each.real(real))
    return mine, best, mine.real(real) / best.real(real) - 1


def measure(found: Sequence[Case], kept: Kept, home: Path, until: float, at_once: int) -> int:
    """Make the missing runs, ``at_once`` at a time, until the monotonic time ``until``. Returns how many are still missing."""
    staged: set[int] = set()
    missing = [(case, key, seed) for case in found for key, seed in case.runs.items() if key not in kept.found]
    done = 0
    with ThreadPoolExecutor(at_once) as pool:
        while done < len(missing) and time.monotonic() < until:
            some = missing[done : done + at_once]
            for case in {id(case.work): case for case, _, _ in some if id(case.work) not in staged}.values():
                case.run(None, home, slowed=False)  # runs of one split have the same shards and inputs
                staged.add(id(case.work))
            for (_, key, _), figures in zip(some, pool.map(lambda each: each[0].run(each[2], home), some), strict=True):
                kept.add(key, figures)
            done += len(some)
    return len(missing) - done


def judge(ran: Sequence[Ran], *, slowed: bool) -> int:
    """Print the table, the errors and the choices. Returns how many judged figures are wrong."""
    print(f"| case | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for each in ran:
        print(each.row)
    wrong = sum(each.bad(column) for each in ran for column in COLUMNS)
    print("\nErrors (predicted less metered, in % of the metered): median, median without sign, and largest:")
    for column in COLUMNS:
        errors = [each.error(column) for each in ran]
        typical = median(map(abs, errors))
        off = slowed and column in ("seconds", "usd") and typical > MEDIAN
        wrong += off
        print(f"{column:24} {100 * median(errors):7.1f} {100 * typical:7.1f} {100 * max(errors, key=abs):7.1f}{' **off**' if off else ''}")
    print("\n| model | table | objective | the planner's choice | the best case | worse by |\n|---|---|---|---|---|---:|")
    groups: dict[tuple[str, str | None], list[Ran]] = {}
    for each in ran:
        groups.setdefault((each.case.model.name, each.case.table), []).append(each)
    for (name, table), some in groups.items():
        for objective in ("cost", "latency"):
            mine, best, share = worse(some, objective)
            off = table is not None and share > WORSE
            wrong += off
            print(f"| {name} | {table or 'none'} | {objective} | {mine.words} | {best.words} | {share:.1%}{' **off**' if off else ''} |")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="radixnet,digits,normal")
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--splits", default="data,pipeline,tensor,mixed")
    parser.add_argument("--ways", help="replicas x stages x workers that share layers, for instance 1x1x1,1x4x1: instead of the last two")
    parser.add_argument("--channels", default=",".join(CHANNELS))
    parser.add_argument("--partition", default="block")
    parser.add_argument("--data", help="folder with the files of the Graph Challenge")
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="use the provider's emulator (of this name)")
    parser.add_argument("--latency", help="tables of latencies, for instance aws,gcp,azure")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for which samples of the input are computed")
    parser.add_argument("--kept", help="the file of the figures of runs")
    parser.add_argument("--minutes", type=float, help="only make runs, for so long")
    parser.add_argument("--at-once", type=int, default=1, help="runs at the same time: for those that mostly wait")
    options = parser.parse_args()
    until = time.monotonic() + (60 * options.minutes if options.minutes is not None else 1e9)
    # Runs make no prediction of their own: it would take processor time from the next one.
    empty = {"seconds": {}, "parts": {}, "meter": {}, "usd": None, "kept": [], "live": None}  # a run adds how long it lasted
    nothing = patch.object(Expectation, "found", lambda *_: dict(empty))
    with nothing, tempfile.TemporaryDirectory() as folder, where(options.provider, options.emulator) as (used, _):
        used["settings"] = {"root": f"{folder}/local"} if options.provider == "local" else used["settings"]
        kept, emulator = Kept(options.kept), None
        if options.emulator is not None:
            used["settings"] = {**used["settings"], "lease_s": LEASE_S}
            emulator = fsd_core.measure(options.provider, settings=used["settings"], quick=True).table
        found = list(cases(options, Path(folder), used, emulator))
        missing = measure(found, kept, Path(folder), until, options.at_once)
        if options.minutes is not None:
            print(f"{missing} runs are missing")
            sys.exit(1 if missing else 0)
        wrong = judge([Ran(case, case.expected(), [kept.found[key] for key in case.runs]) for case in found], slowed=bool(options.latency))
    print(f"\n{wrong} judged figures are off")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
