"""The launch tree: ranks 0 to P-1 form a complete b-ary heap, so the start of P workers takes about log_b(P) launches in sequence."""

from __future__ import annotations

import attrs

from fsd_core.common import arguments

__all__ = ["LaunchTree"]


def _workers(value: object) -> int:
    return arguments.whole("workers", value, 1)


def _branching(value: object) -> int:
    return arguments.whole("branching", value, 1)


@attrs.frozen
class LaunchTree:
    """The tree of ``workers`` ranks in which each rank starts up to ``branching`` others. Rank 0 is the root; a branching of 1 is a chain.

    With a branching of b, rank r starts those of the ranks b*r+1 to b*r+b that exist. All levels except the last are full, so the tree has
    the smallest possible height. Raises `InputError` if either number is below 1.
    """

    workers: int = attrs.field(converter=_workers)
    branching: int = attrs.field(converter=_branching)

    def children(self, rank: int) -> range:
        """The ranks that ``rank`` starts, ascending; empty for a leaf. Raises `IndexError` for a rank outside 0 to P-1."""
        if not 0 <= rank < self.workers:
            raise IndexError(f"rank {rank}: {self.workers} workers have ranks 0 to {self.workers - 1}")
        first = self.branching * rank + 1
        return range(min(first, self.workers), min(first + self.branching, self.workers))
