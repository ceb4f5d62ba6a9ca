"""The folder as an object store: whole objects, one winner, ordered pages, processes that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsd_core.driver import Code
from fsd_local.objects import LocalObjects
from fsd_local.provision import LocalProvisioner

fork = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> LocalObjects:
    return LocalObjects(LocalProvisioner({"root": str(tmp_path)}).ensure("app", 1, 1).names["root"])


def every(store: LocalObjects, prefix: str = "") -> list[str]:
    keys: list[str] = []
    page = store.list(prefix)
    while True:
        keys += page.keys
        if page.next is None:
            return keys
        page = store.list(prefix, page.next)


def code(store: LocalObjects, call: object, *arguments: object, **named: object) -> Code:
    with pytest.raises((OSError, ValueError)) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return store.classify(caught.value)


def test_put_get_ranges_replace_delete(store: LocalObjects) -> None:
    store.put("a", b"0123456789")
    assert store.get("a") == b"0123456789"
    assert code(store, store.put, "a", b"", if_absent=True) is Code.ALREADY_EXISTS
    assert (store.get("a", 3), store.get("a", 3, 5), store.get("a", end=2)) == (b"3456789", b"34", b"01")
    assert (store.get("a", 8, 99), store.get("a", 10), store.get("a", 50, 60), store.get("a", 4, 4)) == (b"89", b"", b"", b"")
    store.put("a", memoryview(bytearray(b"new")))
    assert store.get("a") == b"new"
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.delete(["a", "never there"]) == []
    assert code(store, store.get, "a") is Code.NOT_FOUND


def test_a_key_and_keys_below_it(store: LocalObjects) -> None:
    keys = ["a", "a/b", "a/b/c", "a-b", "A/b", "a0", "x" * 64, "x" * 64 + "/y", "x" * 64 + "-", "x" * 512, ".hidden", "a b%41+,=/=,+"]
    for key in keys:
        store.put(key, key.encode(), if_absent=True)
    assert every(store) == sorted(keys)
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]
    assert store.list("a/").keys == ["a/b", "a/b/c"]
    assert store.list("nothing/here").keys == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "ä", "a\nb", "a\0", "x" * 513])
def test_invalid_keys(store: LocalObjects, key: str) -> None:
    assert code(store, store.put, key, b"") is Code.INVALID
    assert code(store, store.get, key) is Code.INVALID
    assert code(store, store.delete, [key]) is Code.INVALID


def test_prefixes_cannot_leave_the_store(store: LocalObjects) -> None:
    store.put("a", b"")
    assert [store.list(prefix).keys for prefix in ("../", "../objects/", "/", "a/../")] == [[], [], [], []]


segments = st.text("ab/-.%+=,0A", min_size=1, max_size=4) | st.sampled_from(["x" * 63, "x" * 64, "x" * 65, "x" * 130])
valid = st.builds("".join, st.lists(segments, min_size=1, max_size=3)).filter(
    lambda k: all(s and s not in (".", "..") for s in k.split("/"))
)


@settings(max_examples=60)
@given(keys=st.sets(valid, max_size=12), prefix=st.just("") | segments | valid, page=st.integers(1, 5))
def test_lists_are_ordered_and_whole_over_pages(tmp_path_factory: pytest.TempPathFactory, keys: set[str], prefix: str, page: int) -> None:
    resources = LocalProvisioner({"root": str(tmp_path_factory.mktemp("lists"))}).ensure("app", 1, 1)
    store = LocalObjects(resources.names["root"])
    store.limits = attrs.evolve(store.limits, page_keys=page)
    for key in keys:
        store.put(key, b"")
    assert every(store, prefix) == sorted(k for k in keys if k.startswith(prefix))


def test_exactly_one_of_16_processes_wins(store: LocalObjects) -> None:
    rounds, gate, won = 20, fork.Barrier(16), fork.Queue()

    def run(number: int) -> None:
        mine = []
        for turn in range(rounds):
            gate.wait()
            try:
                store.put(f"claims/{turn}", f"{number}".encode() * 1000, if_absent=True)
                mine.append(turn)
            except FileExistsError:
                seen = store.get(f"claims/{turn}").decode()  # whole, and there
                assert seen == seen[: len(seen) // 1000] * 1000
        won.put((number, mine))

    runners = [fork.Process(target=run, args=(n,)) for n in range(16)]
    for runner in runners:
        runner.start()
    winners = dict(won.get(timeout=100) for _ in runners)
    for runner in runners:
        runner.join()
        assert runner.exitcode == 0
    assert sorted(turn for turns in winners.values() for turn in turns) == list(range(rounds))
    assert all(store.get(f"claims/{turn}") == f"{number}".encode() * 1000 for number, turns in winners.items() for turn in turns)


def test_killed_writers_leave_whole_objects_and_nothing_in_lists(store: LocalObjects, tmp_path: Path) -> None:
    def write() -> None:
        while True:
            for letter in b"abc":
                store.put("big", bytes([letter]) * 3_000_000)

    for _ in range(5):
        writer = fork.Process(target=write)
        writer.start()
        seen, deadline = 0, time.monotonic() + 60
        while seen < 5 and time.monotonic() < deadline:
            try:
                body = store.get("big")
            except FileNotFoundError:
                continue
            assert len(body) == 3_000_000
            assert body.count(body[:1]) == len(body)
            seen += 1
        assert seen == 5
        assert writer.pid
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    assert every(store) == ["big"]
    body = store.get("big")
    assert body == body[:1] * 3_000_000


def test_puts_and_deletes_of_neighbours_do_not_disturb_each_other(store: LocalObjects, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for turn in range(150):
                key = f"deep/er/est/{number}"
                store.put(key, str(turn).encode(), if_absent=True)
                assert store.get(key) == str(turn).encode()
                assert store.delete([key]) == []
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(store.native()) == []  # no empty directories pile up


def test_a_destroyed_app_stays_so(store: LocalObjects, tmp_path: Path) -> None:
    store.put("a/b", b"1")
    LocalProvisioner({"root": str(tmp_path)}).destroy("app")
    assert code(store, store.put, "a/b", b"2") is Code.NOT_FOUND
    assert code(store, store.get, "a/b") is Code.NOT_FOUND
    assert code(store, store.list, "") is Code.NOT_FOUND
    assert os.listdir(tmp_path) == []


def test_limits(store: LocalObjects) -> None:
    store.limits = attrs.evolve(store.limits, object_bytes=10, delete_keys=2)
    assert code(store, store.put, "a", b"x" * 11) is Code.TOO_LARGE
    assert code(store, store.delete, []) is Code.INVALID
    assert code(store, store.delete, ["a", "b", "c"]) is Code.INVALID
    store.put("a", b"x" * 10)
    assert code(store, store.get, "a", -1) is Code.INVALID
    assert code(store, store.get, "a", 3, 2) is Code.INVALID
