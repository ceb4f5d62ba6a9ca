"""Each driver here breaks one rule of the contract, and the case for that rule must fail: this shows that a case can fail."""

import contextlib
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import fsd_conformance.messages
import fsd_conformance.traffic
import fsd_core.channel.packing
import fsd_core.channel.queue
from fsd_conformance import ChannelCases, MessageCases, ObjectCases, ProvisionCases
from fsd_conformance.base import Deployed
from fsd_conformance.local import LocalHarness
from fsd_core.channel import QueueChannel
from fsd_core.channel.frames import _HEADER, HEADER_BYTES
from fsd_core.driver import Code, Delivery, Message, MessageDriver, ObjectDriver, Page, Rejected
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundMessages, AroundObjects


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
        self.limits = evolve(driver.limits, wait_s=2.0)

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


class RefusesAll(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        super().publish(messages)
        return [Rejected(index, Code.THROTTLED, "too many") for index in range(len(messages))]


class RefusesNobody(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        return [*super().publish(messages), Rejected(len(messages), Code.THROTTLED, "one more")]


class RefusesAllAcks(AroundMessages):
    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        super().ack(rank, tokens)
        return [Rejected(index, Code.THROTTLED, "too many") for index in range(len(tokens))]


class IsSilentOfRefusals(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        with contextlib.suppress(OSError):
            super().publish(messages)
        return []


class IsSilentOfRefusedAcks(AroundMessages):
    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        super().ack(rank, tokens)
        return []


class NamesOthers(AroundMessages):
    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        return [evolve(each, index=each.index - 1) for each in super().ack(rank, tokens)]


class TakesNoneIfNotAll(AroundMessages):
    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        if super().ack(rank, tokens[1:2]):
            return [Rejected(1, Code.UNAVAILABLE, "refused")]
        return super().ack(rank, tokens)


class RoutesAnew(AroundMessages):
    def route(self, rank: int) -> object:
        return object()


class RoutesByDriver(AroundMessages):
    def route(self, rank: int) -> object:
        return id(self)


class RoutesApart(AroundMessages):
    def route(self, rank: int) -> int:
        return rank


class RoutesTogether(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        return super().publish([Message(messages[0].rank, each.body) for each in messages])


class HearsItselfOnly(AroundMessages):
    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        return super().publish([Message(each.rank, b"%d " % id(self) + each.body) for each in messages])

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        return [Delivery(each.token, each.body.removeprefix(b"%d " % id(self))) for each in super().receive(rank, limit, wait_s)]


class IsItsOwnNative(AroundMessages):
    def native(self) -> object:
        return self


class IsItsOwnNativeStore(AroundObjects):
    def native(self) -> object:
        return self


class LeadsElsewhere(AroundObjects):
    def native(self) -> object:
        return Path("/nowhere")


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


class TakesConflictsForLosses(AroundObjects):
    asked = 0

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        self.asked += if_absent
        if self.asked <= 16:
            raise FileExistsError(f"409 {key}")
        super().put(key, body, if_absent=if_absent)


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
    (RefusesAll, "test_publish_takes_a_full_batch"),
    (RefusesNobody, "test_publish_takes_a_full_batch"),
    (RefusesAllAcks, "test_publish_takes_a_full_batch"),
    (IsSilentOfRefusals, "test_refused_entries_are_reported"),
    (IsSilentOfRefusedAcks, "test_refused_entries_are_reported"),
    (NamesOthers, "test_refused_entries_are_reported"),
    (TakesNoneIfNotAll, "test_refused_entries_are_reported"),
    (RoutesAnew, "test_route_is_what_one_publish_reaches"),
    (RoutesByDriver, "test_route_is_what_one_publish_reaches"),
    (RoutesApart, "test_route_is_what_one_publish_reaches"),
    (RoutesTogether, "test_route_is_what_one_publish_reaches"),
    (HearsItselfOnly, "test_drivers_with_direct_and_without_share_their_queues"),
    (IsItsOwnNative, "test_native_is_there"),
    (MindsStaleTokens, "test_ack_twice_is_harmless"),
    (MindsStaleTokens, "test_ack_after_the_lease_is_harmless"),
    (HasAnyQueue, "test_no_such_queue"),
    (ClosesOnce, "test_closes_twice"),
    (ClassifiesSome, "test_classify_takes_any_error"),
]
OBJECTS: list[tuple[type[AroundObjects], str]] = [
    (Overwrites, "test_one_create_wins"),
    (Overwrites, "test_one_create_wins_over_conflicts"),
    (TakesConflictsForLosses, "test_one_create_wins_over_conflicts"),
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
    (IsItsOwnNativeStore, "test_native_is_there"),
    (LeadsElsewhere, "test_native_is_there"),
]


@pytest.fixture
def local(tmp_path: Path, request: pytest.FixtureRequest) -> Deployed:
    harness = LocalHarness()
    settings = dict(harness.settings(tmp_path))
    if request.node.name.startswith("test_broken_messages_fail[DeliversTwice"):
        settings["lease_s"] = 20.0  # or a busy machine's second delivery would be in time
    provisioner = harness.provider().provisioner(settings)
    return Deployed(harness.provider(), provisioner, settings, provisioner.ensure("broken", 3, 2))


def messages_fail(local: Deployed, defect: type[AroundMessages], case: str) -> bool:
    class Broken(MessageCases):
        harness = LocalHarness()

        def wrap(self, driver: MessageDriver) -> MessageDriver:
            return defect(driver)

    cases = Broken()
    return fails(getattr(cases, case), deployed=local, driver=cases.open(local, 0))


def objects_fail(local: Deployed, defect: type[AroundObjects], case: str) -> bool:
    class Broken(ObjectCases):
        harness = LocalHarness()

        def wrap(self, driver: ObjectDriver) -> ObjectDriver:
            return defect(driver)

    cases = Broken()
    driver = cases.wrap(local.provider.objects(local.resources))
    store = Store(driver, fsd_conformance.base.new_retry())
    return fails(getattr(cases, case), deployed=local, driver=driver, store=store, at=f"t/{case}/")


@pytest.mark.parametrize(("defect", "case"), MESSAGES)
def test_broken_messages_fail(local: Deployed, defect: type[AroundMessages], case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fsd_conformance.messages, fsd_conformance.traffic):
        monkeypatch.setattr(module, "patience", lambda _: 4.0)  # seconds until what is lost is missed
    assert messages_fail(local, defect, case)


@pytest.mark.parametrize(("defect", "case"), OBJECTS)
def test_broken_objects_fail(local: Deployed, defect: type[AroundObjects], case: str) -> None:
    assert objects_fail(local, defect, case)


def test_what_is_whole_does_not_fail(local: Deployed) -> None:
    """One case of each kind passes with a driver without a defect: so the failures above come from the defects."""
    for case in ("test_native_is_there", "test_publish_takes_a_full_batch", "test_refused_entries_are_reported"):
        assert not messages_fail(local, AroundMessages, case)
    for case in ("test_native_is_there", "test_delete", "test_get_of_a_missing_key"):
        assert not objects_fail(local, AroundObjects, case)


def hears_all(self: QueueChannel, delivery: Delivery, _: object) -> None:
    step, source = _HEADER.unpack_from(delivery.body)[7:9]
    self.mailbox.deliver(step, source, delivery.body[HEADER_BYTES:])


def packs_by_count(sizes: Sequence[int], count: int, _: int) -> Iterator[range]:
    return (range(at, min(at + count, len(sizes))) for at in range(0, len(sizes), count))


def sends_all_again(self: Retry, _: MessageDriver, what: str, items: Sequence[Any], request: Callable[..., Sequence[Rejected]]) -> None:
    while request(items):
        self.pause(0)


CHANNELS: list[tuple[object, str, Callable[..., object], str]] = [
    (QueueChannel, "_take", hears_all, "test_only_its_own_run_is_heard"),
    (QueueChannel, "_take", hears_all, "test_a_newer_runs_message_is_left_to_it"),
    (QueueChannel, "_take", hears_all, "test_damaged_and_forged_messages_are_dropped"),
    (fsd_core.channel.packing, "fill", packs_by_count, "test_a_payload_over_the_batch_size_is_split"),
    (Retry, "entries", sends_all_again, "test_refused_entries_alone_are_sent_again"),
]


@pytest.mark.parametrize(("where", "name", "defect", "case"), CHANNELS)
def test_broken_channels_fail(
    local: Deployed, where: object, name: str, defect: Callable[..., object], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(ChannelCases):
        harness = LocalHarness()
        within_s = 4.0

    monkeypatch.setattr(where, name, defect)
    cases = Mine()
    with cases.making(local) as make:
        assert fails(getattr(cases, case), make=make)


class Http(AroundObjects):
    """A store behind an HTTP address. The driver requests ``attempts`` times before it raises the error."""

    attempts = 1

    def __init__(self, driver: ObjectDriver, url: str) -> None:
        super().__init__(driver)
        self.url = url

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        for _ in range(self.attempts - 1):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/{key}")
        with urllib.request.urlopen(f"{self.url}/{key}") as response:
            return bytes(response.read())

    def classify(self, error: BaseException) -> Code:
        return Code.UNAVAILABLE if isinstance(error, urllib.error.HTTPError) and error.code == 503 else super().classify(error)


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_driver_that_retries_fails(local: Deployed, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reachable(LocalHarness):
        def objects_at(self, url: str) -> ObjectDriver:
            return Http(local.provider.objects(local.resources), url)

    class Mine(ProvisionCases):
        harness = Reachable()

    monkeypatch.setattr(Http, "attempts", attempts)
    assert fails(Mine().test_no_driver_retries) == (attempts > 1)


class Raw(AroundObjects):
    """A store behind an address, with a protocol that is not HTTP. The driver connects ``attempts`` times before it raises the error."""

    attempts = 1

    def __init__(self, driver: ObjectDriver, url: str) -> None:
        super().__init__(driver)
        self.url = urllib.parse.urlsplit(url)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        answer = b""
        for _ in range(self.attempts):
            with socket.create_connection((self.url.hostname, self.url.port)) as connection:
                connection.sendall(b"*2\r\n$3\r\nGET\r\n")
                with contextlib.suppress(ConnectionError):
                    answer += connection.recv(100)
        if not answer:
            raise ConnectionError("closed")
        return answer

    def classify(self, error: BaseException) -> Code:
        return Code.UNAVAILABLE if isinstance(error, ConnectionError) else super().classify(error)


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_driver_of_another_protocol_that_retries_fails(local: Deployed, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reachable(LocalHarness):
        def objects_at(self, url: str) -> ObjectDriver:
            return Raw(local.provider.objects(local.resources), url)

    class Mine(ProvisionCases):
        harness = Reachable()

    monkeypatch.setattr(Raw, "attempts", attempts)
    assert fails(Mine().test_no_driver_retries) == (attempts > 1)


def fails(case: Callable[..., None], **fixtures: Any) -> bool:
    """Whether a case fails. It gets the ``fixtures`` that its parameters name. A case that is skipped is an error here."""
    given = {name: fixtures[name] for name in case.__code__.co_varnames[1 : case.__code__.co_argcount]}
    try:
        case(**given)
    except pytest.skip.Exception as skipped:
        pytest.fail(f"{case.__name__} was skipped: {skipped}")
    except (Exception, pytest.fail.Exception):
        return True
    return False
