"""The memory of a worker: its prediction holds, a stage that is larger than it streams, and a worker that takes more is ended."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsd_core import Result, run
from fsd_core.channel.kept import KEPT_BYTES
from fsd_core.client import expected
from fsd_core.client.job import Progress
from fsd_core.client.rows import rows_work
from fsd_core.driver import Code, InvokeLimits
from fsd_core.errors import InputError, RunFailed
from fsd_core.model import Csr, Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, Parallel, partition
from fsd_core.plan.batches import MARGIN, cut
from fsd_core.plan.memory import LayerSizes, RankMemory, RankSizes, layer_sizes
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.protocol.shard import READS, ShardReader, build

MB = 1 << 20
LIMITS = InvokeLimits(payload_bytes=1, concurrency=None, memory_bytes=64 * MB, timeout_s=None, source="", as_of="", process_bytes=34 * MB)


@pytest.fixture(scope="module")
def model() -> Model:
    return radixnet(4096, 40)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Result]:
    """A function that runs below ``tmp_path``, with so many MB for each worker."""

    def start(model: Model, inputs: str, memory_mb: int, **options: Any) -> Result:
        settings = {"root": str(tmp_path / "root"), "memory_mb": memory_mb}
        return run(model, open_inputs(inputs, model.inputs), settings=settings, home=tmp_path, timeout=120.0, **options)

    return start


@pytest.mark.parametrize("split", [{"workers": 1}, {"pipeline_parallel": 2}, {"tensor_parallel": 2, "channel": "queue"}])
def test_the_peak_of_each_rank_is_predicted(start: Callable[..., Result], split: dict[str, Any]) -> None:
    """The peak of a rank must not exceed its prediction by more than `MARGIN`; benchmarks/memory.py shows how near it is."""
    result = start(radixnet(1024, 4, weights="normal"), "random:2500:0.3:1", 2048, **split)
    for rank in result.ranks:
        assert 0.7 < rank["peak_bytes"] / rank["predicted_bytes"] < MARGIN, rank
    assert result.memory["predicted_bytes_max"] == max(rank["predicted_bytes"] for rank in result.ranks)


def test_what_a_rank_keeps_for_lost_ranks_is_in_its_prediction(start: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "FORECAST_S", 60.0)
    model, split = radixnet(1024, 4, weights="normal"), {"tensor_parallel": 2, "channel": "queue", "partition": "block"}
    keeps, keeps_not = (start(model, "random:300:0.3:1", 2048, recovery=recovery, **split) for recovery in ("on", "off"))
    for rank, bare in zip(keeps.ranks, keeps_not.ranks, strict=True):
        assert rank["kept_bytes"] > MB // 2
        assert rank["predicted_bytes"] - bare["predicted_bytes"] == pytest.approx(rank["kept_bytes"], rel=0.02)


def test_a_stage_that_is_larger_than_the_memory_streams(start: Callable[..., Result], model: Model) -> None:
    said: list[str] = []

    def hear(step: Progress) -> None:
        said.append(step.text)

    inputs = "random:40:0.4:1"
    streamed = start(model, inputs, 64, workers=1, batch_size=20, progress=hear)
    kept = start(model, inputs, 2048, workers=1, batch_size=20)
    assert (streamed.memory["streamed"], kept.memory["streamed"]) == (1, 0)
    assert [line for line in said if "1 worker streams its weights" in line and "2 times, once for each micro-batch" in line]
    assert streamed.memory["peak_bytes_max"] <= MARGIN * streamed.memory["predicted_bytes_max"] <= 64 * MB
    assert streamed.meter["object_bytes_read"] > 1.9 * kept.meter["object_bytes_read"]
    assert (streamed.output != kept.output).nnz == 0  # the same bits


def test_a_batch_is_cut_to_the_memory_that_a_function_has(start: Callable[..., Result]) -> None:
    result = start(radixnet(1024, 6), "random:3000:0.4:1", 64, workers=2, channel="queue", partition="block")
    assert result.micro_batches > 1
    assert result.memory["predicted_bytes_max"] <= 64 * MB


def test_a_worker_over_its_memory_is_ended_and_says_what_to_do(start: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RankSizes, "fitting", lambda *_: RankMemory(50 * MB, keep=False))  # a wrong prediction
    with pytest.raises(RunFailed) as caught:
        start(radixnet(1024, 6), "random:9000:0.4:1", 64, workers=2, channel="queue", partition="block")
    assert caught.value.code is Code.TOO_LARGE
    assert "exceeded its memory limit of 64 MB" in caught.value.message
    assert "50 MB were predicted: raise [local] memory_mb, or use more workers or a smaller batch_size" in caught.value.message


def test_a_layer_that_does_not_fit_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = np.sort(rng.permuted(np.tile(np.arange(2048), (1024, 1)), axis=1)[:, :1800], axis=1).astype(np.int32)
    values = rng.standard_normal(columns.size, np.float32)
    weights = Csr(np.arange(0, columns.size + 1, 1800), columns.ravel(), values, (1024, 2048))
    layer = radixnet(1024, 1).layers[0]
    wide = Model((type(layer)(weights, layer.bias, "relu", None, False),), "wide")
    settings = {"root": str(tmp_path / "root"), "memory_mb": 64}
    with pytest.raises(InputError, match=r"layer 1 needs \d+ MB in one of 1 workers, with one .* MB too much.*tensor_parallel \d+ \(\d+ w"):
        run(wide, "random:4:0.4:1", workers=1, settings=settings, home=tmp_path)
    assert not (tmp_path / "root").exists()


def test_the_smallest_number_of_workers_that_is_named_fits() -> None:
    layers = RankSizes((LayerSizes(16384, 16384, 0, 20_000_000, number=7),))
    with pytest.raises(InputError) as caught:
        cut([layers], 10, None, Parallel(), 1, LIMITS, "local")
    line = str(caught.value)
    assert "layer 7 needs" in line
    ranks = int(line.rpartition("tensor_parallel ")[2].split()[0])
    part = LayerSizes(16384 // ranks, 16384 // ranks, 16384, 20_000_000 // ranks)
    assert sum(cut([RankSizes((part,))], 10, None, Parallel(1, 1, ranks), 1, LIMITS, "local").samples) == 10
    with pytest.raises(InputError, match="more workers do not help"):
        cut([layers], 10, None, Parallel(), 1, LIMITS.__class__(1, None, 30 * MB, None, "", "", process_bytes=34 * MB), "local")


def test_less_is_read_ahead_where_the_memory_is_small() -> None:
    layers = RankSizes(tuple(LayerSizes(16384, 16384, 0, 524_288, number=number) for number in range(1, 61)))
    needs = [layers.predicted(10, LIMITS, keep=False, ahead=ahead).bytes for ahead in range(READS + 1)]
    assert needs == sorted(set(needs))
    for ahead, needed in enumerate(needs):
        found = layers.fitting(10, LIMITS, needed, 2)
        assert found is not None
        assert (found.ahead, found.keep, found.streams) == (ahead, False, True)
    assert layers.fitting(10, LIMITS, needs[0] - 1, 2) is None
    kept = layers.fitting(10, LIMITS, 1 << 40, 2)
    assert kept is not None
    assert (kept.keep, kept.streams) == (True, False)


def test_a_rank_that_waits_for_an_earlier_stage_loads_all_that_fits_meanwhile() -> None:
    later = [LayerSizes(16384, 0, 16384, 524_288, number=61)]
    later += [LayerSizes(16384, 16384, 0, 524_288, number=number) for number in range(62, 121)]
    whole, first = RankSizes(tuple(later)).fitting(10, LIMITS, 1 << 40, 1), RankSizes(tuple(later[1:])).fitting(10, LIMITS, 1 << 40, 1)
    assert whole is not None
    assert first is not None
    assert (whole.ahead, first.ahead) == (60, READS)  # a request for each layer
    less = RankSizes(tuple(later)).fitting(10, LIMITS, whole.bytes - 1, 1)
    assert less is not None
    assert READS < less.ahead < 60
    assert less.bytes < whole.bytes - KEPT_BYTES  # which the rank may keep for lost ranks
    two = RankSizes(tuple(later)).predicted(10, LIMITS, keep=False).bytes
    small = RankSizes(tuple(later)).fitting(10, LIMITS, two + 60 * MB, 1)
    assert small is not None
    assert READS < small.ahead < less.ahead
    assert small.bytes <= two + 30 * MB


def test_what_is_predicted_for_a_run_knows_the_live_samples_and_its_cut_does_not(tmp_path: Path) -> None:
    model, inputs = radixnet(1024, 4), open_inputs("random:2000:0.2:1", 1024)
    live = [1.0, 0.5, 0.1, 0.02, 0.02]
    for parallel in (Parallel(1, 1, 2), Parallel(1, 2, 1)):
        work = rows_work(RowWorkload(model, inputs), parallel, None, "block", 0, tmp_path, lambda *_: None)
        cut = work.batches(LIMITS.__class__(1, None, 2048 * MB, None, "", "", process_bytes=34 * MB), "local")
        bound, told, unknown = [rank.bytes for rank in cut.ranks], work.needs(cut, LIMITS, live), work.needs(cut, LIMITS, None)
        assert unknown == bound
        assert work.needs(cut, LIMITS, [1.0] * 5) == bound
        if parallel.tensor > 1:
            assert all(34 * MB < mine < most - 2 * MB for mine, most in zip(told, bound, strict=True))
        else:  # a sample was computed to find the stages: the run is cut by it
            assert told == bound


def test_what_arrives_in_later_layers_counts_as_gaps_of_the_heap() -> None:
    sizes = [LayerSizes(256, 256, 768, 8192, number=number, sends=768, largest=256) for number in range(1, 11)]
    many, one = (
        RankSizes(tuple(sizes)).predicted(1000, LIMITS, keep=False, live=[1.0] * more + [0.0] * (10 - more)).bytes for more in (10, 1)
    )
    assert many - one == pytest.approx(0.9 * 768 * 4 * 1000, rel=0.01)


def test_requests_under_way_have_their_bytes_and_all_but_one_of_them_their_weights() -> None:
    layers = RankSizes(tuple(LayerSizes(16384, 16384, 0, 524_288, number=number) for number in range(1, 61)))
    ready, stored = layers.layers[0].ready_bytes, layers.layers[0].stored_bytes
    none, one, two, four = (layers.predicted(1, LIMITS, keep=False, ahead=ahead).bytes for ahead in (0, 1, 2, 4))
    assert two - one == pytest.approx(stored, rel=0.01)
    assert four - two == 2 * ready
    assert one - none < ready + stored  # the only request under way is for the layer that is made


def test_smaller_micro_batches_leave_room_for_the_weights() -> None:
    layers = RankSizes(tuple(LayerSizes(1024, 1024, 0, 32_768, 4096, number=number) for number in range(1, 121)))
    limits = LIMITS.__class__(1, None, 96 * MB, None, "", "", process_bytes=34 * MB)
    found = cut([layers], 9000, None, Parallel(), 1, limits, "local")
    assert found.keep
    assert max(found.samples) > 500
    assert not found.streamed


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_reader_asks_ahead_as_told_and_forgets_what_was_computed(ahead: int) -> None:
    model = radixnet(16384, 5)
    parts = partition(model, 1, "block")
    data = build(model, parts, ExchangePlan(model, parts), 0)
    asked: list[int] = []

    def read(key: str, start: int, end: int) -> bytes:
        asked.append(start)
        return data[start:end]

    before: weakref.ref[Any] | None = None
    with ThreadPoolExecutor(1) as pool:
        for number, layers in enumerate(ShardReader("k", read, pool, keep=False, ahead=ahead).together()):
            pool.submit(int).result()  # what was asked before this has been read
            assert len(asked) - 1 <= number + 1 + ahead  # the first request is the head
            assert before is None or before() is None
            assert len(layers) == 1
            before = weakref.ref(layers[0])
            del layers
    assert len(asked) == 6


def test_a_reader_loads_on_while_its_caller_waits() -> None:
    model = radixnet(16384, 5)
    parts = partition(model, 1, "block")
    data, asked, all_asked = build(model, parts, ExchangePlan(model, parts), 0), [], threading.Event()

    def read(key: str, start: int, end: int) -> bytes:
        asked.append(start)
        if len(asked) == 6:  # the head, then each layer
            all_asked.set()
        return data[start:end]

    with ThreadPoolExecutor(2) as pool:
        layers = ShardReader("k", read, pool, keep=False, ahead=4).together()
        assert [layer.number for layer in next(layers)] == [1]
        assert all_asked.wait(60)
        assert [layer.number for some in layers for layer in some] == [2, 3, 4, 5]


def test_indices_are_those_that_the_kernel_stores() -> None:
    model = radixnet(1024, 3)
    parts = partition(model, 2, "random", 5)
    for rank, sizes in enumerate(layer_sizes(model, parts, ExchangePlan(model, parts))):
        for each in sizes.layers[:3]:
            weights = model.layers[each.number - 1].rows(np.flatnonzero(parts.owners[each.number] == rank))
            assert isinstance(weights, Csr)
            lists, counts = np.unique(weights.indices.reshape(-1, 32), axis=0, return_counts=True)
            blocks = sum(count // 8 + (count % 8).bit_count() for count in counts.tolist())
            assert each.indices == 32 * blocks
            assert each.nonzeros == len(weights.indices)
            assert len(lists) <= blocks


def test_the_peak_counts_from_the_beginning_of_a_launch() -> None:
    code = (
        "from fsd_core.worker.memory import begin, peak_bytes\n"
        "held = bytearray(b'1') * (64 << 20)\n"
        "del held\n"
        "begin()\n"
        "first = peak_bytes()\n"
        "held = bytearray(b'1') * (32 << 20)\n"
        "print(first, peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    if sys.platform == "linux":
        assert first < 64 * MB
        assert 31 * MB < second - first < 34 * MB
