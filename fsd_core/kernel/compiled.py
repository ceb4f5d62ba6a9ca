"""Loads the compiled kernel, if it was built, and chooses its instruction set.

The environment variable ``FSD_KERNEL`` decides: ``auto`` (the default) takes the widest instruction set of the processor, the name of a set
(``avx512``, ``avx2``, ``neon``, ``plain``) takes this set, and ``numpy`` takes numpy. ``plain`` needs no instruction for a fused
multiply-add, gives the same bits as the other sets, and takes longer than numpy. So ``auto`` takes numpy on a processor that has only
``plain``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.errors import InputError

try:
    import fsd_core.kernel._kernel as LIB

    missing = ""
except ImportError as error:
    missing = str(error)

__all__ = ["LIB", "WIDTH", "Kernel", "active", "aligned", "instruction_sets", "kernel_name", "missing", "spread", "using"]

log = logging.getLogger(__name__)

VARIABLE = "FSD_KERNEL"
LINE_BYTES = 64
WIDTH = 32  # lanes of a tile, as in kernel.c


@attrs.frozen
class Kernel:
    """The compiled kernel with one instruction set: the set's name and number in the extension. ``threads``: how many compute at once."""

    name: str
    number: int
    threads: int


_forced: list[Kernel | None] = []  # the kernels of all open `using` blocks; the last one counts


def instruction_sets() -> dict[str, int]:
    """The instruction sets of this processor that the kernel has, the widest first, and their numbers. Empty without the extension."""
    return {} if missing else dict(LIB.sets())


def active() -> Kernel | None:
    """The kernel that computes now; `None`: numpy. Raises `InputError` if ``FSD_KERNEL`` names a kernel that this machine does not have."""
    return _forced[-1] if _forced else _chosen()


def kernel_name() -> str:
    """The name of what computes now: an instruction set of the compiled kernel, or numpy."""
    kernel = active()
    return "numpy" if kernel is None else kernel.name


@contextmanager
def using(name: str, threads: int = 0) -> Iterator[None]:
    """Compute with the kernel of this name in all threads of this process, for tests and benchmarks.

    ``threads``: 0 means one for each processor of this process. Raises `InputError` for a name that this machine does not have.
    """
    _forced.append(_named(name, threads))
    try:
        yield
    finally:
        _forced.pop()


@cache
def _chosen() -> Kernel | None:
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted == "auto" and (missing or list(instruction_sets()) == ["plain"]):
        why = f"the compiled kernel cannot be loaded: {missing}" if missing else "this processor has no fused multiply-add"
        log.warning("numpy computes, which takes several times as long: %s", why)
        return None
    return _named(wanted, 0)


def _named(name: str, threads: int) -> Kernel | None:
    sets = instruction_sets()
    if name == "numpy":
        return None
    if name == "auto":
        name = next(iter(sets), "")
    if name not in sets:
        expected = ", ".join(("auto", *sets, "numpy"))
        raise InputError(f"kernel {name!r}: expected one that this machine has: {expected}; the variable {VARIABLE} chooses it")
    return Kernel(name, sets[name], threads or _processors())


def _processors() -> int:
    """The processors that this process may use: a function often has fewer than its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A new float32 array without content that starts at a cache line: a vector that crosses two lines takes twice as long to load."""
    size = 4 * math.prod(shape)
    raw = np.empty(size + LINE_BYTES, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE_BYTES  # raw.ctypes takes several times as long
    return raw[start : start + size].view(np.float32).reshape(shape)


def spread(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Call ``work(first, last)`` for parts of the numbers 0 to ``count`` - 1, in up to ``threads`` threads at once; one is this thread."""
    threads = min(threads, count)
    if threads <= 1:
        return work(0, count)
    parts = min(count, 4 * threads)  # more than threads: a thread that the system stops for a while gets fewer of them
    ends = [count * part // parts for part in range(parts + 1)]
    left = pairwise(ends)  # one thread at a time may call next: the interpreter's lock holds

    def share() -> None:
        for first, last in left:
            work(first, last)

    others = [_pool(threads).submit(share) for _ in range(threads - 1)]
    try:
        share()
    finally:
        for other in others:
            if not other.cancel():  # it may not have begun: then nothing is left for it
                other.result()
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="fsd-kernel")
