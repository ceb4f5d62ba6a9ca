"""What senders keep for ranks that may be lost, and how a new incarnation gets what ended sources left."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fsd_core.channel import kept_budget
from fsd_core.channel.frames import Kind
from fsd_core.channel.kept import KEPT_BYTES, RECORD_BYTES, Kept, Sent, Shelf, held_bytes, unpack
from fsd_core.common.sealed import Damaged, seal
from fsd_core.driver import Code, Resources
from fsd_core.errors import RunFailed
from fsd_core.protocol import records
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker.recovery import Recovery
from fsd_local import PROVIDER
from recovering import KEYS, Ends, Make, begin, channels, ended, hello, steps

Ended = Callable[..., None]


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    """Queues whose leases do not end while a test runs."""
    return PROVIDER.provisioner({"root": str(tmp_path), "lease_s": 3600}).ensure("recovery", 3, 1)


@pytest.fixture
def store(resources: Resources) -> Store:
    return Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))


@pytest.fixture
def make(resources: Resources, store: Store) -> Iterator[Make]:
    with channels(resources, store) as make:
        yield make


def test_what_is_kept_comes_back_from_a_record() -> None:
    kept = Kept(1000)
    for target, step in ((1, 0), (2, 0), (1, 3)):
        kept.add(Sent(target, step, Kind.PAYLOAD, b"%d/%d" % (target, step)))
    assert kept.peak_bytes == 9
    assert steps(kept, 1, 1) == [3]
    body = records.join(seal({"rank": 0}), ended(kept)[1])
    record, left = records.kept(body)
    assert (record, [each.body for each in unpack(left, 1)]) == ({"rank": 0}, [b"1/0", b"1/3"])
    for at in range(len(left)):
        with pytest.raises(RunFailed, match="the payloads that a rank kept are damaged"):
            list(unpack(left[:at] + bytes([left[at] ^ 128]) + left[at + 1 :], 1))
    with pytest.raises(RunFailed, match="the payloads that a rank kept are damaged"):
        list(unpack(left[:-1], 1))
    with pytest.raises(Damaged):
        records.kept(b"x" + body)


def test_a_record_is_read_without_what_was_kept(store: Store) -> None:
    kept = Kept(KEPT_BYTES)
    kept.add(Sent(1, 0, Kind.PAYLOAD, b"x" * 400_000))
    for log in ("short", "l" * 300_000):
        store.put(KEYS.record(0), records.join(seal({"rank": 0, "log": log}), ended(kept)[1]))
        assert records.find(store, KEYS.record(0)) == {"rank": 0, "log": log}
    assert records.find(store, KEYS.record(1)) is None


def test_beyond_the_budget_nothing_is_kept() -> None:
    kept = Kept(10)
    kept.add(Sent(1, 0, Kind.PAYLOAD, b"x" * 10))
    assert steps(kept, 2, 0) == []
    kept.add(Sent(1, 1, Kind.PAYLOAD, b"x"))
    assert (kept.of(1, 0), kept.end(), kept.peak_bytes) == (None, None, 0)
    assert Kept(0).of(1, 0) is None
    large = Kept(KEPT_BYTES)
    large.add(Sent(1, 0, Kind.PAYLOAD, bytes(RECORD_BYTES + 1)))
    assert large.end() is None
    assert [held_bytes(*each) for each in ((7, 9), (70, 9), (7, KEPT_BYTES), (1 << 30, KEPT_BYTES))] == [7, 9, 7, 48 << 20]
    assert [kept_budget(*each) for each in ((None, 9), (1 << 30, 1 << 29), (100, 60), (60, 100))] == [KEPT_BYTES, KEPT_BYTES, 40, 0]


def test_what_exceeds_half_of_the_budget_is_in_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a rank works, from there; and after its end, from there and from its record."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 100)
    shelf = Shelf(store, KEYS, 1, 2)
    kept = Kept(100, shelf)
    for step in range(7):
        kept.add(Sent(step % 2, step, Kind.PAYLOAD, b"%d" % step * 20))
    assert (steps(kept, 0, 0), steps(kept, 0, 3), steps(kept, 1, 0)) == ([0, 2, 4, 6], [4, 6], [1, 3, 5])
    assert [len(list(unpack(shelf.get(number), target))) for number in range(3) for target in (0, 1)] == [1] * 6
    store.delete([KEYS.kept(1, 2, 0)])
    assert (steps(kept, 0, 3), steps(kept, 1, 5)) == ([4, 6], [5])  # of the objects, only those with such payloads are read
    assert 40 <= kept.peak_bytes <= 80  # two objects, if the one before is still on its way
    assert (ended(kept)[0], [each.step for each in unpack(ended(kept)[1], 0)]) == (3, [6])
    kept.add(Sent(0, 7, Kind.PAYLOAD, b"7" * 20))
    assert ended(kept) == (4, b"")  # too much for a record
    assert [each.body for each in unpack(shelf.get(3), 0)] == [b"6" * 20, b"7" * 20]


def test_a_payload_larger_than_half_of_the_budget_is_an_object_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a rank has at most its budget in memory, and one such payload."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 100)
    shelf = Shelf(store, KEYS, 1, 0)
    kept = Kept(100, shelf)
    for step, size in enumerate((40, 90, 10)):
        kept.add(Sent(0, step, Kind.PAYLOAD, bytes(size)))
    assert steps(kept, 0, 0) == [0, 1, 2]
    assert [[each.step for each in unpack(shelf.get(number), 0)] for number in (0, 1)] == [[0], [1]]


def test_what_is_kept_is_in_memory_once() -> None:
    """Also when it goes to the store or into a record: with copies, a worker would exceed its predicted memory."""
    kept, body = Kept(KEPT_BYTES), bytes(4 << 20)
    tracemalloc.start()
    try:
        for step in range(4):
            kept.add(Sent(1, step, Kind.PAYLOAD, body))
        left = ended(kept)[1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(left) > 4 * len(body)
    assert peak < 1.3 * len(left)  # the buffer grows by an eighth


def test_a_rank_that_goes_on_while_it_sends_again_copies_only_that() -> None:
    kept, body = Kept(KEPT_BYTES), bytes(1 << 20)
    for step in range(16):
        kept.add(Sent(step % 8, step, Kind.PAYLOAD, body))
    tracemalloc.start()
    try:
        parts = kept.of(1, 0)
        kept.add(Sent(1, 16, Kind.PAYLOAD, b"x"))  # not before the parts are read
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parts is not None
    assert [[each.step for each in part] for part in parts] == [[1, 9]]
    assert held < 24 << 20  # the buffer, which may be allocated anew, and two payloads


def test_a_new_incarnation_gets_what_its_sources_put_into_the_store(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one that works, and from one that has ended."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 100)
    sources = [make(rank, {}, kept=100, shelf=Shelf(store, KEYS, rank, 0)) for rank in (1, 2)]
    for step in range(4):
        for source in sources:
            source.send(step, [(0, b"%d" % step * 30)])
    sources[1].finish_sends()
    shelved, left = ended(sources[1].kept)
    store.put(KEYS.record(2), records.join(seal({"rank": 2, "incarnation": 0, "shelved": shelved}), left))
    with ThreadPoolExecutor(2) as pool:
        some = Recovery(store, KEYS, 0, 1, pool)
        some.on = True
        channel = make(0, {step: [1, 2] for step in range(4)}, 1)
        some.begin(channel, 3, [1, 2])
        sources[0].heed(hello(0, 1))
        for step in range(4):
            assert sorted(channel.receive(step)) == [(rank, b"%d" % step * 30) for rank in (1, 2)]


@pytest.fixture
def left(store: Store, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """A function that ends a rank after it has sent 20 bytes to each pair of a target and a step: three payloads fill an object."""
    monkeypatch.setattr("fsd_core.channel.kept.SHELF_BYTES", 130)

    def left(rank: int, sent: Sequence[tuple[int, int]], incarnation: int = 0) -> None:
        kept = Kept(130, Shelf(store, KEYS, rank, incarnation))
        for target, step in sent:
            kept.add(Sent(target, step, Kind.PAYLOAD, b"%d%d" % (rank, step) * 10))
        shelved, rest = ended(kept)
        store.put(KEYS.record(rank), records.join(seal({"rank": rank, "incarnation": incarnation, "shelved": shelved}), rest))

    return left


def read(driver: Ends) -> list[str]:
    """What was read of that which the sources left, since the last call: the numbers of objects, and the records."""
    found = [key.removeprefix(KEYS.prefix) for key in driver.got]
    driver.got = []
    return [key.rpartition("/")[2] if key.startswith("kept") else key for key in found if key.startswith(("kept", "record"))]


@pytest.fixture
def counting(store: Store) -> Ends:
    driver = store.driver = Ends(store.driver)
    return driver


def test_a_new_incarnation_reads_what_a_source_left_as_it_gets_on(make: Make, store: Store, left: Ended, counting: Ends) -> None:
    """So its memory holds one object of a source and not all of them. It reads the next one before it has to wait."""
    left(1, [(0, step) for step in range(7)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    counting.got = []
    some = begin(store, channel, [1])
    assert read(counting) == ["record/1", "0"]
    found = []
    for step in range(7):
        assert list(channel.receive(step)) == [(1, b"1%d" % step * 10)]
        found.append(read(counting))
        some.ask(step, [1])  # questions read nothing more
        assert read(counting) == []
    assert found == [[], [], ["1"], [], [], ["record/1"], []]


def test_objects_without_a_payload_for_a_rank_do_not_stop_it(make: Make, store: Store, left: Ended, counting: Ends) -> None:
    left(1, [(0, 0), *((2, step) for step in range(8)), (0, 9), (0, 10)])
    channel = make(0, {step: [1] for step in (0, 9, 10)}, 1)
    counting.got = []
    begin(store, channel, [1])
    assert read(counting) == ["record/1", "0"]
    assert list(channel.receive(0)) == [(1, b"10" * 10)]
    assert read(counting) == ["1", "2", "3"]
    assert [list(channel.receive(step)) for step in (9, 10)] == [[(1, b"19" * 10)], [(1, b"110" * 10)]]


def test_a_payload_that_lies_behind_those_of_later_steps_is_found(make: Make, store: Store, left: Ended) -> None:
    """As the notices of the hybrid channel may."""
    left(1, [(0, step) for step in (0, 2, 3, 4, 1, 5, 6)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    begin(store, channel, [1])
    assert [list(channel.receive(step)) for step in range(7)] == [[(1, b"1%d" % step * 10)] for step in range(7)]


def test_large_payloads_of_a_finished_source_come_one_at_a_time(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hybrid channel, one record may have the notices of the whole run: their payloads would not fit into the memory."""
    source = make(1, hybrid=True)
    monkeypatch.setattr(source, "publish_soon", lambda messages: None)  # the incarnation before has all messages
    for step in range(7):
        source.send(step, [(0, b"%d" % step * (source.piece_bytes + 1))])
        source.finish_sends()
    shelved, rest = ended(source.kept)
    store.put(KEYS.record(1), records.join(seal({"rank": 1, "incarnation": 0, "shelved": shelved}), rest))
    channel = make(0, {step: [1] for step in range(7)}, 1, hybrid=True)
    some, found = begin(store, channel, [1]), []
    for step in range(7):
        found.append(channel.mailbox.complete_until(1))
        assert list(channel.receive(step)) == [(1, b"%d" % step * (source.piece_bytes + 1))]
    assert found == [0, 1, 2, 3, 4, 5, None]
    assert some._left is not None
    assert some._left.read == {1}


