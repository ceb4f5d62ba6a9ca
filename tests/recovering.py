"""What tests of recovery share: channels of incarnations, entries of the news, a pool without threads, a store that counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from fsd_core.channel import ChannelConfig, HybridChannel, News, QueueChannel, RankIdentity
from fsd_core.channel.frames import KEY_BYTES
from fsd_core.channel.kept import KEPT_BYTES, Kept
from fsd_core.driver import ObjectDriver, Resources
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker.recovery import Recovery
from fsd_core.wrappers.around import AroundObjects
from fsd_local import PROVIDER

RUN = "0a" * 8
KEYS = RunKeys(RUN)
KEY = bytes(KEY_BYTES)
Make = Callable[..., QueueChannel]


@contextmanager
def channels(resources: Resources, store: Store) -> Iterator[Make]:
    """A function that makes the channel of an incarnation of a rank; all are closed at the end."""
    with ExitStack() as stack:

        def make(
            rank: int, expected: dict[int, list[int]] | None = None, incarnation: int = 0, kept: int = KEPT_BYTES, **options: Any
        ) -> QueueChannel:
            pool = stack.enter_context(ThreadPoolExecutor(4))
            me = RankIdentity(RUN, 5, rank, 3, time.time() + 60, incarnation, key=KEY)
            kind = HybridChannel if options.pop("hybrid", False) else QueueChannel
            config = ChannelConfig(me, expected or {}, Retry(me.deadline, Meter()), pool, kept_bytes=kept, **options)
            more = (store, config) if kind is HybridChannel else (config,)
            channel: QueueChannel = kind(PROVIDER.messages(resources, 0), *more)
            stack.callback(channel.close)
            return channel

        yield make


def lost(rank: int, incarnation: int = 0, **fields: Any) -> News:
    return News(kind="lost", rank=rank, incarnation=incarnation, **fields)


def hello(rank: int, incarnation: int, step: int = 0) -> News:
    return News(kind="hello", rank=rank, incarnation=incarnation, step=step)


def steps(kept: Kept, target: int, step: int) -> list[int]:
    """The steps of what was sent to ``target`` from ``step`` on."""
    parts = kept.of(target, step)
    assert parts is not None
    return [each.step for part in parts for each in part]


def ended(kept: Kept) -> tuple[int, bytes]:
    end = kept.end()
    assert end is not None
    return end


class AtOnce(Executor):
    """A pool that does each task before it returns from `submit`."""

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(task(*arguments, **options))
        return done


class Ends(AroundObjects):
    """A store that counts the gets of some keys."""

    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        self.got: list[str] = []

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self.got.append(key)
        return super().get(key, start, end)


def begin(store: Store, channel: QueueChannel, sources: Sequence[int], pool: Executor | None = None) -> Recovery:
    some = Recovery(store, KEYS, 0, channel.me.incarnation, pool or AtOnce())
    some.on = True
    some.begin(channel, 3, sources)
    return some
