"""`Work`: what a run computes, as a `Job` sees it.

The job stages, launches and collects any work: it does not know which engine computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs

from fsd_core.client.result import Result
from fsd_core.driver import InvokeLimits
from fsd_core.partition import Parallel
from fsd_core.plan.memory import RankMemory
from fsd_core.plan.split import Split
from fsd_core.plan.workload import Workload

__all__ = ["Cut", "Pieces", "Work"]


@attrs.frozen(eq=False)
class Pieces:
    """Objects to stage. ``build`` makes the one of a number; ``digest`` is that of all that they are made from."""

    digest: str
    count: int
    build: Callable[[int], bytes]


class Cut(Protocol):
    """How the samples are cut into micro-batches, so that they fit the memory of a function."""

    @property
    def samples(self) -> list[int]:
        """Of each micro-batch."""

    @property
    def predicted_bytes(self) -> int:
        """The predicted peak memory of the worker that needs most."""

    @property
    def ranks(self) -> Sequence[RankMemory]:
        """How each part uses its memory."""


class Work(Protocol):
    """What a run computes. Parts are the ranks of a replica; all replicas have the same parts.

    - ``engine``: who computes it. ``result``: the class of what the run returns.
    - ``digest``: of the model. ``label``: how the model is divided, for people.
    - ``given``: the samples, scipy CSR or arrays by name. ``samples``: their number.
    - ``neurons``: of the largest layer. ``layers``: the steps of a micro-batch, each behind an exchange.
    - ``stage_s``: the estimated seconds in which the largest of several stages computes a micro-batch.
    - ``last``: the parts that write an output, ascending.
    """

    @property
    def engine(self) -> str: ...  # noqa: D102
    @property
    def result(self) -> type[Result]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def given(self) -> Any: ...  # noqa: D102
    @property
    def samples(self) -> int: ...  # noqa: D102
    @property
    def neurons(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def parallel(self) -> Parallel: ...  # noqa: D102
    @property
    def stage_s(self) -> float: ...  # noqa: D102
    @property
    def last(self) -> list[int]: ...  # noqa: D102

    def batches(self, limits: InvokeLimits, provider: str) -> Cut:
        """Cut the samples into micro-batches that fit a function. Raises `InputError` if the memory does not hold one sample."""

    def needs(self, cut: Cut, limits: InvokeLimits, live: Sequence[float] | None) -> list[int]:
        """The memory that each part is expected to need, in bytes: what ``cut`` says, or less where a prediction knows more.

        ``live``: the share of the samples that are live before each layer, and at the end; `None` if nobody knows.
        """

    @property
    def workload(self) -> Workload:
        """The model and its samples as the planner sees them."""

    def split(self, batches: Sequence[int]) -> Split:
        """What the parts load, compute and send, with micro-batches of so many samples: for a prediction."""

    def shards(self) -> Pieces:
        """What each part needs of the model: one object for each part."""

    def inputs(self, batches: Sequence[int]) -> tuple[Pieces, list[list[int | None]]]:
        """What the parts need of the samples, and the number of the object by batch and part; `None`: the part needs none.

        ``batches``: the number of samples of each batch.
        """

    def slice(self, data: bytes, writer: int, samples: int) -> Any:
        """Decode what part ``last[writer]`` wrote for a batch of ``samples`` samples. Raises `CodecError`."""

    def assemble(self, slices: Sequence[Sequence[Any]], batches: Sequence[int], progress: Callable[[int, int], None]) -> Any:
        """The output of the run from the slices of each batch, by writer.

        ``progress`` is called with the number of batches done and of all batches.
        """
