"""Runs on AWS's emulator that are disturbed: who is named, how soon, and what is left.

All requests, the functions' too, go through a proxy that can answer what the emulator never does.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

import fsd_core.client.cleanup
from fsd_aws.clients import client
from fsd_aws.names import Names
from fsd_conformance import emulators
from fsd_conformance.aws import CONFLICT
from fsd_conformance.emulators.aws import operation, watched
from fsd_conformance.emulators.moto import Moto
from fsd_conformance.emulators.proxy import Answer, Request, See
from fsd_core.client.garbage import collect_garbage
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError, RunFailed
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.storage.keys import is_run, slot
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from run_cases import APP, INPUTS, MODEL, RunCases, Runs, running
from waiting import claims, until

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]


class Trouble:
    """What the proxy asks: every request, once ``answer`` is set."""

    def __init__(self) -> None:
        self.answer: See | None = None

    def __call__(self, request: Request) -> Answer | None:
        return self.answer(request) if self.answer else None


TROUBLE = Trouble()


@pytest.fixture(autouse=True)
def trouble() -> Iterator[Trouble]:
    yield TROUBLE
    TROUBLE.answer = None


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with emulators.own(Moto) as emulator, watched(emulator, TROUBLE), running("aws", emulator.settings) as runs:
        yield runs


def refusing(code: str, status: int, *services: str) -> See:
    """Answers every request to these services with an error, each in its service's way."""
    bodies = {
        "s3": f"<Error><Code>{code}</Code><Message>made up</Message></Error>",
        "sns": f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>made up</Message></Error></ErrorResponse>",
        "sqs": json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "made up"}),
        "lambda": json.dumps({"Message": "made up"}),
    }

    def see(request: Request) -> Answer | None:
        service = operation(request).partition(":")[0]
        if service not in (services or bodies):
            return None
        return Answer(status, b"" if request.method == "HEAD" else bodies[service].encode(), {"x-amzn-ErrorType": code})

    return see


def set_free(runs: Runs) -> None:
    """What clients leave that could not clean up any more: their slots' leases, and what `fsd gc` removes."""
    for number in range(runs.resources.slots):
        last = max(runs.store.keys(slot(number)), default="")
        if last and not last.endswith(".free"):
            runs.store.put(f"{last}.free", b"{}")

    def clean() -> bool:  # a worker may have its last word late
        collect_garbage("aws", APP, {"package": False, "text": True})
        return not [key for key in runs.store.keys("") if is_run(key)]

    until(clean)


@pytest.mark.parametrize(
    ("service", "error", "status", "code", "advice"),
    [
        ("", "ExpiredToken", 400, Code.DENIED, "the AWS credentials expired: get new ones"),
        ("sns", "AuthorizationError", 403, Code.DENIED, "lack a permission"),
        ("sns", "NotFound", 404, Code.NOT_FOUND, "a resource of the app is gone"),
        ("s3", "NoSuchBucket", 404, Code.NOT_FOUND, "a resource of the app is gone"),
    ],
)
def test_what_is_refused_from_some_moment_on_ends_the_run_at_once_with_advice(
    runs: Runs, tmp_path: Path, trouble: Trouble,
    service: str, error: str, status: int, code: Code, advice: str,
) -> None:  # fmt: skip
    began: list[float] = []

    def begin(_: object) -> None:
        began.append(time.monotonic())
        trouble.answer = refusing(error, status, *([service] if service else []))

    with runs.once_claimed(begin), pytest.raises(RunFailed, match=advice) as caught:
        runs.start(tmp_path, channel="queue", faults="delay=1s,seed=1", timeout=120.0)
    assert caught.value.code is code
    assert error in caught.value.message
    assert time.monotonic() - began[0] < 40  # a minute before the least that a stall limit or the deadline would take
    trouble.answer = None
    set_free(runs)


