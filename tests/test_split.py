"""Replicas, stages and ranks of a stage: how their numbers follow from what a user gives, where a model is cut, and what is refused."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.model import Model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, Parallel, Partition, find_partition, parallel, partition, profile, wished
from fsd_core.partition.stages import SLACK, Profile, cut, worthwhile
from fsd_core.plan.batches import plan_batches, sizes
from fsd_core.protocol import shard
from networks import networks

MODEL = radixnet(1024, 12)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), (1, 1, 1)),
        ((5,), (1, 1, 5)),
        (("auto",), (1, 1, 1)),
        (("auto", 2), (2, 1, 1)),
        (("auto", None, 8), (1, 8, 1)),
        (("auto", 2, 2, 2), (2, 2, 2)),
        ((8, 2), (2, 1, 4)),
        ((8, None, 2), (1, 2, 4)),
        ((8, None, None, 2), (4, 1, 2)),
        ((8, 2, None, 2), (2, 2, 2)),
        ((8, 2, 2, 2), (2, 2, 2)),
    ],
)
def test_sizes_that_are_not_given_follow(given: tuple[Any, ...], expected: tuple[int, int, int]) -> None:
    found = parallel(*given)
    assert (found.data, found.pipeline, found.tensor) == expected
    assert found.workers == np.prod(expected)


def test_what_is_left_to_the_planner() -> None:
    assert wished() is None
    assert wished(8) == 8
    assert wished(1) == Parallel()
    assert wished(8, pipeline=4) == Parallel(pipeline=4, tensor=2)
    assert wished(tensor=3) == Parallel(tensor=3)
    with pytest.raises(InputError, match="workers 8: pipeline_parallel 3, which does not divide 8"):
        wished(8, None, 3)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ((8, 2, 2, 3), r"workers 8: data_parallel 2 x pipeline_parallel 2 x tensor_parallel 3 = 12: expected workers 12, or"),
        ((8, None, 3), r"workers 8: pipeline_parallel 3, which does not divide 8: expected a divisor"),
        ((8, 3, 3), r"workers 8: data_parallel 3 x pipeline_parallel 3 = 9, which does not divide 8"),
        ((0,), r"workers 0: expected a whole number of at least 1"),
        (("many",), r"workers 'many': expected a whole number of at least 1, or auto"),
        (("auto", 0), r"data_parallel 0: expected a whole number of at least 1"),
    ],
)
def test_a_contradiction_is_refused_with_its_arithmetic(given: tuple[Any, ...], line: str) -> None:
    with pytest.raises(InputError, match=line):
        parallel(*given)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.data())
def test_no_other_cut_has_a_smaller_largest_stage(costs: list[int], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    seconds, layers = np.array(costs, float), len(costs)
    crossing = np.array(data.draw(st.lists(st.integers(0, 9), min_size=layers, max_size=layers)), float)
    starts = cut(Profile(seconds, np.zeros(layers), crossing, np.full(layers, 4)), stages, 4)
    ways = [[0, *firsts] for firsts in itertools.combinations(range(1, layers), stages - 1)]

    def largest(way: list[int]) -> float:
        return float(np.add.reduceat(seconds, way).max())

    def crossed(way: list[int]) -> float:
        return float(sum(crossing[first - 1] for first in way[1:]))

    limit = SLACK * min(map(largest, ways))
    assert starts in ways
    assert largest(starts) <= limit + 1e-9
    assert crossed(starts) == min(crossed(way) for way in ways if largest(way) <= limit + 1e-9)


def test_each_stage_has_a_layer_that_is_wide_enough() -> None:
    costs = Profile(np.array([1.0, 1, 1, 1]), np.zeros(4), np.zeros(4), np.array([8, 2, 2, 8]))
    assert cut(costs, 2, 8) is not None
    assert cut(costs, 3, 8) is None


def test_the_sample_tells_which_layers_work() -> None:
    """With one micro-batch, stages load alike; with many, the first layers, in which more samples live, make smaller stages."""
    inputs = open_inputs("random:400:0.25:5", 1024)
    costs = profile(MODEL, inputs)
    assert costs.work_s[0] > 2 * costs.work_s[-1]
    assert cut(costs, 4, 1) == [0, 3, 6, 9]
    busy = attrs.evolve(costs, work_s=costs.work_s * 1000, batches=16)
    starts = cut(busy, 4, 1)
    assert starts is not None
    assert starts[1] < 3
    assert (worthwhile(costs, 4, 1), worthwhile(busy, 4, 1)) == (1, 16)


@pytest.mark.parametrize("method", ["hypergraph", "random", "block"])
def test_a_rank_owns_rows_in_the_layers_of_its_stage_only(method: str, tmp_path: Path) -> None:
    parts = partition(MODEL, 6, method, stages=3)
    assert (parts.stages, parts.tensor, parts.starts) == (3, 2, [0, 4, 8])
    for number, owner in enumerate(parts.owners[1:]):
        assert set(np.unique(owner // 2)) == {number // 4}
    plan = ExchangePlan(MODEL, parts)
    assert plan.figures()["imbalance"] < 1.2
    parts.save(tmp_path / "p.npz")
    again = Partition.load(tmp_path / "p.npz", MODEL)
    assert (again.stages, again.digest) == (3, parts.digest)
    flat = Partition(6, parts.owners)
    assert flat.digest != parts.digest
    assert find_partition(flat, MODEL, 6, 0, tmp_path, stages=3)[0].stages == 3  # a file of another program names no stages
    with pytest.raises(InputError, match="made for 3 stages: expected 1; use pipeline_parallel 3"):
        find_partition(again, MODEL, 6, 0, tmp_path)
    with pytest.raises(InputError, match="not made for 2 stages"):
        find_partition(flat, MODEL, 6, 0, tmp_path, stages=2)


def test_a_hypergraph_partition_of_stages_is_kept(tmp_path: Path) -> None:
    first, _ = find_partition("hypergraph", MODEL, 4, 0, tmp_path, stages=2)
    (file,) = (tmp_path / "partitions").iterdir()
    before = file.stat().st_mtime_ns
    second, label = find_partition("hypergraph", MODEL, 4, 0, tmp_path, stages=2)
    assert (second.digest, label, file.stat().st_mtime_ns) == (first.digest, "hypergraph", before)


def _part(built: bytes, _: str, start: int, end: int) -> bytes:
    return built[start:end]


@given(networks(), st.data())
def test_a_shard_has_no_segment_of_other_stages(model: Model, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(model.layers)))
    tensor = data.draw(st.integers(1, min(3, *(layer.outputs for layer in model.layers))))
    parts = partition(model, stages * tensor, "block", stages=stages)
    plan, ends = ExchangePlan(model, parts), [*parts.starts[1:], len(model.layers)]
    for rank in range(parts.workers):
        first, last = parts.starts[rank // tensor] + 1, ends[rank // tensor]
        built = shard.build(model, parts, plan, rank)
        with ThreadPoolExecutor(1) as pool:
            reader = shard.ShardReader("k", partial(_part, built), pool, keep=False)
        assert set(reader.numbers) <= set(range(first, last + 2))  # and the layer before which it sends to the next stage


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"stages": 13, "workers": 13}, "pipeline_parallel 13: expected at most 12, the number of layers"),
        ({"stages": 3, "workers": 8}, "workers 8 in 3 stages"),
        ({"stages": 2, "workers": 4000}, r"pipeline_parallel 2 x tensor_parallel 2000: 0 layers of .* have 2000 or more rows"),
    ],
)
def test_stages_that_a_model_does_not_have_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        partition(MODEL, method="block", **options)


@pytest.mark.parametrize(
    ("owners", "line"),
    [
        ([[0], [0, 1], [1]], "owner_1 has ranks of stages 0 and 1"),
        ([[0], [1], [0]], "owner_1 is of stage 1"),
        ([[0], [0], [0]], "the last layer is of stage 0"),
        ([[1], [0], [1]], "owner_0 is of stage 1"),
    ],
)
def test_a_partition_that_breaks_its_stages_is_refused(owners: list[list[int]], line: str) -> None:
    with pytest.raises(InputError, match=line):
        Partition(2, tuple(np.array(owner, np.int32) for owner in owners), stages=2)


def test_each_replica_gets_a_micro_batch() -> None:
    assert sizes(10, None, Parallel(4)) == [3, 3, 2, 2]
    assert sizes(10, 4, Parallel(2)) == [4, 4, 2]
    assert sizes(10, None, Parallel(2), 2) == [3, 3, 2, 2]
    with pytest.raises(InputError, match="data_parallel 11: expected at most 10, the number of samples"):
        sizes(10, None, Parallel(11))
    with pytest.raises(
        InputError, match=r"batch_size 6 makes 2 micro-batches of 10 samples: expected at least 3, .* use batch_size 3 or less"
    ):
        sizes(10, 6, Parallel(3))


def test_the_number_of_micro_batches_decides_the_cut() -> None:
    inputs = open_inputs("random:60:0.4:1", 1024)
    assert plan_batches(MODEL, inputs, None, Parallel(1, 1, 8)) == (1, None)
    wanted, costs = plan_batches(MODEL, inputs, 10, Parallel(2, 4))
    assert costs is not None
    assert (wanted, costs.batches) == (1, 3)
