"""Writes docs/conformance.md: what every provider promises, and which cases pass where. Runs the suite for it: some minutes.

python docs/conformance.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsd_conformance

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "conformance.md"
COLUMNS = {
    "local": "test_local.py",
    "moto": "test_aws_moto.py",
    "localstack": "test_aws_localstack.py",
    "google": "test_gcp.py",
    "gcp-storage-emulator": "test_gcp_storage_emulator.py",
    "azure": "test_azure.py",
}
GROUPS = {
    "Messages": "MessageCases",
    "Objects": "ObjectCases",
    "Invoke": "InvokeCases",
    "Provision": "ProvisionCases",
    "Channel": "ChannelCases",
    "EndToEnd": "EndToEndCases",
}
HEAD = """# Conformance

What a provider promises (`fsd_core/driver.py`), as cases that run against the real thing or an emulator of it. This page is
made by `make docs` from a run of `conformance_tests/`; `fsd conformance` runs the same for you.

A number says how often a case passed: once plain, once with requests counted, once with faults injected or below a prefix,
where that applies, and once for each of its parameters. A letter leads to the reason why it was skipped.
"""


def promises() -> dict[str, dict[str, str]]:
    """Group -> case -> what it asserts: the first line of its docstring."""
    return {
        title: {name: (getattr(cls, name).__doc__ or "").splitlines()[0].strip() for name in dir(cls) if name.startswith("test_")}
        for title, cls in ((title, getattr(fsd_conformance, cls)) for title, cls in GROUPS.items())
    }


def listed(page: str) -> set[tuple[str, str]]:
    """The (group, case) pairs that a page has a row for."""
    group, found = "", set()
    for line in page.splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| `test_"):
            found.add((group, line.split("`")[1]))
    return found


def _group(test_class: str) -> str:
    """TestFaultyMessages or TestFaultyMessage -> Messages."""
    return next(title for title in GROUPS if test_class.endswith((title, title.removesuffix("s"))))


class Outcomes:
    """Of one provider or emulator: by (group, case) how often it passed, failed, and why it was skipped."""

    def __init__(self, file: str) -> None:
        self.counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            command = [sys.executable, "-m", "pytest", f"conformance_tests/{file}", f"--junitxml={report}", "-q"]
            subprocess.run(command, cwd=ROOT, check=False)
            suite = next(ElementTree.parse(report).iter("testsuite"))
        self.seconds = float(suite.get("time", 0))
        for case in suite.iter("testcase"):
            key = (_group(case.get("classname", "").rsplit(".", 1)[-1]), case.get("name", "").split("[")[0])
            skipped = case.find("skipped")
            bad = case.find("failure") is not None or case.find("error") is not None
            self.counts[key]["FAILED" if bad else "passed" if skipped is None else f"skipped {skipped.get('message', '')}"] += 1

    def total(self, word: str) -> int:
        """How many cases, parameters and wrappers counted, ended so."""
        return sum(count for counts in self.counts.values() for name, count in counts.items() if name.startswith(word))


def page(outcomes: dict[str, Outcomes]) -> str:
    """The whole page."""
    reasons: dict[str, str] = {}

    def cell(counts: Counter[str]) -> str:
        parts = [str(counts["passed"])] if counts["passed"] else []
        parts += ["**FAILED**"] if counts["FAILED"] else []
        for name in sorted(counts):
            if name.startswith("skipped "):
                parts.append(reasons.setdefault(name.removeprefix("skipped "), f"[{chr(ord('a') + len(reasons))}]"))
        return " ".join(parts) or "-"

    lines = [HEAD, f"| | {' | '.join(outcomes)} |", f"|---|{'---:|' * len(outcomes)}"]
    for word in ("passed", "skipped", "FAILED"):
        lines.append(f"| {word.lower()} | " + " | ".join(str(each.total(word)) for each in outcomes.values()) + " |")
    lines.append("| seconds, two cores | " + " | ".join(f"{each.seconds:.0f}" for each in outcomes.values()) + " |")
    for group, cases in promises().items():
        lines += ["", f"## {group}", "", f"| case | promise | {' | '.join(outcomes)} |", f"|---|---|{'---|' * len(outcomes)}"]
        for case, promise in cases.items():
            cells = " | ".join(cell(each.counts[group, case]) for each in outcomes.values())
            words = promise.replace("``", "`").replace("|", "/")
            lines.append(f"| `{case}` | {words} | {cells} |")
    lines += ["", "## Skipped", "", *(f"- {mark} {reason}" for reason, mark in reasons.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, write, say how it went."""
    with ThreadPoolExecutor(2) as pool:  # they wait more than they work
        outcomes = dict(zip(COLUMNS, pool.map(Outcomes, COLUMNS.values()), strict=True))
    PAGE.write_text(page(outcomes))
    failed = sum(each.total("FAILED") for each in outcomes.values())
    print(f"{PAGE.relative_to(ROOT)}: {sum(each.total('passed') for each in outcomes.values())} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
