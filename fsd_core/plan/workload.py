"""`Workload`: a model with its input as the planner sees it, whichever engine computes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from fsd_core.driver import InvokeLimits
from fsd_core.partition import Parallel
from fsd_core.plan.batches import Batches
from fsd_core.plan.split import Split

__all__ = ["Shaped", "Workload", "doubles", "factors"]


class Shaped(Protocol):
    """A workload that is split in one way."""

    @property
    def split(self) -> Split:
        """What the ranks load, compute and send. Its micro-batches are not cut yet: all samples are one."""

    def cut(self, limits: InvokeLimits, provider: str) -> Batches:
        """Cut the samples into micro-batches that fit a function. Raises `InputError` if the memory does not hold one sample."""

    def needed_bytes(self, limits: InvokeLimits) -> int:
        """The smallest memory of a function that holds the largest part."""


class Workload(Protocol):
    """A model and its input as a plan sees them. `digest` and `about` compute nothing; the other methods may compute some samples first.

    - ``name``: the name of the model. ``digest``: of everything that its predictions depend on, except the place.
    - ``samples``: the number of samples. ``stored_bytes``: the bytes of all weights, as stored.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def samples(self) -> int: ...  # noqa: D102
    @property
    def stored_bytes(self) -> float: ...  # noqa: D102

    def about(self) -> Mapping[str, Any]:
        """The sizes of model and input, for people: numbers by name."""

    def shapes(self, given: Parallel | int | None) -> Sequence[Parallel]:
        """The splits to price; ``given``: the one that the user gave, or the number of workers."""

    def unplanned(self, workers: int | None) -> Parallel:
        """The split with so many workers, or with any number, where a provider does not say its limits."""

    def shaped(self, shape: Parallel, batch_size: int | None) -> Shaped:
        """The workload with this split. Raises `InputError` with the reason if it cannot be split like this."""


def factors(workers: int) -> Iterable[Parallel]:
    """The splits of so many workers into one or two kinds."""
    for size in range(1, workers + 1):
        if not workers % size:
            other = workers // size
            yield from dict.fromkeys((Parallel(data=size, pipeline=other), Parallel(data=size, tensor=other)))
            if size > 1 and other > 1:
                yield Parallel(pipeline=size, tensor=other)


def doubles(most: int) -> list[int]:
    """The powers of two from 2 to ``most``."""
    return [2**power for power in range(1, most.bit_length()) if 2**power <= most]
