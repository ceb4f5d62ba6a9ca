"""A vendor's own tests of its SDK, run against our stand-in of its service: run, passed, refused, wrong.

    python benchmarks/vendor_suites.py [azure-servicebus ...] [-k EXPRESSION] [--workers 4]

The tests come with the SDK's source package from the registry, whose SDK they run; nothing of it is kept here. A plugin of ours beside
this file starts the stand-in and gives the tests what they expect of their surroundings. "refused": the stand-in said that it does not
do that, which its list of claims says, too. "wrong": any other failure; there should be none, and the exit code says so. Most of the
time the tests sleep, so several at once cost little: each process has a stand-in of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True, kw_only=True)
class Suite:
    """``tests``: files and folders of the source package; ``plugin``: a module beside this one, a plugin of pytest."""

    package: str
    version: str
    plugin: str
    tests: Sequence[str]
    refused: str  # a pattern of what is told of a test that failed because the stand-in said that it does not do that
    needs: Sequence[str] = ()  # packages of the registry that the tests import and we do not
    options: Sequence[str] = ()  # of pytest
    left_out: Mapping[str, str]  # names of tests, as patterns, that no claim is about -> why


SUITES = (
    Suite(
        package="azure-servicebus",
        version="7.15.0",
        plugin="vendor_azure_servicebus",
        tests=(
            *(f"tests/test_{name}.py" for name in ("queues", "sb_client", "topic", "subscriptions", "message", "batch_sizing")),
            *(f"tests/async_tests/test_{name}_async.py" for name in ("queues", "sb_client", "topic", "subscriptions")),
            *(f"tests/mgmt_tests/test_mgmt_{name}.py" for name in ("queues", "namespaces")),
        ),
        refused=r"implemented here|amqp:not-implemented",
        needs=("azure-common==1.1.28", "pytest-asyncio==1.2.0"),
        options=("-o", "asyncio_mode=auto"),
        left_out={
            r"(bad|readonly|writeonly)_credentials|named_key_credential|negative_credential": "tokens are not checked",
            r"websocket|ssl_context|custom_endpoint|send_(timeout|twice|large_message_receive)\b": "no TLS, no web sockets, no proxies",
            r"keep_conn_alive|after_link_timeout|w_sleep": "they sleep for five minutes and more",
            r"^test_message_property\b": "the SDK reads no decimal number that it wrote",
            r"queue_operation_negative": "its replacements of the SDK's own functions lack an argument of this version",
        },
    ),
    Suite(  # not: signatures, keys, notifications (other services), gRPC, conformance (the client's retries, by a container), units (mocks)
        package="google-cloud-storage",
        version="3.17.1",
        plugin="vendor_google_cloud_storage",
        tests=(
            *(f"tests/system/test_{name}.py" for name in ("blob", "bucket", "client", "fileio", "transfer_manager")),
            "tests/resumable_media/system/requests",
        ),
        # Some clients tell the status alone, and the stand-in has no other 501.
        refused=r"implemented by the local Cloud Storage|status code', 501|\b501: Not Implemented|Response \[501\]",
        needs=("brotli==1.2.*", "google-cloud-testutils==1.10.*", "mock==5.2.*"),
        left_out={"test_anonymous_client_access_to_public_bucket": "reads a bucket of Google's"},
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How a suite went: counts, and what is wrong, a line each."""

    run: int
    passed: int
    refused: int
    wrong: Sequence[str]


def run(suite: Suite, folder: Path, select: str, workers: int) -> Outcome:
    """Get a suite and run it. Raises `SystemExit` where it cannot be."""
    source, extra, report = folder / suite.package, folder / f"{suite.package}-needs", folder / f"{suite.package}.xml"
    _get(suite, source)
    if suite.needs:
        _call([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(extra), *suite.needs])
    [root] = source.iterdir()
    path = os.pathsep.join([str(Path(__file__).parent), str(extra), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-p", suite.plugin, "-p", "no:cacheprovider", "-o", "addopts=", "--timeout=300"]
    command += [f"--rootdir={root}", "-o", "junit_family=xunit1", f"--junitxml={report}", "--dist=worksteal", f"-n{workers}"]
    command += ["--tb=short", "--show-capture=no", "--durations=25", *suite.options, *(["-k", select] if select else []), *suite.tests]
    left = [f"{name} ({why})" for name, why in suite.left_out.items()]
    print(f"{suite.package} {suite.version}: left out: {'; '.join(left) or 'nothing'}", flush=True)
    told = {"VENDOR_LEFT_OUT": "|".join(suite.left_out), "PYTHONPATH": path}
    log = folder / f"{suite.package}.log"
    with log.open("w") as out:
        code = subprocess.run(command, cwd=root, env={**os.environ, **told}, stdout=out, stderr=subprocess.STDOUT).returncode
    if code not in (0, 1):  # 1: some failed
        raise SystemExit(f"{suite.package}: pytest ended with code {code}:\n{log.read_text()[-3000:]}")
    return _read(report, re.compile(suite.refused))


def _get(suite: Suite, folder: Path) -> None:
    """Unpack the source package, which is not built or installed."""
    with tempfile.TemporaryDirectory() as scratch:
        pinned = f"{suite.package}=={suite.version}"
        _call([sys.executable, "-m", "pip", "download", "-q", "--no-binary", suite.package, "--no-deps", "-d", scratch, pinned])
        [archive] = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])}: {done.stderr.strip()[-500:]}")


def _read(report: Path, refusal: re.Pattern[str]) -> Outcome:
    """What a report of JUnit's form says. A name that is there twice tells how a test ended, then how its clearing away failed: where
    the stand-in refused what the test asked for, that is missed there, too."""
    told: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failures = [*case.findall("failure"), *case.findall("error")]
        if failures or case.find("skipped") is None:
            texts = told.setdefault(f"{case.get('file')}::{case.get('classname')}::{case.get('name')}", [])
            texts += [f"{each.get('message', '')}\n{each.text or ''}" for each in failures]
    failed = {name: texts[0] for name, texts in told.items() if texts}
    wrong = [f"{name}: {' '.join(text.split())[:200]}" for name, text in failed.items() if not refusal.search(text)]
    return Outcome(len(told), len(told) - len(failed), len(failed) - len(wrong), wrong)


def main() -> int:
    """Run the suites that are named, or all; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [suite.package for suite in SUITES]
    parser.add_argument("suite", nargs="*", metavar="SUITE", help=f"one of {', '.join(names)}; all by default")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="of these tests only those, as pytest selects")
    parser.add_argument("--workers", type=int, default=4, help="how many tests at once")
    parser.add_argument("--folder", type=Path, help="where what was got, the report and the log stay")
    chosen = parser.parse_args()
    if unknown := set(chosen.suite) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: expected {', '.join(names)}")
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for suite in SUITES:
            if not chosen.suite or suite.package in chosen.suite:
                found = run(suite, (chosen.folder or Path(scratch)).resolve(), chosen.k, chosen.workers)
                print(*found.wrong, sep="\n", end="\n" if found.wrong else "")
                print(
                    f"{suite.package}: run {found.run}, passed {found.passed}, refused {found.refused}, wrong {len(found.wrong)}",
                    flush=True,
                )
                bad += len(found.wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
