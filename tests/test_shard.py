"""Shards: all ranks together compute the serial answer; an error about damage names the layer; reads are few and in order."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsd_core import run
from fsd_core.errors import RunFailed
from fsd_core.kernel import Block, stacked, union
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.partition import ExchangePlan, partition
from fsd_core.protocol.shard import READS, LayerShard, ShardReader, _Ahead, build
from networks import networks, some_inputs


def layers(data: bytes) -> tuple[ShardReader, list[LayerShard]]:
    with ThreadPoolExecutor(1) as pool:
        reader = ShardReader("k", lambda _, a, b: data[a:b], pool, keep=False)
        return reader, list(reader)


@settings(max_examples=60)
@given(networks(), st.data())
def test_the_ranks_together_compute_the_serial_answer(model: Model, data: st.DataObject) -> None:
    workers = data.draw(st.integers(1, min(5, model.neurons, max(layer.outputs for layer in model.layers))))
    parts = partition(model, workers, data.draw(st.sampled_from(["random", "block"])), 3)
    plan = ExchangePlan(model, parts)
    x = some_inputs(model, 5)
    shards = [{layer.number: layer for layer in layers(build(model, parts, plan, rank))[1]} for rank in range(workers)]
    held = [
        Block(np.hstack([np.zeros((len(ids), 1)), x.toarray().T[ids]]).astype(np.float32), np.arange(5, dtype=np.int32), 5)
        for ids in map(plan.inputs, range(workers))
    ]
    for number in range(1, len(model.layers) + 1):
        now = [shards[rank].get(number) for rank in range(workers)]  # `None`: the rank has no part in this layer
        sent = {(rank, target): held[rank].take(rows) for rank, layer in enumerate(now) if layer for target, rows in layer.sends}
        after = []
        for rank in range(workers):
            layer = now[rank]
            if layer is None or not layer.rows:
                after.append(Block(np.zeros((0, 1), np.float32), np.zeros(0, np.int32), 5))
                continue
            z = layer.local.forward(held[rank])
            if layer.remote is not None:
                arrived = [sent.pop((source, rank)) for source, _ in layer.receives]
                assert [block.rows for block in arrived] == [rows for _, rows in layer.receives]
                live = union([z, *arrived], 5)
                z = layer.remote.forward(stacked(arrived, live), z.over(live))
            after.append(z)
        assert not sent
        held = after
    if model.layers[-1].activation == "softmax":
        return  # applied where the output is assembled
    out = np.empty((5, model.outputs), np.float32)
    for rank in range(workers):
        out[:, parts.owners[-1] == rank] = held[rank].dense().T
    np.testing.assert_allclose(out, serial(model, x).toarray(), rtol=1e-4, atol=1e-4)


def test_damage_names_the_layer_and_reads_are_few() -> None:
    model = radixnet(1024, 12)
    parts = partition(model, 2, "block")
    good = build(model, parts, ExchangePlan(model, parts), 0)
    asked = []

    def read(key: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return good[start:end]

    with ThreadPoolExecutor(1) as pool:
        assert len(list(ShardReader("k", read, pool, keep=False))) == 12
    assert len(asked) == 2  # the head with the first layers, then the rest
    assert asked == sorted(asked)

    bad = bytearray(good)
    bad[-100] ^= 1
    with pytest.raises(RunFailed, match="layer 12: the shard is damaged"):
        layers(bytes(bad))
    with pytest.raises(RunFailed, match="its head"):
        layers(good[:100])
    with pytest.raises(RunFailed, match="the shard is damaged"):
        layers(good[: len(good) // 2])


def test_a_kept_shard_is_read_and_prepared_once() -> None:
    model = radixnet(1024, 12)
    parts = partition(model, 2, "block")
    data = build(model, parts, ExchangePlan(model, parts), 0)
    asked = []

    def read(key: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    with ThreadPoolExecutor(1) as pool:
        reader = ShardReader("k", read, pool, keep=True)
        first = list(reader)
        requests = len(asked)
        assert all(one is other for one, other in zip(first, reader, strict=True))
    assert len(asked) == requests


def test_a_pipeline_reads_each_shard_once_for_all_micro_batches(tmp_path: Path) -> None:
    model, x = radixnet(1024, 12), open_inputs("random:64:0.4:1", 1024)

    def read(batch_size: int) -> int:
        options = {"pipeline_parallel": 4, "channel": "queue", "batch_size": batch_size, "home": tmp_path, "timeout": 60.0}
        return run(model, x, settings={"root": str(tmp_path / "root")}, **options).meter["object_bytes_read"]  # type: ignore[arg-type]

    assert read(4) < 1.2 * read(64)


class LateNews(Executor):
    """Runs a task at once. Callbacks come late: the thread of a task may be paused between its result and them."""

    def submit(self, task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(task(*args, **kwargs))
        future.add_done_callback = lambda fn: None  # type: ignore[method-assign,assignment]
        return future


@pytest.mark.parametrize("most", [0, 1, 2, 9])
def test_each_group_is_taken_in_order_though_callbacks_are_late(most: int) -> None:
    groups: list[list[LayerShard]] = [[] for _ in range(9)]
    ahead = _Ahead(groups.__getitem__, 9, LateNews(), most)
    assert all(ahead.take() is group for group in groups)


def test_a_pool_shuts_down_while_groups_wait_for_a_thread() -> None:
    """The shutdown holds the pool's lock while it cancels what waits: a callback must not submit then."""
    busy, pool, over = threading.Event(), ThreadPoolExecutor(1), threading.Event()
    pool.submit(busy.wait, 60)  # as sends may keep all threads busy
    _Ahead(lambda number: [], 9, pool, 9)

    def close() -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        over.set()

    threading.Thread(target=close, daemon=True).start()
    ended = over.wait(20)
    busy.set()
    assert ended


def test_no_more_than_two_groups_load_at_a_time_and_nothing_is_kept_of_an_iteration_that_ends_early() -> None:
    loaded: list[weakref.ref[Any]] = []
    now, most, lock = 0, 0, threading.Lock()

    class Group(list[LayerShard]):
        """A list with weak references."""

    def load(number: int) -> list[LayerShard]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        group = Group()
        with lock:
            loaded.append(weakref.ref(group))
            now -= 1
        return group

    with ThreadPoolExecutor(8) as pool:
        ahead = _Ahead(load, 40, pool, 40)
        ahead.take()
        ahead.stop()
    assert most <= READS
    assert [each for each in loaded if each() is not None] == []  # without the garbage collector
