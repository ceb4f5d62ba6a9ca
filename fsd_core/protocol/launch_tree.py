"""Who starts whom: ranks 0 to P-1 as a complete b-ary heap, so that P workers start in about log_b(P) hops."""

from __future__ import annotations

from dataclasses import dataclass

from fsd_core.common import arguments

__all__ = ["LaunchTree"]


@dataclass(frozen=True, slots=True)
class LaunchTree:
    """The tree of ``workers`` ranks in which each starts up to ``branching`` others; rank 0 is the root, a branching of 1 is a chain.

    Rank r starts ranks b*r+1 to b*r+b, as far as they exist: no tree of this branching is lower, and each level fills before the next.
    Raises `InputError` where either number is under 1; the methods raise `IndexError` for a rank outside 0 to P-1.
    """

    workers: int
    branching: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", arguments.whole("workers", self.workers, 1))
        object.__setattr__(self, "branching", arguments.whole("branching", self.branching, 1))

    def children(self, rank: int) -> range:
        """The ranks that ``rank`` starts, ascending; empty for a leaf."""
        first = self.branching * self._checked(rank) + 1
        return range(min(first, self.workers), min(first + self.branching, self.workers))

    def parent(self, rank: int) -> int | None:
        """The rank that starts ``rank``; `None` for the root, which the client starts."""
        return (self._checked(rank) - 1) // self.branching if rank else None

    def depth(self, rank: int) -> int:
        """Launches between the root and ``rank``: 0 for the root."""
        depth = 0
        above = self.parent(rank)
        while above is not None:
            depth, above = depth + 1, self.parent(above)
        return depth

    @property
    def height(self) -> int:
        """The largest depth: the number of launches in sequence until every rank was started."""
        return self.depth(self.workers - 1)

    def _checked(self, rank: int) -> int:
        if not 0 <= rank < self.workers:
            raise IndexError(f"rank {rank}: {self.workers} workers have ranks 0 to {self.workers - 1}")
        return rank
