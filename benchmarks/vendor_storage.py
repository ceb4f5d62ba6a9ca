"""The own tests of google-cloud-storage, run against the local Cloud Storage: run, passed, refused, wrong.

    python benchmarks/vendor_storage.py [-k EXPRESSION] [--workers 3]

The tests come with the SDK's source package from the registry and run the SDK that is installed here; nothing of them is kept. The
plugin beside this file starts the stand-in and gives the tests what they expect of their surroundings. "refused": the stand-in said
that it does not do that, as its list of claims does (`fsd_conformance.emulators.cloud_storage_claims`). "wrong": any other failure;
there should be none, and the exit code says so. Tests that skip themselves, most for want of a service account's key, do not count.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

PACKAGE, PLUGIN = "google-cloud-storage", "vendor_google_cloud_storage"
NEEDS = ("brotli==1.2.*", "google-cloud-testutils==1.10.*", "mock==5.2.*")  # what the tests import and we do not
TESTS = (  # not: signatures, keys, notifications (other services), gRPC, conformance (the client's retries, by a container), units (mocks)
    *(f"tests/system/test_{name}.py" for name in ("blob", "bucket", "client", "fileio", "transfer_manager")),
    "tests/resumable_media/system/requests",
)
LEFT_OUT = {"test_anonymous_client_access_to_public_bucket": "reads a bucket of Google's"}
# What is told of a test that failed because the stand-in refused; some clients tell the status alone, and it has no other 501.
REFUSED = re.compile(r"implemented by the local Cloud Storage|status code', 501|\b501: Not Implemented|Response \[501\]")


def main() -> int:
    """Get the suite and run it; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="of the tests only those, as pytest selects")
    parser.add_argument("--workers", type=int, default=3, help="how many tests at once")
    chosen = parser.parse_args()
    pinned = f"{PACKAGE}=={version(PACKAGE)}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pip = [sys.executable, "-m", "pip"]
        _call([*pip, "download", "-q", "--no-binary", PACKAGE, "--no-deps", "-d", scratch, pinned])
        _call([*pip, "install", "-q", "--no-deps", "--target", str(folder / "needs"), *NEEDS])
        with tarfile.open(next(folder.glob("*.tar.gz"))) as packed:
            packed.extractall(folder / "source", filter="data")
        report = _run(next((folder / "source").iterdir()), folder, chosen.k, chosen.workers)
        run, passed, refused, wrong = _read(report)
    print("left out:", "; ".join(f"{name} ({why})" for name, why in LEFT_OUT.items()))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{pinned}: run {run}, passed {passed}, refused {refused}, wrong {len(wrong)}")
    return 1 if wrong else 0


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])}: {done.stderr.strip()[-500:]}")


def _run(root: Path, folder: Path, select: str, workers: int) -> Path:
    """Run the tests below ``root``; the report, of JUnit's form."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider", "-o", "addopts=", f"--rootdir={root}"]
    command += ["--timeout=300", "-o", "junit_family=xunit1", f"--junitxml={report}", "--dist=worksteal", f"-n{workers}"]
    command += ["--tb=short", "--show-capture=no", *(["-k", select] if select else []), *TESTS]
    path = os.pathsep.join([str(Path(__file__).parent), str(folder / "needs"), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = {"VENDOR_LEFT_OUT": "|".join(LEFT_OUT), "PYTHONPATH": path}
    done = subprocess.run(command, cwd=root, env={**os.environ, **told}, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: some failed
        raise SystemExit(f"pytest ended with code {done.returncode}:\n{done.stdout[-3000:]}")
    return report


def _read(report: Path) -> tuple[int, int, int, list[str]]:
    """How many ran, passed, were refused, and what is wrong, a line each."""
    told: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # one more of a name tells how its clearing away failed
        failures = [*case.findall("failure"), *case.findall("error")]
        if failures or case.find("skipped") is None:
            texts = told.setdefault(f"{case.get('file')}::{case.get('classname')}::{case.get('name')}", [])
            texts += [f"{each.get('message', '')}\n{each.text or ''}" for each in failures]
    passed = sum(not texts for texts in told.values())
    failed = {name: texts[0] for name, texts in told.items() if texts}  # what is refused is then missed when a test clears away
    wrong = [f"{name}: {' '.join(text.split())[:300]}" for name, text in failed.items() if not REFUSED.search(text)]
    return len(told), passed, len(failed) - len(wrong), wrong


if __name__ == "__main__":
    raise SystemExit(main())
