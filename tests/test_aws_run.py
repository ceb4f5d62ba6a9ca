"""Runs on AWS's emulator that are disturbed: who is named, how soon, and what is left.

All requests, the functions' too, go through a proxy that can answer what the emulator never does.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

import fsd_core.client.cleanup
from fsd_conformance import emulators
from fsd_conformance.aws import CONFLICT
from fsd_conformance.emulators.aws import operation, watched
from fsd_conformance.emulators.moto import Moto
from fsd_conformance.emulators.proxy import Answer, Request, See
from fsd_core import Result, providers, run
from fsd_core.client.garbage import collect_garbage
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError, RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.storage.keys import is_run, slot
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from waiting import claims, left_by_runs, until

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]
APP = "disturbed"
MODEL, INPUTS = radixnet(1024, 24), "random:40:0.4:1"


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
def settings() -> Iterator[dict[str, Any]]:
    """The emulator, and what [aws] must say for it."""
    with emulators.own(Moto) as emulator, watched(emulator, TROUBLE):
        yield dict(emulator.settings)


@pytest.fixture(scope="module")
def resources(settings: dict[str, Any]) -> Resources:
    return providers.find("aws").provisioner(settings).ensure(APP, 3, 4)


@pytest.fixture
def store(resources: Resources) -> Iterator[Store]:
    objects = providers.find("aws").objects(resources)
    yield Store(objects, Retry(time.time() + 600, Meter()))
    objects.close()


def start(settings: dict[str, Any], home: Path, **options: Any) -> Result:
    defaults = {"workers": 3, "partition": "block", "timeout": 90.0, "app": APP, "faults": "delay=400ms,throttle=.3,seed=1"}
    return run(MODEL, open_inputs(INPUTS, 1024), provider="aws", settings=settings, home=home, **(defaults | options))


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


@contextmanager
def once_claimed(store: Store, do: Callable[[], object], ranks: int = 3) -> Iterator[None]:
    """Within the block, ``do`` happens beside it as soon as so many ranks of a run are at work."""
    with ThreadPoolExecutor(1) as beside:
        done = beside.submit(lambda: (claims(store, ranks), do()))
        yield
        done.result()


def set_free(resources: Resources, store: Store) -> None:
    """What clients leave that could not clean up any more: their slots' leases, and what `fsd gc` removes."""
    for number in range(resources.slots):
        last = max(store.keys(slot(number)), default="")
        if last and not last.endswith(".free"):
            store.put(f"{last}.free", b"{}")

    def clean() -> bool:  # a worker may have its last word late
        collect_garbage("aws", APP, {"package": False, "text": True})
        return not [key for key in store.keys("") if is_run(key)]

    until(clean)


@pytest.mark.parametrize(("channel", "victim"), [("queue", 0), ("object", 1), ("hybrid", 2)])
def test_a_killed_function_ends_the_run_with_its_name(
    settings: dict[str, Any], store: Store, tmp_path: Path, channel: str, victim: int
) -> None:
    killed_at: list[float] = []

    def kill() -> None:
        pid = claims(store)[victim]["pid"]
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    with once_claimed(store, kill), pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel=channel)
    assert caught.value.rank == victim, caught.value
    assert caught.value.code is Code.UNAVAILABLE
    assert time.monotonic() - killed_at[0] < 60  # before any stall limit ends
    assert left_by_runs(store) == []


def test_a_queue_deleted_mid_run_ends_it(settings: dict[str, Any], resources: Resources, store: Store, tmp_path: Path) -> None:
    from fsd_aws.clients import client
    from fsd_aws.names import Names

    sqs = client("sqs", resources.names["region"])
    urls = [resources.names["queue_url_prefix"] + Names.of(resources).queue(slot, 1) for slot in range(4)]

    def delete() -> None:
        for url in urls:
            sqs.delete_queue(QueueUrl=url)

    with once_claimed(store, delete), pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel="queue")
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.rank == 1
    assert "receive" in str(caught.value)
    assert "fsd deploy --provider aws" in str(caught.value)
    for url in urls:  # as the others; the subscription is there still
        sqs.create_queue(QueueName=url.rsplit("/", 1)[1])


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
    settings: dict[str, Any], resources: Resources, store: Store, tmp_path: Path, trouble: Trouble,
    service: str, error: str, status: int, code: Code, advice: str,
) -> None:  # fmt: skip
    began: list[float] = []

    def begin() -> None:
        began.append(time.monotonic())
        trouble.answer = refusing(error, status, *([service] if service else []))

    with once_claimed(store, begin), pytest.raises(RunFailed, match=advice) as caught:
        start(settings, tmp_path, channel="queue", faults="delay=1s,seed=1", timeout=120.0)
    assert caught.value.code is code
    assert error in caught.value.message
    assert time.monotonic() - began[0] < 40  # a minute before the least that a stall limit or the deadline would take
    trouble.answer = None
    set_free(resources, store)