def test_reads_of_what_was_left_wait_in_no_thread(make: Make, store: Store, left: Ended) -> None:
    """One thread is enough for many sources, and is free between the reads."""
    sources = range(1, 7)
    for source in sources:
        left(source, [(0, step) for step in range(7)])
    channel = make(0, {step: list(sources) for step in range(7)}, 1)
    with ThreadPoolExecutor(1) as pool:
        begin(store, channel, sources, pool)
        for step in range(7):
            assert sorted(channel.receive(step)) == [(source, b"%d%d" % (source, step) * 10) for source in sources]
            assert pool.submit(int).result(60) == 0


def test_a_second_function_of_a_source_may_end_while_the_first_ones_payloads_are_read(make: Make, store: Store, left: Ended) -> None:
    left(1, [(0, step) for step in range(7)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    begin(store, channel, [1])
    left(1, [(0, step) for step in range(1, 7)], 1)  # which puts other payloads into its objects
    assert [list(channel.receive(step)) for step in range(7)] == [[(1, b"1%d" % step * 10)] for step in range(7)]


def test_a_damaged_object_that_is_read_late_ends_the_run(make: Make, store: Store, left: Ended) -> None:
    left(1, [(0, step) for step in range(7)])
    channel = make(0, {step: [1] for step in range(7)}, 1)
    begin(store, channel, [1])
    store.put(KEYS.kept(1, 0, 1), b"x")
    with pytest.raises(RunFailed, match=r"the payloads that rank 1 left cannot be read: .*a rank kept are damaged"):
        [list(channel.receive(step)) for step in range(7)]


def test_a_read_that_fails_for_another_reason_ends_the_run(make: Make, store: Store, left: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the rank would wait until the stall limit."""
    left(1, [(0, 0)])

    def full(data: bytes, target: int) -> Iterator[Sent]:
        raise MemoryError

    monkeypatch.setattr("fsd_core.worker.left.unpack", full)
    channel = make(0, {0: [1]}, 1)
    begin(store, channel, [1])
    with pytest.raises(RunFailed, match="receiving failed: MemoryError"):
        list(channel.receive(0))


def test_a_thread_that_awaits_sendings_leaves_their_errors_to_the_rank(make: Make) -> None:
    channel = make(1)

    def fail() -> None:
        raise RunFailed(Code.UNAVAILABLE, "not sent")

    channel.submit(fail)
    for wait in (channel.await_sends, channel.finish_sends):
        with pytest.raises(RunFailed, match="not sent"):
            wait()


def test_an_exchange_object_stays_as_it_is(store: Store) -> None:
    store.put_once("x/1", b"first")
    store.put_once("x/1", b"second")
    assert store.get("x/1") == b"first"
