"""The launch tree: every rank started once, as few launches in sequence as the branching allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.protocol.launch_tree import LaunchTree

trees = st.builds(LaunchTree, st.integers(1, 400), st.integers(1, 40))


def height(tree: LaunchTree) -> int:
    """How many launches in sequence start all ranks."""
    depths = {0: 0}
    for rank in range(tree.workers):
        depths |= dict.fromkeys(tree.children(rank), depths[rank] + 1)
    return max(depths.values())


@given(trees)
def test_every_rank_is_started_exactly_once(tree: LaunchTree) -> None:
    started = [child for rank in range(tree.workers) for child in tree.children(rank)]
    assert sorted(started) == list(range(1, tree.workers))
    assert all(len(tree.children(rank)) <= tree.branching for rank in range(tree.workers))


@given(trees)
def test_no_tree_of_the_branching_is_lower(tree: LaunchTree) -> None:
    lowest = 0
    while sum(tree.branching**level for level in range(lowest + 1)) < tree.workers:
        lowest += 1
    assert height(tree) == lowest


def test_shapes() -> None:
    assert [list(LaunchTree(8, 4).children(rank)) for rank in (0, 1, 2)] == [[1, 2, 3, 4], [5, 6, 7], []]
    assert height(LaunchTree(100, 1)) == 99
    assert height(LaunchTree(100, 1000)) == 1
    assert list(LaunchTree(1, 4).children(0)) == []


@pytest.mark.parametrize(("workers", "branching"), [(0, 4), (-1, 4), (8, 0), (8, -2)])
def test_numbers_under_one_are_refused(workers: int, branching: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LaunchTree(workers, branching)


@pytest.mark.parametrize("rank", [-1, 8])
def test_a_rank_outside_is_refused(rank: int) -> None:
    with pytest.raises(IndexError, match="ranks 0 to 7"):
        LaunchTree(8, 4).children(rank)
