"""The suite under test: every *must* of the contract has a case, and every case fails for a driver that breaks it."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsd_conformance.messages
import pytest
from fsd_conformance import InvokeCases, MessageCases, ObjectCases, ProvisionCases
from fsd_conformance.base import Deployed
from fsd_conformance.local import LocalHarness

import fsd_core.driver
from fsd_core.driver import Code, Delivery, Message, MessageDriver, ObjectDriver, Page, Rejected
from fsd_core.store import Store
from fsd_core.wrappers.around import AroundMessages, AroundObjects

MUSTS: dict[str, Sequence[Callable[..., object]]] = {
    "must raise the SDK's own error, unwrapped, and must not retry": [
        ProvisionCases.test_no_driver_retries,
        MessageCases.test_no_such_queue,
        ObjectCases.test_get_of_a_missing_key,
    ],
    "must map any error to a": [MessageCases.test_classify_takes_any_error],
    "must be safe to call from several threads": [
        MessageCases.test_threads_lose_nothing,
        ObjectCases.test_threads_lose_nothing,
        InvokeCases.test_threads_launch,
    ],
    "importing a provider's package must import no SDK": [ProvisionCases.test_import_is_light],
    "must be delivered to the queue of its rank": [MessageCases.test_arrives_at_its_rank_only],
    "must not be delivered again before ``lease_s`` passed, and must be after": [
        MessageCases.test_not_again_before_its_lease_ended,
        MessageCases.test_unacknowledged_comes_again,
        MessageCases.test_acknowledged_stays_away,
    ],
    "must return as soon as one message is there, and an empty sequence after": [
        MessageCases.test_receive_returns_when_one_is_there,
        MessageCases.test_receive_is_empty_after_its_wait,
    ],
    "must return one `Rejected` for each refused entry": [
        MessageCases.test_publish_takes_a_full_batch,
        MessageCases.test_everything_arrives,
    ],
    "no longer valid must be harmless": [MessageCases.test_ack_twice_is_harmless, MessageCases.test_ack_after_the_lease_is_harmless],
    "Over a limit: must raise": [
        MessageCases.test_publish_refuses_one_more,
        MessageCases.test_message_of_the_largest_size,
        MessageCases.test_batch_of_the_largest_size,
    ],
    "after a put returned must see it. A reader must see a whole object": [
        ObjectCases.test_read_after_write,
        ObjectCases.test_whole_or_none,
    ],
    "exactly one of any number of concurrent puts of a key must win": [
        ObjectCases.test_one_create_wins,
        ObjectCases.test_create_of_what_is_there,
    ],
    "of a missing key must raise `Code.NOT_FOUND`": [ObjectCases.test_missing, ObjectCases.test_get_of_a_missing_key],
    "must return keys in ascending order, each once": [ObjectCases.test_list_is_in_order, ObjectCases.test_list_over_pages],
    "of a missing key must succeed": [ObjectCases.test_delete, ObjectCases.test_delete_takes_a_full_batch],
    "must return without waiting": [InvokeCases.test_returns_without_waiting],
    "over ``payload_bytes`` must raise": [InvokeCases.test_payload_of_the_largest_size],
    "A function that does not exist must raise": [InvokeCases.test_no_such_function],
    "More than ``concurrency`` at once must give": [InvokeCases.test_more_than_may_run_at_once],
}


def test_every_must_has_a_case() -> None:
    contract = " ".join(Path(fsd_core.driver.__file__).read_text().split())
    contract = re.sub(r"Each sentence below that says \*must\*", "", contract)
    for sentence in MUSTS:
        assert contract.count(sentence) == 1, sentence
        contract = contract.replace(sentence, "")
    assert not re.findall(r".{40}\bmust\b.{40}", contract)


def test_plain_import_is_light() -> None:
    code = "import sys, fsd_conformance, fsd_conformance.local; sys.exit('pytest' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_runs_as_a_command() -> None:
    code = "import sys, fsd_conformance.table as t; t._GROUPS = ('ProvisionCases',); sys.exit(t.run('local'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TestProvision::test_ensure_twice PASSED" in done.stdout


def test_gaps_skip_their_case(tmp_path: Path) -> None:
    (tmp_path / "test_gap.py").write_text(
        "from fsd_conformance import ProvisionCases\n"
        "from fsd_conformance.local import LocalHarness\n"
        "class Mine(LocalHarness):\n"
        "    gaps = {'test_import_is_light': 'it is heavy: https://example.org/1'}\n"
        "class TestMine(ProvisionCases):\n"
        "    harness = Mine()\n"
    )
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path), "-k", "light or gaps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "gap of local: it is heavy: https://example.org/1" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


# Drivers that break one promise each


class Misroutes(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        super().publish([Message((each.rank + 1) % 3, each.body) for each in messages])
        return super().publish(messages)


class Loses(AroundMessages):
    count = 0

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        self.count += 1
        return super().publish(messages[self.count % 2 :]) if messages[self.count % 2 :] else []


class Strips(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        return super().publish([Message(each.rank, each.body.rstrip(b"\0\xff ")) for each in messages])


class DeliversTwice(AroundMessages):
    last: Sequence[Delivery] = ()

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        last, self.last = self.last, ()
        if not last:
            self.last = super().receive(rank, limit, wait_s)
        return last or self.last


class NeverAgain(AroundMessages):
    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.seen: set[bytes] = set()

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        came = [each for each in super().receive(rank, limit, wait_s) if each.body not in self.seen]
        self.seen.update(each.body for each in came)
        return came


class NeverAcks(AroundMessages):
    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        return []


class Sleeps(AroundMessages):
    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.limits = replace(driver.limits, wait_s=2.0)

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        time.sleep(wait_s)
        return super().receive(rank, limit, 0.0)


class HasNoPatience(AroundMessages):
    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        return super().receive(rank, limit, 0.0)


class KnowsNoLimit(AroundMessages):
    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        return super().receive(rank, 10, wait_s)

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        for each in messages:
            super().publish([Message(each.rank, each.body[: self.limits.message_bytes])])
        return []


class RefusesFullBatches(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        return super().publish([*messages, messages[0]])


class MindsStaleTokens(AroundMessages):
    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.seen: set[object] = set()
        self.newest: dict[bytes, object] = {}

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        came = super().receive(rank, limit, wait_s)
        self.newest |= {each.body: each.token for each in came}
        return came

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        if self.seen & set(tokens) or not set(tokens) <= set(self.newest.values()):
            raise LookupError("stale token")
        self.seen.update(tokens)
        return super().ack(rank, tokens)


class HasAnyQueue(AroundMessages):
    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        return super().receive(rank, limit, wait_s) if rank < 3 else []


class ClosesOnce(AroundMessages):
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class ClassifiesSome(AroundMessages):
    def classify(self, error: BaseException) -> Code:
        return {"FileNotFoundError": Code.NOT_FOUND}[type(error).__name__]


class Overwrites(AroundObjects):
    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        super().put(key, body)


class FindsNothing(AroundObjects):
    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        try:
            return super().get(key, start, end)
        except FileNotFoundError:
            return b""


class CountsTheEndIn(AroundObjects):
    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        return super().get(key, start, end if end is None else end + 1)


class RefusesRanges(AroundObjects):
    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        if start is not None and start >= len(super().get(key)):
            raise ValueError("416")
        return super().get(key, start, end)


class ListsFoldersFirst(AroundObjects):
    def list(self, prefix: str, page: str | None = None) -> Page:
        found = super().list(prefix, page)
        return Page(sorted(found.keys, key=lambda key: key.split("/")), found.next)


class ListsFolders(AroundObjects):
    def list(self, prefix: str, page: str | None = None) -> Page:
        return super().list(prefix.rstrip("/") + "/", page)


class RepeatsKeys(AroundObjects):
    def list(self, prefix: str, page: str | None = None) -> Page:
        return super().list(prefix, page[:-1] if page else None)


class MissesMissing(AroundObjects):
    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        for key in keys:
            super().get(key)
        return super().delete(keys)


class DeletesBelow(AroundObjects):
    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        return super().delete([each for key in keys for each in (key, *self.list(key).keys)])


class Caches(AroundObjects):
    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        self.kept: dict[str, bytes] = {}

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self.kept.setdefault(key, super().get(key))
        return self.kept[key][start:end]


class Tears(AroundObjects):
    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        super().put(key, bytes(body)[: len(body) // 2])
        time.sleep(0.02)
        super().put(key, body)


MESSAGES: list[tuple[type[AroundMessages], str]] = [
    (Misroutes, "test_arrives_at_its_rank_only"),
    (Loses, "test_everything_arrives"),
    (Loses, "test_threads_lose_nothing"),
    (Strips, "test_bodies_survive"),
    (DeliversTwice, "test_not_again_before_its_lease_ended"),
    (NeverAgain, "test_unacknowledged_comes_again"),
    (NeverAcks, "test_acknowledged_stays_away"),
    (Sleeps, "test_receive_returns_when_one_is_there"),
    (HasNoPatience, "test_receive_is_empty_after_its_wait"),
    (KnowsNoLimit, "test_receive_keeps_to_its_limit"),
    (KnowsNoLimit, "test_publish_refuses_one_more"),
    (KnowsNoLimit, "test_message_of_the_largest_size"),
    (KnowsNoLimit, "test_batch_of_the_largest_size"),
    (RefusesFullBatches, "test_publish_takes_a_full_batch"),
    (MindsStaleTokens, "test_ack_twice_is_harmless"),
    (MindsStaleTokens, "test_ack_after_the_lease_is_harmless"),
    (HasAnyQueue, "test_no_such_queue"),
    (ClosesOnce, "test_closes_twice"),
    (ClassifiesSome, "test_classify_takes_any_error"),
]
OBJECTS: list[tuple[type[AroundObjects], str]] = [
    (Overwrites, "test_one_create_wins"),
    (Overwrites, "test_create_of_what_is_there"),
    (FindsNothing, "test_missing"),
    (FindsNothing, "test_get_of_a_missing_key"),
    (CountsTheEndIn, "test_ranges"),
    (RefusesRanges, "test_ranges"),
    (ListsFoldersFirst, "test_list_is_in_order"),
    (ListsFolders, "test_list_is_by_prefix"),
    (RepeatsKeys, "test_list_over_pages"),
    (MissesMissing, "test_delete"),
    (MissesMissing, "test_delete_takes_a_full_batch"),
    (DeletesBelow, "test_delete"),
    (Caches, "test_read_after_write"),
    (Tears, "test_whole_or_none"),
]


@pytest.fixture
def local(tmp_path: Path) -> Deployed:
    harness = LocalHarness()
    settings = harness.settings(tmp_path)
    provisioner = harness.provider().provisioner(settings)
    return Deployed(harness.provider(), provisioner, settings, provisioner.ensure("broken", 3, 2))


@pytest.mark.parametrize(("defect", "case"), MESSAGES)
def test_broken_messages_fail(local: Deployed, defect: type[AroundMessages], case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsd_conformance.messages, "_patience", lambda _: 4.0)  # seconds until what is lost is missed

    class Broken(MessageCases):
        harness = LocalHarness()

        def wrap(self, driver: MessageDriver) -> MessageDriver:
            return defect(driver)

    cases = Broken()
    assert fails(getattr(cases, case), deployed=local, driver=cases.open(local, 0))


@pytest.mark.parametrize(("defect", "case"), OBJECTS)
def test_broken_objects_fail(local: Deployed, defect: type[AroundObjects], case: str) -> None:
    class Broken(ObjectCases):
        harness = LocalHarness()

        def wrap(self, driver: ObjectDriver) -> ObjectDriver:
            return defect(driver)

    cases = Broken()
    driver = cases.wrap(local.provider.objects(local.resources))
    store = Store(driver, fsd_conformance.base.new_retry())
    assert fails(getattr(cases, case), deployed=local, driver=driver, store=store, at="t/x/")


def fails(case: Callable[..., None], **fixtures: Any) -> bool:
    """Whether a case fails; its arguments are those of ``fixtures`` that it names. A skip is no failure."""
    names = case.__code__.co_varnames[1 : case.__code__.co_argcount]
    try:
        case(**{name: fixtures[name] for name in names})
    except (Exception, pytest.fail.Exception):
        return True
    return False
