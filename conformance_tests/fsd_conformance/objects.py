"""Cases of `fsd_core.driver.ObjectDriver`."""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fsd_conformance.base import Deployed, DriverCases, eventually, new_retry, refused
from fsd_core.driver import Code, ObjectDriver
from fsd_core.storage.store import Store
from fsd_core.wrappers.faults import Faults, FaultyObjects

__all__ = ["ConsistencyCases", "ObjectCases"]


class ConsistencyCases(DriverCases):
    """The contract over several calls: requests are repeated like fsd_core repeats them."""

    kind = "objects"
    key_chars = 512  # the longest key
    prefix = ""  # the prefix that a wrapper adds to keys

    def wrap(self, driver: ObjectDriver) -> ObjectDriver:
        """Wrap the provider's driver, in groups that test a wrapper."""
        return driver

    @pytest.fixture
    def driver(self, deployed: Deployed) -> Iterator[ObjectDriver]:
        """A driver of the app's object store."""
        driver = self.wrap(deployed.provider.objects(deployed.resources))
        yield driver
        driver.close()

    @pytest.fixture
    def store(self, driver: ObjectDriver) -> Store:
        """The driver with core's retry layer around it."""
        return Store(driver, new_retry())

    @pytest.fixture
    def at(self) -> str:
        """A prefix of keys that no other case uses."""
        return f"t/{secrets.token_hex(6)}/"

    def test_native_is_there(self, deployed: Deployed, driver: ObjectDriver, store: Store, at: str) -> None:
        """`native` is the SDK's own client, which finds the object of a put."""
        store.put(f"{at}native", b"native")
        self.find_by_native(driver, deployed.resources, f"{self.prefix}{at}native")

    def test_read_after_write(self, deployed: Deployed, store: Store, at: str) -> None:
        """A get or list that starts after a put returned must see the new object: also another client, also after a replacement."""
        other = Store(self.wrap(deployed.provider.objects(deployed.resources)), store.retry)
        for number in range(5):
            body = secrets.token_bytes(1000 + number)
            store.put(f"{at}same", body)
            store.put(f"{at}new/{number}", body)
            for each in (store, other):
                assert each.get(f"{at}same") == body
                assert each.get(f"{at}new/{number}") == body
                assert list(each.keys(at)) == [f"{at}new/{n}" for n in range(number + 1)] + [f"{at}same"]
        other.driver.close()

    @pytest.mark.parametrize("size", [0, 1, 70_000, 8 << 20])
    def test_bodies_survive(self, store: Store, at: str, size: int) -> None:
        """A body of any bytes, from 0 bytes to 8 MiB, comes back unchanged."""
        body = random.Random(size).randbytes(size)
        store.put(f"{at}body", body)
        got = store.get(f"{at}body")
        assert len(got) == size
        assert got == body
        assert isinstance(got, bytes)

    def test_ranges(self, store: Store, at: str) -> None:
        """``get`` returns the bytes [start, end) that the object has, so the result may be shorter or empty."""
        body = bytes(range(100))
        store.put(f"{at}body", body)
        store.put(f"{at}empty", b"")
        for start, end in [(0, 10), (10, 20), (99, 100), (0, 100), (None, 7), (93, None), (50, 101), (90, 10**6), (0, 1), (None, None)]:
            assert store.get(f"{at}body", start, end) == body[start:end], (start, end)
        for start, end in [(100, 101), (100, None), (10**6, None), (10**6, 10**6 + 5), (5, 5), (0, 0), (100, 100)]:
            assert store.get(f"{at}body", start, end) == b"", (start, end)
        for start, end in [(None, None), (0, 1), (0, None), (5, 10), (0, 0)]:
            assert store.get(f"{at}empty", start, end) == b"", (start, end)

    def test_missing(self, store: Store, at: str) -> None:
        """``get`` of a missing key must raise NOT_FOUND, also of a range: a key that never existed, a folder, a deleted key."""
        store.put(f"{at}a/b", b"x")
        store.put(f"{at}gone", b"x")
        store.delete([f"{at}gone"])
        for key in ("never", "a", "a/b/c", "gone", "never/in/there"):
            for start, end in ((None, None), (0, 1), (5, None)):
                assert store.find(at + key, start, end) is None, (key, start, end)

    def test_one_create_wins(self, store: Store, at: str) -> None:
        """With ``if_absent``, exactly one of any number of concurrent puts of a key must win; its body stays."""
        for number in range(3):
            _one_of_16_wins(store, f"{at}claim/{number}")

    def test_list_is_in_order(self, store: Store, at: str) -> None:
        """``list`` must return keys in ascending order, each once; "a" and "a/b" can both be keys."""
        names = ["A", "Z", "a", "a-b", "a.b", "a/b", "a/b/c", "a/b0", "a0", "a_b", "aa", "ab/c", "b", "b/9", "b/10", "b%2Fc", "0"]
        for name in random.Random(3).sample(names, len(names)):
            store.put(at + name, name.encode())
        assert list(store.keys(at)) == sorted(at + name for name in names)
        for name in names:
            assert store.get(at + name) == name.encode()

    def test_list_is_by_prefix(self, store: Store, at: str) -> None:
        """``list`` returns exactly the keys that start with the prefix, which may end at any character; none: an empty page."""
        names = ["a", "a/b", "a/bc/d", "ab", "b/a", "ba/a"]
        for name in names:
            store.put(at + name, b"")
        for prefix in ("a", "a/", "a/b", "ab", "b", "b/", "c", "a/b/", "ab/", "a/bc/d", ""):
            assert list(store.keys(at + prefix)) == sorted(at + name for name in names if name.startswith(prefix)), prefix

    def test_delete(self, store: Store, at: str) -> None:
        """``delete`` removes the named keys and no others, and succeeds for a missing key."""
        for name in ("a", "a/b", "ab", "c/d"):
            store.put(at + name, b"x")
        store.delete([f"{at}a", f"{at}never", f"{at}c/d", f"{at}c"])
        assert list(store.keys(at)) == [f"{at}a/b", f"{at}ab"]
        store.delete([f"{at}a", f"{at}a/b", f"{at}ab"])
        assert list(store.keys(at)) == []
        store.put(f"{at}a", b"again")
        assert store.get(f"{at}a") == b"again"

    def test_keys_of_any_kind(self, store: Store, at: str) -> None:
        """Keys may have 512 characters, in one segment or several; punctuation has no special meaning."""
        longest = self.key_chars - len(at)
        names = [
            "s" * longest,
            "/".join(["d" * 50] * 20)[:longest].rstrip("/"),
            "x y",
            "+",
            "%41",
            "a=b&c",
            "a,b",
            "~(a)*!",
            "@:;$",
            "#'",
            "..a",
            "a.",
            "_",
        ]
        for name in names:
            store.put(at + name, name.encode())
        assert {name: store.get(at + name) for name in names} == {name: name.encode() for name in names}
        assert list(store.keys(at)) == sorted(at + name for name in names)

    def test_whole_or_none(self, store: Store, at: str) -> None:
        """While an object is replaced and deleted, a reader must see a whole object or NOT_FOUND."""
        key, done, seen = f"{at}torn", threading.Event(), list[int]()

        def read() -> None:
            while not done.is_set():
                if (body := store.find(key)) is not None:
                    assert len(body) == 1000 * body[0]
                    assert body.count(body[0]) == len(body)
                    seen.append(body[0])

        def write(seed: int) -> None:
            for number in random.Random(seed).choices(range(1, 256), k=12):
                store.put(key, bytes([number]) * (1000 * number))

        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                for writer in [pool.submit(write, seed) for seed in range(2)]:
                    writer.result()
                eventually("a reader sees the object", 60, lambda: bool(seen) or any(reader.done() for reader in readers))
                for _ in range(5):
                    store.delete([key])
                    write(5)
            finally:
                done.set()
            for reader in readers:
                reader.result()

    def test_threads_lose_nothing(self, store: Store, at: str) -> None:
        """Drivers must be safe to call from several threads: eight threads write, read, list and delete in one folder."""

        def work(rank: int) -> None:
            for number in range(6):
                key = f"{at}{number}/{rank}"
                store.put(key, key.encode())
                assert store.get(key) == key.encode()
                assert key in list(store.keys(f"{at}{number}/"))
                if number % 2:
                    store.delete([key])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert list(store.keys(at)) == [f"{at}{number}/{rank}" for number in (0, 2, 4) for rank in range(8)]


