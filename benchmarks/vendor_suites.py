"""Runs a vendor's own tests of its SDK against our stand-in for its service, and counts: run, passed, refused, wrong.

    python benchmarks/vendor_suites.py [azure-servicebus ...] [-k EXPRESSION] [--workers 4]

The tests come with the source package of the SDK from the registry; this repository has no copy. A pytest plugin beside this file starts
the stand-in and provides the fixtures and modules that the tests expect. "refused" counts tests that fail because the stand-in answered
that it does not implement a feature, as its list of claims states. "wrong" counts all other failures; the exit code is 1 if there is one.
Most tests sleep most of the time, so several processes run at once, each with its own stand-in.
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
from pathlib import Path
from xml.etree import ElementTree

import attrs


@attrs.frozen(kw_only=True)
class Suite:
    """``tests`` are files and folders of the source package; ``plugin`` is a module beside this one, a plugin of pytest."""

    package: str
    version: str
    plugin: str
    tests: Sequence[str]
    refused: str  # a pattern: the failure text of a test that needs a feature that the stand-in does not implement
    needs: Sequence[str] = ()  # packages of the registry that the tests import and this project does not
    options: Sequence[str] = ()  # of pytest
    left_out: Mapping[str, str]  # pattern of names of tests that are not run -> the reason


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
            r"(bad|readonly|writeonly)_credentials|named_key_credential|negative_credential": "the stand-in checks no tokens",
            r"websocket|ssl_context|custom_endpoint|send_(timeout|twice|large_message_receive)\b": "no TLS, no web sockets, no proxies",
            r"keep_conn_alive|after_link_timeout|w_sleep": "they sleep for at least five minutes",
            r"^test_message_property\b": "the SDK cannot read decimal numbers that it wrote",
            r"queue_operation_negative": "its replacements of functions of the SDK lack an argument of this version",
        },
    ),
    Suite(  # without: signatures, keys, notifications (other services), gRPC, conformance (client retries, in a container), units (mocks)
        package="google-cloud-storage",
        version="3.17.1",
        plugin="vendor_google_cloud_storage",
        tests=(
            *(f"tests/system/test_{name}.py" for name in ("blob", "bucket", "client", "fileio", "transfer_manager")),
            "tests/resumable_media/system/requests",
        ),
        # Some clients report only the status; the stand-in answers 501 only to refuse.
        refused=r"implemented by the local Cloud Storage|status code', 501|\b501: Not Implemented|Response \[501\]",
        needs=("brotli==1.2.*", "google-cloud-testutils==1.10.*", "mock==5.2.*"),
        left_out={"test_anonymous_client_access_to_public_bucket": "reads a bucket of Google"},
    ),
)


@attrs.frozen
class Outcome:
    """The result of a suite: numbers of tests, and a line for each wrong one."""

    run: int
    passed: int
    refused: int
    wrong: Sequence[str]


def run(suite: Suite, folder: Path, select: str, workers: int) -> Outcome:
    """Download a suite and run it. Raises `SystemExit` if that fails."""
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
    environment = {**os.environ, "VENDOR_LEFT_OUT": "|".join(suite.left_out), "PYTHONPATH": path}
    log = folder / f"{suite.package}.log"
    with log.open("w") as out:
        code = subprocess.run(command, cwd=root, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
    if code not in (0, 1):  # 1: some tests failed
        raise SystemExit(f"{suite.package}: pytest ended with code {code}:\n{log.read_text()[-3000:]}")
    return _read(report, re.compile(suite.refused))


def _get(suite: Suite, folder: Path) -> None:
    """Download and unpack the source package, without building or installing it."""
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
    """The outcome in a JUnit report.

    A test with two entries failed in its body and again in its teardown. Only the first failure counts: after a refusal, the teardown fails
    because the refused resource does not exist.
    """
    failures_of: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failures = [*case.findall("failure"), *case.findall("error")]
        if failures or case.find("skipped") is None:
            texts = failures_of.setdefault(f"{case.get('file')}::{case.get('classname')}::{case.get('name')}", [])
            texts += [f"{each.get('message', '')}\n{each.text or ''}" for each in failures]
    failed = {name: texts[0] for name, texts in failures_of.items() if texts}
    wrong = [f"{name}: {' '.join(text.split())[:200]}" for name, text in failed.items() if not refusal.search(text)]
    return Outcome(len(failures_of), len(failures_of) - len(failed), len(failed) - len(wrong), wrong)


def main() -> int:
    """Run the named suites, or all; 1 if a test is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [suite.package for suite in SUITES]
    parser.add_argument("suite", nargs="*", metavar="SUITE", help=f"one of {', '.join(names)}; all by default")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="run only the tests that match, as for pytest")
    parser.add_argument("--workers", type=int, default=4, help="processes that run tests at once")
    parser.add_argument("--folder", type=Path, help="keep the downloaded packages, the report and the log here")
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