def test_slow_down_is_waited_out_and_conflicts_are_asked_again(settings: dict[str, Any], tmp_path: Path, trouble: Trouble) -> None:
    slow, asked = refusing("SlowDown", 503, "s3"), itertools.count()
    creates: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def answer(request: Request) -> Answer | None:
        if "if-none-match" in request.headers and next(creates[request.path]) == 0:
            return CONFLICT
        return slow(request) if next(asked) % 3 == 0 else None

    trouble.answer = answer
    result = start(settings, tmp_path, channel="object", faults=None)
    expected = serial(MODEL, open_inputs(INPUTS, 1024))
    assert np.array_equal(np.diff(result.output.indptr) > 0, np.diff(expected.indptr) > 0)
    assert len(creates) >= 4  # a lease and three claims
    assert result.meter["retries"] > result.meter["object_puts"] / 4


def test_slow_down_for_ever_ends_at_the_deadline(
    settings: dict[str, Any], resources: Resources, store: Store, tmp_path: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> None:
        trouble.answer = refusing("SlowDown", 503, "s3")

    monkeypatch.setattr(fsd_core.client.cleanup, "FAILED_S", 1.0)
    with once_claimed(store, begin, ranks=1), pytest.raises(RunFailed, match="SlowDown") as caught:
        start(settings, tmp_path, channel="object", faults="delay=1s,throttle=.5,seed=1", timeout=15.0)
    assert caught.value.code is Code.THROTTLED
    trouble.answer = None
    set_free(resources, store)


@pytest.mark.parametrize(
    ("error", "status", "advice"),
    [
        ("RequestTimeTooSkewed", 403, "this machine's clock is wrong"),
        ("UnrecognizedClientException", 403, "AWS does not know these credentials"),
        ("AccessDeniedException", 403, "lack a permission"),
    ],
)
def test_what_is_refused_from_the_start_starts_nothing(
    settings: dict[str, Any], tmp_path: Path, trouble: Trouble, error: str, status: int, advice: str
) -> None:
    trouble.answer = refusing(error, status)
    with pytest.raises(RunFailed, match=f"{error}.*{advice}") as caught:
        start(settings, tmp_path)
    assert caught.value.code is Code.DENIED


def test_without_credentials_or_a_known_region_nothing_starts(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="xx-nowhere-1"):
        start(settings | {"region": "xx-nowhere-1"}, tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match="no AWS credentials are found: run 'aws configure'"):
        start(settings, tmp_path)


def test_ctrl_c_ends_all_ranks_and_says_what_removes_the_rest(settings: dict[str, Any], tmp_path: Path) -> None:
    app = "interrupted"  # its own: of the others' runs some could not be told to end, and their ranks are at work yet
    objects = providers.find("aws").objects(providers.find("aws").provisioner(settings).ensure(app, 3, 4))
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
    assert said.splitlines()[-1] == f"fsd: interrupted; `fsd gc --provider aws --app {app} --emulator` removes what late workers may leave"
    until(lambda: not at_work(app), 80)  # a rank that nobody told would wait for longer
    collect_garbage("aws", app, settings)
    assert [key for key in store.keys("") if is_run(key)] == []
    objects.close()
    assert providers.find("aws").provisioner(settings).destroy(app)


def at_work(app: str) -> list[dict[str, Any]]:
    """What the functions of an app are at work on, as the local Lambda tells it."""
    with urlopen(f"{os.environ['AWS_ENDPOINT_URL_LAMBDA']}/_fsd/functions", timeout=10) as answer:
        instances = json.load(answer)[f"fsd-{app}"]
    return [instance["event"] for instance in instances if instance["request_id"]]


def test_a_quota_below_the_workers_is_refused_before_anything_starts(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers 3: aws may run 2 functions at once"):
        start(settings | {"concurrency": 2}, tmp_path, app="small")
    assert providers.find("aws").provisioner(settings).destroy("small")


def test_destroy_leaves_nothing(settings: dict[str, Any], resources: Resources) -> None:
    from fsd_aws.clients import client

    assert providers.find("aws").provisioner(settings).destroy(APP)
    region = resources.names["region"]
    assert client("sqs", region).list_queues(QueueNamePrefix=f"fsd-{APP}").get("QueueUrls", []) == []
    assert [topic for topic in client("sns", region).list_topics()["Topics"] if APP in topic["TopicArn"]] == []
    assert [bucket for bucket in client("s3", region).list_buckets()["Buckets"] if APP in bucket["Name"]] == []
    assert [function for function in client("lambda", region).list_functions()["Functions"] if APP in function["FunctionName"]] == []
    assert [role for role in client("iam", region).list_roles()["Roles"] if APP in role["RoleName"]] == []
