"""The launch tree: the client starts the first ranks, and each rank starts up to b others, as in a complete b-ary heap.

Each level of the tree adds a cold start to the time until all ranks run. So the client itself starts as many ranks as it can during one
cold start.
"""

from __future__ import annotations

import attrs

from fsd_core.common import arguments

__all__ = ["LaunchTree"]


def _workers(value: object) -> int:
    return arguments.whole("workers", value, 1)


def _branching(value: object) -> int:
    return arguments.whole("branching", value, 1)


def _roots(value: object) -> int:
    return arguments.whole("roots", value, 1)


@attrs.frozen
class LaunchTree:
    """The tree of ``workers`` ranks in which each rank starts up to ``branching`` others. The client starts the first ``roots`` ranks.

    With a branching of b and R roots, rank r starts those of the ranks R+b*r to R+b*r+b-1 that exist. All levels except the last are full,
    so the tree has the smallest possible height. Raises `InputError` if a number is below 1.
    """

    workers: int = attrs.field(converter=_workers)
    branching: int = attrs.field(converter=_branching)
    roots: int = attrs.field(default=1, converter=_roots)

    @property
    def first(self) -> range:
        """The ranks that the client starts."""
        return range(min(self.roots, self.workers))

    def children(self, rank: int) -> range:
        """The ranks that ``rank`` starts, ascending; empty for a leaf. Raises `IndexError` for a rank outside 0 to P-1."""
        if not 0 <= rank < self.workers:
            raise IndexError(f"rank {rank}: {self.workers} workers have ranks 0 to {self.workers - 1}")
        first = self.roots + self.branching * rank
        return range(min(first, self.workers), min(first + self.branching, self.workers))
