"""Queues in a folder: leases, wake-ups, processes that die at the worst moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from fsd_core.driver import Code, Delivery, Message
from fsd_local.messages import LocalMessages
from fsd_local.provision import LocalProvisioner

fork = multiprocessing.get_context("fork")
LONG = 600.0  # a lease that no test outlives


@pytest.fixture
def root(tmp_path: Path) -> str:
    return LocalProvisioner({"root": str(tmp_path)}).ensure("app", 4, 2).names["root"]


def code(queue: LocalMessages, call: object, *arguments: object) -> Code:
    with pytest.raises((OSError, ValueError)) as caught:
        call(*arguments)  # type: ignore[operator]
    return queue.classify(caught.value)


def bodies(deliveries: object) -> list[bytes]:
    return sorted(d.body for d in deliveries)  # type: ignore[attr-defined]


def until_one(queue: LocalMessages, rank: int) -> list[Delivery]:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if found := list(queue.receive(rank, 10, 20)):
            return found
    raise AssertionError("nothing came")


def test_each_rank_and_slot_gets_its_own(root: str) -> None:
    first, second = LocalMessages(root, 0, LONG), LocalMessages(root, 1, LONG)
    assert first.publish([Message(0, b"a"), Message(2, b"\0"), Message(2, bytes(range(256)))]) == []
    assert first.route(0) == first.route(3)
    assert first.receive(1, 10, 0) == []
    assert second.receive(2, 10, 0) == []
    assert bodies(first.receive(0, 10, 0)) == [b"a"]
    assert bodies(first.receive(2, 10, 0)) == [b"\0", bytes(range(256))]
    assert first.receive(2, 10, 0.05) == []


def test_limits_and_order_of_a_backlog(root: str) -> None:
    queue = LocalMessages(root, 0, LONG)
    for start in range(0, 30, 10):
        queue.publish([Message(0, b"%d" % n) for n in range(start, start + 10)])
    taken = [queue.receive(0, limit, 0) for limit in (3, 10, 10, 10)]
    assert [len(t) for t in taken] == [3, 10, 10, 7]
    assert [d.body for t in taken for d in t] == [b"%d" % n for n in range(30)]
    assert len({d.token for t in taken for d in t}) == 30


def test_over_a_limit(root: str) -> None:
    queue = LocalMessages(root, 0, LONG)
    assert code(queue, queue.publish, [Message(0, bytes(256 * 1024 + 1))]) is Code.TOO_LARGE
    assert code(queue, queue.publish, [Message(0, bytes(150_000))] * 8) is Code.TOO_LARGE
    assert code(queue, queue.publish, [Message(0, b"")] * 11) is Code.INVALID
    assert code(queue, queue.publish, []) is Code.INVALID
    assert code(queue, queue.receive, 0, 11, 0) is Code.INVALID
    assert code(queue, queue.receive, 0, 1, 21) is Code.INVALID
    assert code(queue, queue.ack, 0, []) is Code.INVALID
    assert queue.receive(0, 10, 0) == []
    queue.publish([Message(0, bytes(256 * 1024))] * 4)
    assert len(queue.receive(0, 10, 0)) == 4


def test_no_such_queue(root: str, tmp_path: Path) -> None:
    queue, slot = LocalMessages(root, 0, LONG), LocalMessages(root, 2, LONG)
    assert code(queue, queue.publish, [Message(0, b"a"), Message(4, b"b")]) is Code.NOT_FOUND
    assert queue.receive(0, 10, 0) == []  # none of them went
    assert os.listdir(f"{root}/queues/0/0/tmp") == []
    assert code(queue, queue.publish, [Message(-1, b"a")]) is Code.NOT_FOUND
    assert code(queue, queue.receive, 4, 10, 0) is Code.NOT_FOUND
    assert code(slot, slot.publish, [Message(0, b"a")]) is Code.NOT_FOUND
    LocalProvisioner({"root": str(tmp_path)}).destroy("app")
    assert code(queue, queue.publish, [Message(0, b"a")]) is Code.NOT_FOUND
    assert code(queue, queue.receive, 0, 10, 0) is Code.NOT_FOUND


def test_acknowledged_is_gone_and_the_rest_comes_back(root: str) -> None:
    queue = LocalMessages(root, 0, 0.3)
    queue.publish([Message(0, b"a"), Message(0, b"b")])
    first = {d.body: d.token for d in queue.receive(0, 10, 0)}
    assert queue.ack(0, [first[b"a"]]) == []
    again = until_one(queue, 0)  # a wait that the end of the lease ends
    assert bodies(again) == [b"b"]
    assert queue.ack(0, [first[b"b"], first[b"a"]]) == []  # old tokens: harmless
    third = until_one(queue, 0)
    assert bodies(third) == [b"b"]
    assert queue.ack(0, [third[0].token]) == []
    assert os.listdir(f"{root}/queues/0/0/leased") == []


def test_strange_tokens(root: str) -> None:
    queue = LocalMessages(root, 0, LONG)
    rejected = queue.ack(0, ["../new/x", 7, "0.never-there"])
    assert [(r.index, r.code) for r in rejected] == [(0, Code.INVALID), (1, Code.INVALID)]


def test_publish_wakes_a_waiting_receiver_of_another_process(root: str) -> None:
    answers = fork.Queue()

    def wait() -> None:
        queue = LocalMessages(root, 0, LONG)  # with this lease nothing but the bell ends a wait early
        for _ in range(3):
            start = time.monotonic()
            found = queue.receive(1, 10, 20)
            answers.put((bodies(found), time.monotonic() - start))

    waiter = fork.Process(target=wait)
    waiter.start()
    queue = LocalMessages(root, 0, LONG)
    for number in range(3):
        time.sleep(0.3)
        queue.publish([Message(1, b"%d" % number)])
        found, waited = answers.get(timeout=100)
        assert found == [b"%d" % number]
        assert waited < 19
    waiter.join()


def test_waiting_costs_no_processor(root: str) -> None:
    start = time.process_time()
    assert LocalMessages(root, 0, 0.5).receive(0, 10, 2) == []
    assert time.process_time() - start < 1


def test_several_receivers_share_a_queue(root: str) -> None:
    results, total = fork.Queue(), fork.Value("i", 0)

    def drain() -> None:
        queue, mine = LocalMessages(root, 0, LONG), []
        while total.value < 300:
            found = queue.receive(0, 10, 0.1)
            mine += [d.body for d in found]
            with total.get_lock():
                total.value += len(found)
            if found:
                queue.ack(0, [d.token for d in found])
        results.put(mine)

    receivers = [fork.Process(target=drain) for _ in range(3)]
    for receiver in receivers:
        receiver.start()
    queue = LocalMessages(root, 0, LONG)
    for start in range(0, 300, 10):
        queue.publish([Message(0, b"%d" % n) for n in range(start, start + 10)])
    got = Counter(body for _ in receivers for body in results.get(timeout=100))
    for receiver in receivers:
        receiver.join()
    assert got == Counter(b"%d" % n for n in range(300))


def test_threads_share_a_driver(root: str) -> None:
    queue, got = LocalMessages(root, 0, LONG), list[tuple[int, bytes]]()

    def take(rank: int) -> None:
        while len(mine := [b for r, b in got if r == rank]) < 20:
            found = queue.receive(rank, 10, 20)
            got.extend((rank, d.body) for d in found)
            assert queue.ack(rank, [d.token for d in found]) == []
        assert len(set(mine)) == 20

    threads = [threading.Thread(target=take, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        queue.publish([Message(rank, b"%d" % number) for rank in range(4)])
    for thread in threads:
        thread.join()
    assert len(got) == len(set(got)) == 80


def test_a_receiver_killed_before_its_ack(root: str) -> None:
    taken = fork.Event()

    def take() -> None:
        assert LocalMessages(root, 0, 0.5).receive(0, 10, 20)
        taken.set()
        time.sleep(600)

    victim = fork.Process(target=take)
    victim.start()
    queue = LocalMessages(root, 0, 0.5)
    queue.publish([Message(0, b"a")])
    assert taken.wait(100)
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert bodies(until_one(queue, 0)) == [b"a"]


def test_a_publisher_killed_anywhere_leaves_whole_messages(root: str) -> None:
    def publish() -> None:
        queue, number = LocalMessages(root, 0, LONG), 0
        while True:
            queue.publish([Message(0, b"%c" % (97 + number % 26) * 100_000)] * 10)
            number += 1

    queue, seen = LocalMessages(root, 0, LONG), 0
    for _ in range(5):
        victim = fork.Process(target=publish)
        victim.start()
        first = until_one(queue, 0)
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        found = first
        while found:
            assert all(d.body == d.body[:1] * 100_000 for d in found)
            queue.ack(0, [d.token for d in found])
            seen += len(found)
            found = list(queue.receive(0, 10, 0))
    assert seen >= 5


def test_a_long_root(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["a-folder-with-a-long-name"] * 10)
    root = LocalProvisioner({"root": str(deep)}).ensure("app", 1, 1).names["root"]
    assert len(root) > 250
    queue = LocalMessages(root, 0, LONG)
    timer = threading.Timer(0.2, queue.publish, [[Message(0, b"a")]])
    timer.start()
    assert bodies(queue.receive(0, 10, 20)) == [b"a"]
    timer.join()


def test_a_full_receive_wakes_another_receiver(root: str) -> None:
    """It may have read the bytes in the pipe for which another receiver waits, and there may be more messages."""
    driver = LocalMessages(root, 0, 30.0)
    bell = os.open(f"{root}/queues/0/1/bell", os.O_RDWR | os.O_NONBLOCK)
    try:
        driver.publish([Message(1, b"a"), Message(1, b"b")])
        assert len(driver.receive(1, 1, 5.0)) == 1
        assert os.read(bell, 100)
        assert len(driver.receive(1, 10, 5.0)) == 1
        with pytest.raises(BlockingIOError):
            os.read(bell, 100)
    finally:
        os.close(bell)
