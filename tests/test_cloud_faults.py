"""The same faults on every cloud's emulators: functions that die before their claim or at their output, damage, poisoned queues."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dying_functions import TRAP_FILE, damaging
from fsd_conformance import emulators
from fsd_conformance.emulators.azure_functions_deploy import Options as AzureOptions
from fsd_conformance.emulators.cloud_run_deploy import Options as CloudRunOptions
from fsd_conformance.emulators.lambda_sandbox import Options as LambdaOptions
from fsd_core import Result, providers, run
from fsd_core.channel.frames import Frame, Kind, pack
from fsd_core.driver import Code, Message, Resources
from fsd_core.errors import FsdError, RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.storage.keys import is_content, is_manifest
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from waiting import left_by_runs

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(300)]
MODEL, INPUTS = radixnet(1024, 6), open_inputs("random:40:0.4:1", 1024)
RIGHT = serial(MODEL, INPUTS)
APP, WORKERS, SLOTS = "faulty", 3, 4
# By provider: the variable for the functions' flags, and what their warm parent imports.
FLAGS = {
    "aws": ("functions", LambdaOptions.preload),
    "gcp": ("functions", CloudRunOptions.preload),
    "azure": ("arguments", AzureOptions.preload),
}


class Cloud:
    """An emulator whose functions obey `order`, with an app."""

    def __init__(self, provider: str, settings: dict[str, Any], file: Path, home: Path) -> None:
        self.provider = providers.find(provider)
        self.settings, self.file, self.home = settings, file, home
        self.resources: Resources = self.provider.provisioner(settings).ensure(APP, WORKERS, SLOTS)
        self.store = Store(self.provider.objects(self.resources), Retry(time.time() + 3600, Meter()))

    def order(self, **order: Any) -> None:
        """What `dying_functions.preload` reads."""
        self.file.with_suffix(".new").write_text(json.dumps(order))
        os.replace(self.file.with_suffix(".new"), self.file)

    def run(self, channel: str = "queue", **options: Any) -> Result:
        defaults = {"workers": WORKERS, "partition": "block", "timeout": 120.0, "app": APP, "recovery": "off"}
        more = {"provider": self.provider.name, "settings": self.settings, "home": self.home, "channel": channel}
        return run(MODEL, INPUTS, **(defaults | more | options))


@pytest.fixture(scope="module", params=sorted(FLAGS))
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp(request.param)
    name, preload = FLAGS[request.param]
    trapped = type("Trapped", (emulators.find(request.param),), {name: ("--preload", f"{preload},dying_functions:preload")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv(TRAP_FILE, str(folder / "trap"))
        with emulators.own(trapped) as emulator:
            settings = dict(emulator.settings) | ({"lease_s": 5} if request.param == "azure" else {})
            cloud = Cloud(request.param, settings, folder / "trap", folder)
            with closing(cloud.store.driver):
                yield cloud


@pytest.fixture
def cloud(emulated: Cloud) -> Cloud:
    """Without an order yet."""
    emulated.order()
    return emulated


def right(result: Result) -> bool:
    return bool((abs(result.output - RIGHT) > 1e-3).nnz == 0)


# deaths


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_before_its_claim_is_launched_again(cloud: Cloud, rank: int) -> None:
    cloud.order(rank=rank, at="claim", launches=1)
    result = cloud.run()
    assert right(result)
    assert {each["rank"]: each["attempt"] for each in result.ranks}[rank] > 0


def test_a_worker_that_dies_before_every_claim_is_named(cloud: Cloud) -> None:
    cloud.order(rank=0, at="claim")
    with pytest.raises(RunFailed, match="did not start: the platform reports UNAVAILABLE") as caught:
        cloud.run()
    assert (caught.value.rank, caught.value.layer) == (0, None)
    assert left_by_runs(cloud.store) == []


@pytest.mark.parametrize(("channel", "rank"), [("queue", 0), ("object", 1), ("hybrid", 1)])
def test_a_worker_that_dies_at_its_output_is_named(cloud: Cloud, channel: str, rank: int) -> None:
    cloud.order(rank=rank, at="output")
    with pytest.raises(RunFailed, match="the function ended: ") as caught:
        cloud.run(channel)
    assert (caught.value.rank, caught.value.code) == (rank, Code.UNAVAILABLE)
    assert left_by_runs(cloud.store) == []


# objects


@pytest.mark.parametrize("damage", ["removed", "flipped"])
@pytest.mark.parametrize("kind", ["shard", "input"])
def test_what_was_staged_is_staged_again(cloud: Cloud, kind: str, damage: str) -> None:
    def staged() -> list[str]:
        return [key for key in cloud.store.keys("") if is_content(key) and not is_manifest(key) and key.endswith("/1")]

    if not staged():
        cloud.run()
    (key,) = [key for key in staged() if cloud.store.get(key).startswith(b"FSDshrd") == (kind == "shard")]
    if damage == "removed":
        cloud.store.delete([key])
    else:
        damaging("*", damage)[0](cloud.store, key, cloud.store.get(key))
    with pytest.warns(UserWarning, match="stages .* again"):
        assert right(cloud.run())


@pytest.mark.parametrize(
    ("key", "damage", "told"),
    [
        ("output/0/1", "removed", r"NOT_FOUND: get \w+/run/output/0/1"),
        ("output/0/1", "flipped", "rank 1: the output slice of batch 1 is damaged"),
        ("x/0/1", "cut", "the payload of rank 1 in step 0 is damaged"),
        ("claim/1", "flipped", ""),
        ("record/0", "flipped", ""),
        ("record/1", "removed", ""),
    ],
)
def test_what_a_worker_wrote(cloud: Cloud, key: str, damage: str, told: str) -> None:
    """An error that names it where the answer needs it, else the answer."""
    cloud.order(object=f"*/run/{key}", damage=damage)
    if told:
        with pytest.raises(FsdError, match=told):
            cloud.run("object")
    elif key.startswith("record"):
        with pytest.warns(UserWarning, match=f"rank {key[-1]} left no readable record"):
            assert right(cloud.run())
    else:
        assert right(cloud.run())


@pytest.mark.parametrize(("damage", "told"), [("removed", r"NOT_FOUND: get \w+/run/config"), ("cut", "the run's configuration is damaged")])
def test_the_runs_configuration(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, damage: str, told: str) -> None:
    monkeypatch.setattr(Store, "put", damaging("*/run/config", damage)[0])
    with pytest.raises(FsdError, match=told):
        cloud.run()


# queues


def aws_strangers(driver: Any, slot: int, rank: int) -> None:
    from fsd_aws.names import BODY, TARGET, target

    native, url, to = driver.native(), driver._url(rank), {"DataType": "String", "StringValue": target(slot, rank)}
    native["sqs"].send_message(QueueUrl=url, MessageBody="ünïcode ✓")
    for kind, value in (("StringValue", "of text"), ("BinaryValue", b"FSDf of bytes")):
        typed = {"DataType": kind.removesuffix("Value"), kind: value}
        native["sqs"].send_message(QueueUrl=url, MessageBody="-", MessageAttributes={BODY: typed})
    native["sns"].publish(TopicArn=driver._names.topic_arn(slot, rank), Message="only text", MessageAttributes={TARGET: to})


def gcp_strangers(driver: Any, slot: int, rank: int) -> None:
    from google.cloud import pubsub_v1

    publisher, topic = pubsub_v1.PublisherClient(), driver._names.topic(slot, rank)
    for message in (publisher.publish(topic, b"", only="attributes"), publisher.publish(topic, b"of another", kind="1")):
        message.result(60)


def azure_strangers(driver: Any, slot: int, rank: int) -> None:
    from azure.servicebus import ServiceBusMessage
    from azure.servicebus.amqp import AmqpAnnotatedMessage

    names = driver._names
    with driver.native()[names.shard(rank)].get_queue_sender(names.queue(slot, rank)) as sender:
        sender.send_messages([ServiceBusMessage(b""), ServiceBusMessage("text")])
        for body in ({"value_body": {"a": 1}}, {"sequence_body": [[1, 2], [3]]}, {"data_body": [b"FSDf", b"in two parts"]}):
            sender.send_messages(AmqpAnnotatedMessage(**body))


STRANGERS: dict[str, Callable[[Any, int, int], None]] = {"aws": aws_strangers, "gcp": gcp_strangers, "azure": azure_strangers}


@pytest.mark.parametrize("objective", ["cost", "latency"])
def test_a_poisoned_queue_changes_nothing(cloud: Cloud, objective: str) -> None:
    """Of every slot and rank: what is no frame, frames that are damaged or of other runs, and messages of forms that only others send."""
    frame = pack(Frame(Kind.PAYLOAD, "ab" * 8, 1, 0, 1, 0, 1, b"x" * 50), 0, bytes(32))
    bodies = [b"hello", b"FSDf" + bytes(60), frame[:20], frame[:-3], frame[:70] + b"!" + frame[71:], frame * 2, b"z" * 60_000, frame]
    for slot in range(SLOTS):
        with closing(cloud.provider.messages(cloud.resources, slot)) as driver:
            for rank in range(WORKERS):
                for body in bodies:
                    driver.publish([Message(rank, base64.b64encode(body) if driver.limits.body == "text" else body)])
                STRANGERS[cloud.provider.name](driver, slot, rank)
    result = cloud.run(objective=objective)
    assert right(result)
    assert result.meter["strays_dropped"] > 0
