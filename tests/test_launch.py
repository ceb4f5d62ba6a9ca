"""The launch tree: every rank started once, as few launches in sequence as the branching allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.protocol.launch_tree import LaunchTree

trees = st.builds(LaunchTree, st.integers(1, 400), st.integers(1, 40))


@given(trees)
def test_every_rank_is_started_exactly_once_by_its_parent(tree: LaunchTree) -> None:
    started = [child for rank in range(tree.workers) for child in tree.children(rank)]
    assert sorted(started) == list(range(1, tree.workers))
    assert tree.parent(0) is None
    for rank in range(tree.workers):
        assert len(tree.children(rank)) <= tree.branching
        assert all(tree.parent(child) == rank and tree.depth(child) == tree.depth(rank) + 1 for child in tree.children(rank))


@given(trees)
def test_no_tree_of_the_branching_is_lower(tree: LaunchTree) -> None:
    height = 0
    while sum(tree.branching**level for level in range(height + 1)) < tree.workers:
        height += 1
    assert tree.height == height == max(tree.depth(rank) for rank in range(tree.workers))


def test_shapes() -> None:
    assert [list(LaunchTree(8, 4).children(rank)) for rank in (0, 1, 2)] == [[1, 2, 3, 4], [5, 6, 7], []]
    assert LaunchTree(100, 1).height == 99
    assert LaunchTree(100, 1000).height == 1
    assert list(LaunchTree(1, 4).children(0)) == []


@pytest.mark.parametrize(("workers", "branching"), [(0, 4), (-1, 4), (8, 0), (8, -2)])
def test_numbers_under_one_are_refused(workers: int, branching: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LaunchTree(workers, branching)


@pytest.mark.parametrize("rank", [-1, 8])
def test_a_rank_outside_is_refused(rank: int) -> None:
    tree = LaunchTree(8, 4)
    for method in (tree.children, tree.parent, tree.depth):
        with pytest.raises(IndexError, match="ranks 0 to 7"):
            method(rank)
