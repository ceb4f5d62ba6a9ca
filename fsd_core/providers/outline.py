"""`Outline`: what the services of a provider allow an app, known before there is an app, an account or a request."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from fsd_core.driver import InvokeLimits, MessageLimits, ObjectLimits
from fsd_core.errors import InputError

__all__ = ["Outline", "sized"]


def _anyone(workers: int) -> None:
    """Accepts any number of workers."""


@attrs.frozen(kw_only=True, eq=False)
class Outline:
    """The limits of an app with a provider's settings. `BaseProvider.outline` makes it.

    - ``messages``, ``objects``, ``functions``: the limits that the provider's drivers of such an app have.
    - ``memory_mb``: the sizes of a function, in MiB ascending, among which a plan may choose; ``functions`` has the size of the settings.
    - ``cores``: the processor cores of a function with so many MiB.
    - ``route_ranks``: how many ranks, one after another, one publish can reach; `None`: all. See `fsd_core.driver.MessageDriver.route`.
    - ``direct``: the limits of drivers that were made with ``direct``, of which one publish reaches one rank; `None`: there is one way.
    - ``caveat``: what of these settings the provider's own table of latencies does not hold for; empty if it holds for all.
    - ``admit``: raises `InputError` if the queues cannot carry so many workers.
    """

    messages: MessageLimits
    objects: ObjectLimits
    functions: InvokeLimits
    memory_mb: tuple[int, ...]
    cores: Callable[[int], float] = lambda memory_mb: 1.0
    route_ranks: int | None = None
    direct: MessageLimits | None = None
    caveat: str = ""
    admit: Callable[[int], None] = _anyone

    def route(self, rank: int) -> int:
        """The route of a publish to ``rank``."""
        return 0 if self.route_ranks is None else rank // self.route_ranks

    def soonest(self) -> Outline:
        """The limits with drivers that were made with ``direct``."""
        return self if self.direct is None else attrs.evolve(self, messages=self.direct, route_ranks=1, direct=None)

    def refuses(self, workers: int) -> str:
        """Why the app cannot run so many workers over its queues; empty if it can."""
        try:
            self.admit(workers)
        except InputError as error:
            return str(error)
        return ""


def sized(limits: InvokeLimits, concurrency: int | str | None, memory_mb: int | str, timeout_s: float | str) -> InvokeLimits:
    """A platform's ``limits`` for the functions of one app. The names of an app have the three numbers as texts.

    ``concurrency``: how many functions may run at once; `None` if not known. ``memory_mb``: MiB of each. ``timeout_s``: seconds of each.
    """
    at_once = None if concurrency is None else int(concurrency)
    return attrs.evolve(limits, concurrency=at_once, memory_bytes=int(memory_mb) << 20, timeout_s=float(timeout_s))
