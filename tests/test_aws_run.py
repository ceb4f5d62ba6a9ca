"""Runs on AWS's emulator that are disturbed: who is named, how soon, and what is left."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsd_conformance import emulators
from fsd_core import providers
from fsd_core.client import run
from fsd_core.driver import Code, Resources
from fsd_core.errors import InputError, RunFailed
from fsd_core.keys import is_run
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.retry import Retry
from fsd_core.store import Store
from fsd_core.wrappers.meter import Meter

pytestmark = pytest.mark.timeout(240)
APP = "disturbed"


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    """The emulator, and what [aws] must say for it."""
    with emulators.own(emulators.find("aws", "moto")) as emulator:
        yield dict(emulator.settings)


@pytest.fixture(scope="module")
def resources(settings: dict[str, Any]) -> Resources:
    return providers.find("aws").provisioner(settings).ensure(APP, 3, 4)


@pytest.fixture
def store(resources: Resources) -> Iterator[Store]:
    objects = providers.find("aws").objects(resources)
    yield Store(objects, Retry(time.time() + 600, Meter()))
    objects.close()


def start(settings: dict[str, Any], home: Path, **options: Any) -> None:
    defaults = {"workers": 3, "partition": "block", "timeout": 90.0, "app": APP, "faults": "delay=400ms,throttle=.3,seed=1"}
    run(radixnet(1024, 24), open_inputs("random:40:0.4:1", 1024), provider="aws", settings=settings, home=home, **(defaults | options))


def claims(store: Store) -> dict[int, dict[str, Any]]:
    """The claims of the run under way, once all three are there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        keys = [key for key in store.keys("") if "/claim/" in key]
        if len(keys) == 3:
            return {int(key.rsplit("/", 1)[1]): json.loads(store.get(key)) for key in keys}
        time.sleep(0.05)
    raise AssertionError("the workers did not start")


@pytest.mark.parametrize(("channel", "victim"), [("queue", 0), ("object", 1), ("hybrid", 2)])
def test_a_killed_function_ends_the_run_with_its_name(
    settings: dict[str, Any], store: Store, tmp_path: Path, channel: str, victim: int
) -> None:
    killed_at: list[float] = []

    def kill() -> None:
        pid = claims(store)[victim]["pid"]
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel=channel)
    killer.join()
    assert caught.value.rank == victim, caught.value
    assert caught.value.code is Code.UNAVAILABLE
    assert time.monotonic() - killed_at[0] < 10
    assert [key for key in store.keys("") if is_run(key)] == []


def test_a_queue_deleted_mid_run_ends_it(settings: dict[str, Any], resources: Resources, store: Store, tmp_path: Path) -> None:
    from fsd_aws.clients import client
    from fsd_aws.names import Names

    sqs = client("sqs", resources.names["region"])
    urls = [resources.names["queue_url_prefix"] + Names.of(resources).queue(slot, 1) for slot in range(4)]

    def delete() -> None:
        claims(store)
        for url in urls:
            sqs.delete_queue(QueueUrl=url)

    thread = threading.Thread(target=delete)
    thread.start()
    with pytest.raises(RunFailed) as caught:
        start(settings, tmp_path, channel="queue")
    thread.join()
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.rank == 1
    assert "receive" in str(caught.value)


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