class ObjectCases(ConsistencyCases):
    """The contract of single calls."""

    def test_get_of_a_missing_key(self, driver: ObjectDriver, at: str) -> None:
        """``get`` of a missing key must raise the service's own error, classified as NOT_FOUND."""
        refused(driver, {Code.NOT_FOUND}, lambda: driver.get(f"{at}never"))
        refused(driver, {Code.NOT_FOUND}, lambda: driver.get(f"{at}never", 0, 10))

    def test_create_of_what_is_there(self, driver: ObjectDriver, at: str) -> None:
        """A put with ``if_absent`` of an existing key must give `Code.ALREADY_EXISTS`; the object does not change."""
        driver.put(f"{at}key", b"first", if_absent=True)
        refused(driver, {Code.ALREADY_EXISTS}, lambda: driver.put(f"{at}key", b"second", if_absent=True))
        assert driver.get(f"{at}key") == b"first"
        driver.put(f"{at}key", b"third")
        assert driver.get(f"{at}key") == b"third"
        driver.delete([f"{at}key"])
        driver.put(f"{at}key", b"fourth", if_absent=True)
        assert driver.get(f"{at}key") == b"fourth"

    def test_one_create_wins_over_conflicts(self, deployed: Deployed, at: str) -> None:
        """Exactly one create wins although replies are lost, and the store answers some creates with "another runs: try again"."""
        with self.harness.conflicting(deployed.resources) as driver:
            losing = FaultyObjects(self.wrap(driver), Faults(lost_reply=0.3, seed=1), 0)
            for number in range(3):
                _one_of_16_wins(Store(losing, new_retry()), f"{at}claim/{number}")

    def test_buffers(self, driver: ObjectDriver, at: str) -> None:
        """A body may be bytes, bytearray or a memoryview of any item size."""
        whole = bytearray(b"0123456789abcdef")
        view = memoryview(whole)
        bodies: list[bytes | bytearray | memoryview] = [bytes(whole), whole, view, view[4:8], view.cast("I")]
        for number, body in enumerate(bodies):
            driver.put(f"{at}{number}", body)
            assert driver.get(f"{at}{number}") == bytes(body), number

    def test_list_over_pages(self, driver: ObjectDriver, at: str) -> None:
        """``list`` must return each key once over any number of pages, none with more than ``page_keys``."""
        if driver.limits.page_keys > 1000:
            pytest.skip(f"a page holds {driver.limits.page_keys} keys: too many for a test")
        names = [f"{at}{number % 7}/{number:05d}" for number in range(driver.limits.page_keys + 30)]
        store = Store(driver, new_retry())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store.put(name, b""), names))
        pages = [driver.list(at)]
        while pages[-1].next is not None:
            pages.append(driver.list(at, pages[-1].next))
        assert [key for page in pages for key in page.keys] == sorted(names)
        assert len(pages) > 1
        assert max(len(page.keys) for page in pages) <= driver.limits.page_keys
        store.delete(names)
        assert list(driver.list(at).keys) == []

    def test_list_of_nothing(self, driver: ObjectDriver, at: str) -> None:
        """``list`` of a prefix without keys returns one empty page."""
        page = driver.list(f"{at}nothing/")
        assert (list(page.keys), page.next) == ([], None)

    def test_delete_takes_a_full_batch(self, driver: ObjectDriver, at: str) -> None:
        """One ``delete`` takes ``delete_keys`` keys, also missing ones, and refuses none."""
        keys = [f"{at}{number:05d}" for number in range(driver.limits.delete_keys)]
        for key in keys[:: max(1, len(keys) // 5)]:
            driver.put(key, b"x")
        assert list(driver.delete(keys)) == []
        assert list(driver.list(at).keys) == []

    def test_limits_have_a_source(self, driver: ObjectDriver) -> None:
        """The driver's ``limits`` name their source and its date."""
        limits = driver.limits
        assert isinstance(driver, ObjectDriver)
        assert limits.source
        assert limits.as_of
        assert limits.object_bytes >= 8 << 20
        assert min(limits.delete_keys, limits.page_keys) > 0
        assert limits.poll_s > 0


def _one_of_16_wins(store: Store, key: str) -> None:
    """Assert that exactly one of 16 concurrent creates wins, and that its body is stored."""
    ready = threading.Barrier(16)

    def claim(rank: int) -> bytes | None:
        mine = f"{rank} {secrets.token_hex(8)}".encode()
        ready.wait(30)
        return mine if store.create(key, mine) else None

    with ThreadPoolExecutor(16) as pool:
        won = [mine for mine in pool.map(claim, range(16)) if mine]
    assert [store.get(key)] == won
