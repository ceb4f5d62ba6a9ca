"""`Parallel`: how many replicas, stages and ranks of a stage a run has, and how these three numbers follow from what a user gives."""

from __future__ import annotations

from typing import Any

import attrs

from fsd_core.common import arguments
from fsd_core.errors import InputError

__all__ = ["AUTO", "Parallel", "parallel", "wished"]

AUTO = "auto"


def _size(_: Any, field: attrs.Attribute[int], value: Any) -> None:
    arguments.whole(field.name, value, 1)


@attrs.frozen
class Parallel:
    """A run has ``data`` replicas of the model. A replica has ``pipeline`` stages, a stage has ``tensor`` ranks.

    Rank t of stage s of replica d has the number (d x pipeline + s) x tensor + t.
    """

    data: int = attrs.field(default=1, validator=_size)
    pipeline: int = attrs.field(default=1, validator=_size)
    tensor: int = attrs.field(default=1, validator=_size)

    @property
    def parts(self) -> int:
        """The number of ranks of one replica."""
        return self.pipeline * self.tensor

    @property
    def workers(self) -> int:
        """The number of ranks of the run."""
        return self.data * self.parts

    def to_json(self) -> dict[str, int]:
        """The three numbers by name."""
        return attrs.asdict(self)


def parallel(workers: Any = AUTO, data: Any = None, pipeline: Any = None, tensor: Any = None) -> Parallel:
    """Complete the numbers that a user gives. ``workers`` is a number or "auto"; `None` means that a size is not given.

    The product of the three sizes is the number of workers. With ``workers`` "auto", a size that is not given is 1. With a number of
    workers, the first of tensor, data and pipeline that is not given becomes ``workers`` divided by the product of the given sizes. Raises
    `InputError` if this is impossible; the error line shows the calculation.
    """
    sizes = {"data_parallel": data, "pipeline_parallel": pipeline, "tensor_parallel": tensor}
    given = {name: arguments.whole(name, size, 1) for name, size in sizes.items() if size is not None}
    product = 1
    for size in given.values():
        product *= size
    if isinstance(workers, str):
        if workers != AUTO:
            raise arguments.wrong("workers", workers, "a whole number of at least 1, or auto")
        total = product
    else:
        total = arguments.whole("workers", workers, 1)
    words = " x ".join(f"{name} {size}" for name, size in given.items())
    free = next((name for name in ("tensor_parallel", "data_parallel", "pipeline_parallel") if name not in given), None)
    if free is None and product != total:
        raise InputError(f"workers {total}: {words} = {product}: expected workers {product}, or sizes with the product {total}")
    if total % product:
        raise InputError(f"workers {total}: {words}{f' = {product}' * (len(given) > 1)}, which does not divide {total}: expected a divisor")
    if free is not None:
        given[free] = total // product
    return Parallel(*(given.get(name, 1) for name in sizes))


def wished(workers: Any = AUTO, data: Any = None, pipeline: Any = None, tensor: Any = None) -> Parallel | int | None:
    """What the user has decided: a `Parallel` if a size is given or ``workers`` is 1, else the number of workers, else `None`.

    Arguments and errors are those of `parallel`.
    """
    found = parallel(workers, data, pipeline, tensor)
    if (found.workers == 1 and workers != AUTO) or any(size is not None for size in (data, pipeline, tensor)):
        return found
    return None if workers == AUTO else found.workers