def test_slow_down_is_waited_out_and_conflicts_are_asked_again(runs: Runs, tmp_path: Path, trouble: Trouble) -> None:
    slow, asked = refusing("SlowDown", 503, "s3"), itertools.count()
    creates: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def answer(request: Request) -> Answer | None:
        if "if-none-match" in request.headers and next(creates[request.path]) == 0:
            return CONFLICT
        return slow(request) if next(asked) % 3 == 0 else None

    trouble.answer = answer
    result = runs.start(tmp_path, channel="object", faults=None)
    expected = serial(MODEL, open_inputs(INPUTS, 1024))
    assert np.array_equal(np.diff(result.output.indptr) > 0, np.diff(expected.indptr) > 0)
    assert len(creates) >= 4  # a lease and three claims
    assert result.meter["retries"] > result.meter["object_puts"] / 4


def test_slow_down_for_ever_ends_at_the_deadline(runs: Runs, tmp_path: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(_: object) -> None:
        trouble.answer = refusing("SlowDown", 503, "s3")

    monkeypatch.setattr(fsd_core.client.cleanup, "FAILED_S", 1.0)
    with runs.once_claimed(begin, ranks=1), pytest.raises(RunFailed, match="SlowDown") as caught:
        runs.start(tmp_path, channel="object", faults="delay=1s,throttle=.5,seed=1", timeout=15.0)
    assert caught.value.code is Code.THROTTLED
    trouble.answer = None
    set_free(runs)


@pytest.mark.parametrize(
    ("error", "status", "advice"),
    [
        ("RequestTimeTooSkewed", 403, "this machine's clock is wrong"),
        ("UnrecognizedClientException", 403, "AWS does not know these credentials"),
        ("AccessDeniedException", 403, "lack a permission"),
    ],
)
def test_what_is_refused_from_the_start_starts_nothing(
    runs: Runs, tmp_path: Path, trouble: Trouble, error: str, status: int, advice: str
) -> None:
    trouble.answer = refusing(error, status)
    with pytest.raises(RunFailed, match=f"{error}.*{advice}") as caught:
        runs.start(tmp_path)
    assert caught.value.code is Code.DENIED


def test_without_credentials_or_a_known_region_nothing_starts(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="xx-nowhere-1"):
        runs.start(tmp_path, {"region": "xx-nowhere-1"})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="no AWS credentials are found: run 'aws configure'"):
        runs.start(tmp_path)


def test_ctrl_c_ends_all_ranks_and_says_what_removes_the_rest(runs: Runs, tmp_path: Path) -> None:
    app = "interrupted"  # no other case uses this app: workers of other runs may still be at work
    objects = runs.provider.objects(runs.provider.provisioner(runs.settings).ensure(app, 3, 4))
    store = Store(objects, Retry(time.time() + 600, Meter()))
    (tmp_path / "fsd.toml").write_text("[aws]\npackage = false\ntext = true\n")
    words = f"run radixnet:1024:48 {INPUTS} --provider aws --app {app} --workers 3 --partition block --channel queue --faults delay=1s"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fsd_core.cli", *words.split()],
        cwd=tmp_path,
        env={**os.environ, "FSD_HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        claims(store)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    slot = r"could not give the slot back: the slot is free after \d+ s, "  # on a machine so busy that the time for the end is over
    command = f"`fsd gc --provider aws --app {app} --emulator` removes"
    assert re.fullmatch(f"fsd: interrupted; ({slot})?{re.escape(command)} (what late workers may leave|the rest)", said.splitlines()[-1])
    until(lambda: not at_work(app), 80)  # a rank that no abort reached would wait for longer
    collect_garbage("aws", app, runs.settings)
    assert [key for key in store.keys("") if is_run(key)] == []
    objects.close()
    runs.destroy(app)


def at_work(app: str) -> list[dict[str, Any]]:
    """What the functions of an app are at work on, as the local Lambda reports it."""
    with urlopen(f"{os.environ['AWS_ENDPOINT_URL_LAMBDA']}/_fsd/functions", timeout=10) as answer:
        instances = json.load(answer)[f"fsd-{app}"]
    return [instance["event"] for instance in instances if instance["request_id"]]


class TestShared(RunCases):
    died = "the function ended: "

    def delete_queues(self, resources: Resources) -> None:
        sqs = client("sqs", resources.names["region"])
        for number in range(resources.slots):
            sqs.delete_queue(QueueUrl=resources.names["queue_url_prefix"] + Names.of(resources).queue(number, 1))
