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
    """Objects to stage. ``build(number)`` makes the object ``number``, from 0 to ``count`` - 1. ``digest``: a digest of their content."""

    digest: str
    count: int
    build: Callable[[int], bytes]


class Cut(Protocol):
    """How the samples are cut into micro-batches, so that they fit the memory of a function."""

    @property
    def samples(self) -> list[int]:
        """The number of samples of each micro-batch."""

    @property
    def predicted_bytes(self) -> int:
        """The predicted peak memory of the worker that needs most."""

    @property
    def ranks(self) -> Sequence[RankMemory]:
        """The predicted memory of each part."""


class Work(Protocol):
    """What a run computes. Parts are the ranks of a replica; all replicas have the same parts.

    - ``engine``: the engine that computes it: rows or onnx. ``result``: the class of the result that the run returns.
    - ``digest``: the digest of the model. ``label``: a text for people: how the model is divided.
    - ``given``: the samples, scipy CSR or arrays by name. ``samples``: the number of samples.
    - ``neurons``: the neurons of the largest layer. ``layers``: the number of steps of a micro-batch; an exchange separates two steps.
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
        """What the parts load, compute and send, for a prediction. ``batches``: the number of samples of each micro-batch."""

    def shards(self) -> Pieces:
        """What each part needs of the model: one object for each part."""

    def inputs(self, batches: Sequence[int]) -> tuple[Pieces, list[list[int | None]]]:
        """The samples that each part needs, as objects, and the number of the object by micro-batch and part; `None`: the part needs none.

        ``batches``: the number of samples of each micro-batch.
        """

    def slice(self, data: bytes, writer: int, samples: int) -> Any:
        """Decode what part ``last[writer]`` wrote for a micro-batch of ``samples`` samples. Raises `CodecError` if it is damaged."""

    def assemble(self, slices: Sequence[Sequence[Any]], batches: Sequence[int], progress: Callable[[int, int], None]) -> Any:
        """The output of the run. ``slices``: for each micro-batch, the slices by writer, in the order of ``last``.

        ``progress`` is called with the number of micro-batches done and of all micro-batches.
        """
