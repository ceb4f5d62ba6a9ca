"""What provisioners share: requests with a deadline, probes of queues and of the function, on this machine's provider."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from fsd_core.common.crew import each
from fsd_core.driver import Code, Launch, Message, MessageDriver, Rejected, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.addresses import elsewhere
from fsd_core.providers.app_name import check_app, check_size
from fsd_core.providers.names import generation_of, new_generation, queue_name, shortened
from fsd_core.providers.probes import PROBE, probe_function, probe_queues
from fsd_core.providers.provisioning import _forgotten, remove_store
from fsd_core.providers.requests import Requests, reporting_to
from fsd_core.providers.settings import FORGOTTEN, RETENTION
from fsd_local import LocalProvider
from fsd_local.errors import classify
from fsd_local.invoke import LocalInvoker, LocalLaunch
from fsd_local.messages import LocalMessages


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["", "https://sqs.eu-west-1.amazonaws.com"], None),
        (["https://x.vpce.amazonaws.com", "http://user:secret@localhost:4566/p?q=secret"], "localhost:4566"),
        (["127.0.0.1:8085"], "127.0.0.1:8085"),
        (["sb://host;x"], "host;x"),
        (["http://notamazonaws.com"], "notamazonaws.com"),
    ],
)
def test_where_an_address_leads(addresses: list[str], found: str | None) -> None:
    assert elsewhere(addresses, "amazonaws.com") == found


@pytest.mark.parametrize("address", ["http://[bad", "localhost:http", "http://h:99999"])
def test_an_address_that_leads_nowhere_is_told(address: str) -> None:
    with pytest.raises(InputError, match="malformed"):
        elsewhere([address], "amazonaws.com")


def advice(error: BaseException) -> str | None:
    return "plug it in" if isinstance(error, PermissionError | ProcessLookupError) else None


def requests() -> Requests:
    return Requests(classify, advice, (ProcessLookupError,))


def failing(*errors: BaseException) -> Callable[[], str]:
    """A request that ends with each error in turn, and then well."""
    left = list(errors)

    def request() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return request


def test_a_transient_error_is_repeated() -> None:
    with requests() as ours:
        assert ours.repeat("it", failing(ConnectionResetError(), ConnectionResetError())) == "done"
        assert ours.retry.meter.snapshot()["retries"] == 2


def test_an_error_says_what_to_do() -> None:
    with requests() as ours:
        with pytest.raises(DriverError, match=r"it: PermissionError: .*: plug it in$") as denied:
            ours.repeat("it", failing(PermissionError(13, "no")))
        assert denied.value.code is Code.DENIED
        assert isinstance(denied.value.__cause__, PermissionError)
        with pytest.raises(DriverError, match=r"it: FileExistsError: \[Errno 17\] there$"):
            ours.repeat("it", failing(FileExistsError(17, "there")))


def test_what_is_not_set_up_is_the_users_to_set_up() -> None:
    with requests() as ours, pytest.raises(InputError, match=r"^\[Errno 3\] nobody: plug it in$"):
        ours.repeat("it", failing(ProcessLookupError(3, "nobody")))


def test_unless() -> None:
    with requests() as ours:
        assert ours.unless(Code.NOT_FOUND, "it", failing(FileNotFoundError(2, "gone"))) is None
        assert ours.unless(Code.NOT_FOUND, "it", failing()) == "done"
        with pytest.raises(DriverError, match="there"):
            ours.unless(Code.NOT_FOUND, "it", failing(FileExistsError(17, "there")))


def test_many_at_a_time_and_the_first_error() -> None:
    together = threading.Barrier(4, timeout=30)
    with requests() as ours:
        assert sorted(ours.each(lambda _: together.wait(), range(4))) == [0, 1, 2, 3]  # each waits for the others
        with pytest.raises(ZeroDivisionError):
            ours.each(lambda item: 1 // item, [1, 0, 2])
    begun: list[int] = []

    def failing_first(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each(failing_first, range(1000), 1)
    assert begun == [0]  # after an error nothing more is begun


def test_what_never_comes_is_waited_for_until_the_deadline() -> None:
    with requests() as ours:
        seen = iter([None, None, "there"])
        assert ours.until("it", lambda: next(seen)) == "there"
        ours.within(0.2)
        with pytest.raises(DriverError, match="it: took longer than its time limit") as late:
            ours.until("it", lambda: None)
    assert late.value.code is Code.DEADLINE


def test_a_limit_is_named_by_what_it_ended() -> None:
    with requests() as ours:
        ours.within(0.2, "provisioning took longer than 0.2 s")
        with pytest.raises(DriverError, match=r"^DEADLINE: provisioning took longer than 0.2 s: it$"):
            ours.until("it", lambda: None)
        with pytest.raises(DriverError, match=r"^DEADLINE: provisioning took longer than 0.2 s: it: ConnectionResetError"):
            ours.repeat("it", failing(*(ConnectionResetError() for _ in range(1000))))
        with pytest.raises(DriverError, match=r"^DENIED: it: PermissionError"):
            ours.repeat("it", failing(PermissionError(13, "no")))


def test_what_takes_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsd_core.providers.requests._REPORT_S", 0.01)
    told: list[str] = []
    seen = iter([None, None, None, "there"])
    with reporting_to(told.append), requests() as ours:
        ours.until("the queue", lambda: next(seen))
    with requests() as ours:
        ours.until("the topic", lambda: next(iter(["there"])))
    assert told
    assert all(text.endswith(" s: the queue") for text in told)


def test_an_interrupt_waits_for_no_request() -> None:
    """Neither at the end of the block nor at that of the process."""
    code = (
        "import threading, time, _thread\n"
        "from fsd_core.providers.requests import Requests\n"
        "def request(number):\n"
        "    if number == 3:\n"
        "        _thread.interrupt_main()\n"
        "    time.sleep(600)\n"
        "closed = []\n"
        "try:\n"
        "    with Requests(lambda error: None, lambda error: None) as ours:\n"
        "        ours.closing.callback(closed.append, True)\n"
        "        ours.each(request, range(40))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', closed)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout == "interrupted [True]\n"


def test_clients_are_closed_after_the_last_request() -> None:
    said: list[str] = []
    started = threading.Event()

    def slow(number: int) -> None:
        if number == 1:
            assert started.wait(30)
            raise ZeroDivisionError
        started.set()
        time.sleep(0.05)
        said.append("request")

    with requests() as ours:
        ours.closing.callback(said.append, "first client")
        ours.closing.callback(said.append, "second client")
        with pytest.raises(ZeroDivisionError):
            ours.each(slow, [0, 1])
    assert said == ["request", "second client", "first client"]


class Odd(LocalProvider):
    """This machine with other queues, or other functions."""

    def __init__(self, messages: type[LocalMessages] = LocalMessages, invoker: type[LocalInvoker] = LocalInvoker) -> None:
        self._messages, self._invoker = messages, invoker

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        return self._messages(resources.names["root"], slot, float(resources.names["lease_s"]))

    def invoker(self, resources: Resources) -> LocalInvoker:
        return self._invoker(resources)


@pytest.fixture
def app(tmp_path: Path) -> Resources:
    return LocalProvider().provisioner({"root": str(tmp_path)}).ensure("app", 5, 2)


def test_every_queue_is_probed_and_left_empty(app: Resources) -> None:
    published: list[tuple[str, list[int]]] = []

    class Recorded(LocalMessages):
        def __init__(self, root: str, slot: int, lease_s: float) -> None:
            super().__init__(root, slot, lease_s)
            self.limits = evolve(self.limits, batch_messages=4, batch_bytes=100, overhead_bytes=7)  # 3 of 26 + 7 bytes

        def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
            published.append((self._slot[-1], [message.rank for message in messages]))
            return super().publish(messages)

    provider = Odd(Recorded)
    stale = provider.messages(app, 1)
    for _ in range(6):
        stale.publish([Message(4, PROBE + b"of a client that died")])
    published.clear()
    pairs = [(slot, rank) for slot in range(2) for rank in range(5)]
    with requests() as ours:
        ours.within(60)
        probe_queues(provider, app, pairs, ours)
    assert sorted(published)[:4] == [("0", [0, 1, 2]), ("0", [3, 4]), ("1", [0, 1, 2]), ("1", [3, 4])]
    queues = [Path(provider.messages(app, slot).native(), str(rank)) for slot, rank in pairs]  # type: ignore[arg-type]
    assert [os.listdir(queue / part) for queue in queues for part in ("new", "leased")] == [[]] * 2 * len(pairs)


def test_a_queue_that_does_not_deliver_is_named(app: Resources) -> None:
    class Deaf(LocalMessages):
        def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
            return super().publish([message for message in messages if message.rank != 3] or [Message(0, PROBE)])

    with requests() as ours:
        ours.within(3)
        with pytest.raises(DriverError, match="slot 1, ranks 2, 3: a message to each queue: took longer"):
            probe_queues(Odd(Deaf), app, [(1, 2), (1, 3)], ours)


def test_a_function_that_runs_is_tried_out(app: Resources) -> None:
    with requests() as ours:
        ours.within(60)
        probe_function(LocalProvider(), app, ours, "nothing")
    assert LocalProvider().objects(app).list("").keys == []


def test_a_function_that_does_not_run_is_named(app: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost:
        def poll(self) -> Code | None:
            return Code.DENIED

    class Loses(LocalInvoker):
        def invoke(self, function: str, payload: bytes) -> LocalLaunch:
            lost: Launch = Lost()
            return lost  # type: ignore[return-value]

    monkeypatch.setattr("fsd_core.providers.probes._READY_S", 0.5)
    with requests() as ours:
        ours.within(60)
        with pytest.raises(DriverError, match=r"app 'app': the function was started and failed \(denied\): its log shows why$"):
            probe_function(Odd(invoker=Loses), app, ours, "its log")


def test_a_store_is_removed_after_the_last_object_of_a_late_worker(app: Resources) -> None:
    objects, removed = LocalProvider().objects(app), []
    objects.put("a/b", b"x")

    def remove() -> None:
        removed.append(objects.list("").keys)
        if len(removed) == 1:  # as if a worker wrote after the store was emptied
            objects.put("late", b"x")
            raise FileExistsError(17, "not empty")

    with requests() as ours:
        remove_store(ours, objects, "the store", remove)
    assert removed == [[], []]
    assert objects.list("").keys == []


def test_a_store_that_an_earlier_call_removed_is_no_error(app: Resources) -> None:
    def remove() -> None:
        raise FileNotFoundError(2, "no such bucket")

    with requests() as ours:
        remove_store(ours, LocalProvider().objects(app), "the store", remove)


@pytest.mark.parametrize("app", ["", "Upper", "-x", "x-", "1x", "a_b", "a" * 41, "a\n", "a/b"])
def test_names_that_no_cloud_takes(app: str) -> None:
    with pytest.raises(InputError, match="app "):
        check_app(app)


@pytest.mark.parametrize("app", ["a", "a-1", "a" * 40])
def test_names_that_every_cloud_takes(app: str) -> None:
    check_app(app)


@pytest.mark.parametrize(("ranks", "slots"), [(0, 1), (1, 0)])
def test_nothing_of_nothing(ranks: int, slots: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        check_size(ranks, slots)


@pytest.mark.parametrize("rest", ["0-3", "12-t0", "failed", "dead"])
def test_the_generation_in_a_name(rest: str) -> None:
    generation = new_generation()
    name = queue_name("a", generation, *rest.split("-"))
    assert generation_of("a", name) == generation_of("a", f"projects/p/topics/{name}") == generation
    assert generation_of("a", f"arn:aws:sns:eu-west-1:1:{name}") == generation
    assert generation_of("b", name) is None
    assert generation_of("a", queue_name("a-deadbeef", generation, *rest.split("-"))) is None  # of another app, whose name begins alike


def test_a_long_name_is_cut_and_stays_different() -> None:
    assert shortened("an-app", 6) == "an-app"
    cut = {shortened("a" * 30 + end, 20) for end in "bcd"}
    assert len(cut) == 3
    assert {len(name) for name in cut} == {20}


def test_a_longer_retention_remembers_what_the_shorter_one_may_have_removed() -> None:
    def forgotten(days: int, **had: str) -> dict[str, str]:
        return _forgotten(had, {RETENTION: str(days)})

    assert forgotten(30) == forgotten(30, **{RETENTION: "30"}) == forgotten(10, **{RETENTION: "30"}) == {}
    found = forgotten(365, **{RETENTION: "30"})
    assert 29.9 < (time.time() - int(found[FORGOTTEN])) / 86400 < 30.1
    assert forgotten(365, **{RETENTION: "30", FORGOTTEN: "99999999999"}) == {FORGOTTEN: "99999999999"}  # once for all
