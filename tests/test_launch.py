"""The launch tree starts every rank once, with as few launches in sequence as possible; payloads and configurations are read strictly."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.common.sealed import seal
from fsd_core.driver import Code
from fsd_core.errors import InputError, RunFailed
from fsd_core.protocol.launch_tree import LaunchTree
from fsd_core.protocol.runconfig import VERSION, RunConfig
from fsd_core.protocol.spawn import LaunchPayload

trees = st.builds(LaunchTree, st.integers(1, 400), st.integers(1, 40), st.integers(1, 100))


def height(tree: LaunchTree) -> int:
    """How many launches in sequence start all ranks, after those of the client."""
    depths = dict.fromkeys(tree.first, 0)
    for rank in range(tree.workers):
        depths |= dict.fromkeys(tree.children(rank), depths[rank] + 1)
    return max(depths.values())


@given(trees)
def test_every_rank_is_started_exactly_once(tree: LaunchTree) -> None:
    started = [*tree.first, *(child for rank in range(tree.workers) for child in tree.children(rank))]
    assert sorted(started) == list(range(tree.workers))
    assert len(tree.first) == min(tree.roots, tree.workers)
    assert all(len(tree.children(rank)) <= tree.branching for rank in range(tree.workers))


@given(trees)
def test_no_tree_of_the_branching_is_lower(tree: LaunchTree) -> None:
    lowest = 0
    while tree.roots * sum(tree.branching**level for level in range(lowest + 1)) < tree.workers:
        lowest += 1
    assert height(tree) == lowest


def test_shapes() -> None:
    assert [list(LaunchTree(8, 4).children(rank)) for rank in (0, 1, 2)] == [[1, 2, 3, 4], [5, 6, 7], []]
    assert height(LaunchTree(100, 1)) == 99
    assert height(LaunchTree(100, 1000)) == 1
    assert list(LaunchTree(1, 4).children(0)) == []
    assert [list(LaunchTree(12, 4, 3).children(rank)) for rank in (0, 1, 2, 3)] == [[3, 4, 5, 6], [7, 8, 9, 10], [11], []]
    assert list(LaunchTree(8, 4, 128).first) == list(range(8))


@pytest.mark.parametrize(("workers", "branching", "roots"), [(0, 4, 1), (-1, 4, 1), (8, 0, 1), (8, -2, 1), (8, 4, 0)])
def test_numbers_under_one_are_refused(workers: int, branching: int, roots: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LaunchTree(workers, branching, roots)


@pytest.mark.parametrize("rank", [-1, 8])
def test_a_rank_outside_is_refused(rank: int) -> None:
    with pytest.raises(IndexError, match="ranks 0 to 7"):
        LaunchTree(8, 4).children(rank)


PAYLOAD = LaunchPayload("fsd", 0, 3, "ab" * 8, 2, 1, 1.7e9)


def test_a_payload_comes_back_as_it_was() -> None:
    assert LaunchPayload.unpack(json.loads(PAYLOAD.pack())) == PAYLOAD


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rank": None}, "launch payload: rank = None: expected a whole number of at least 0"),
        ({"rank": -1}, "launch payload: rank = -1: expected a whole number of at least 0"),
        ({"slot": True}, "launch payload: slot = True: expected a whole number of at least 0"),
        ({"epoch": 1.5}, "launch payload: epoch = 1.5: expected a whole number of at least 1"),
        ({"run": ""}, "launch payload: run = '': expected a text that is not empty"),
        ({"deadline": "soon"}, "launch payload: deadline = 'soon': expected a number of at least 0"),
    ],
)
def test_a_wrong_payload_is_refused(change: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as caught:
        LaunchPayload.unpack(json.loads(PAYLOAD.pack()) | change)
    assert str(caught.value) == line


def test_what_a_newer_client_adds_to_a_payload_is_ignored() -> None:
    """The run's configuration, which the worker reads next, refuses a client of another version with advice."""
    assert LaunchPayload.unpack(json.loads(PAYLOAD.pack()) | {"colour": 1}) == PAYLOAD


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(LaunchPayload) if field.default is attrs.NOTHING])
def test_a_payload_that_lacks_a_key_is_refused(name: str) -> None:
    fields = json.loads(PAYLOAD.pack())
    del fields[name]
    with pytest.raises(InputError, match=f"^launch payload: {name}: is missing: expected "):
        LaunchPayload.unpack(fields)


CONFIG = RunConfig(
    version=VERSION, run="ab" * 8, engine="rows", channel="hybrid", workers=2, data=1, pipeline=1, roots=1, branching=4, layers=3,
    batches=[5, 2], keep=[True, False], ahead=[2, 0], shards=["s/0", "s/1"],
    inputs=[["i/0", "i/1"], ["i/2", None]], last=[0, 1], objective="cost", faults=None,
    started=1.7e9, start_s=65.0, stage_s=0.1, slow_s=5.0, log="info", outage_s=60.0, recovery=True, kept_bytes=1000, frame_key="0f" * 32,
)  # fmt: skip


def test_a_configuration_comes_back_as_it_was() -> None:
    for config in (CONFIG, attrs.evolve(CONFIG, faults="delay=50ms", keep=[False])):
        assert RunConfig.unpack(config.pack()) == config


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"version": 1}, f"the run's configuration has version 1: expected {VERSION}, the version of this worker; deploy the app again"),
        ({"channel": "pigeon"}, "the run's configuration: channel = 'pigeon': expected one of queue, object, hybrid"),
        (
            {"batches": []},
            "the run's configuration: batches = []: expected a list that is not empty, each item a whole number of at least 1",
        ),
        ({"keep": 1}, "the run's configuration: keep = 1: expected a list that is not empty, each item true or false"),
        ({"faults": ""}, "the run's configuration: faults = '': expected a text that is not empty, or null"),
        (
            {"frame_key": "0f" * 31},
            "the run's configuration: frame_key = (not shown, it may hold a secret): expected 64 hexadecimal digits",
        ),
        ({"shard": ["s"]}, "the run's configuration: shard: unknown key; did you mean shards?"),
    ],
)
def test_a_wrong_configuration_ends_the_run(change: dict[str, object], line: str) -> None:
    with pytest.raises(RunFailed) as caught:
        RunConfig.unpack(seal(attrs.asdict(CONFIG) | change))
    assert (caught.value.code, caught.value.message) == (Code.INVALID, line)


def test_a_damaged_configuration_ends_the_run() -> None:
    data = CONFIG.pack()
    with pytest.raises(RunFailed, match="INVALID: the run's configuration is damaged"):
        RunConfig.unpack(data[:-3] + b"x" + data[-2:])
