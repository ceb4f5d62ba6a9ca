"""`Outline`: what the services of a provider allow an app. It needs no app, no account and no request."""

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
    - ``cores``: returns the number of processor cores of a function, from its memory in MiB.
    - ``route_ranks``: how many consecutive ranks one publish can reach; `None`: all. See `fsd_core.driver.MessageDriver.route`.
    - ``direct``: the limits of drivers that were made with ``direct``: one publish of these reaches one rank. `None`: the provider has only
      one way to publish.
    - ``caveat``: in which settings the latencies of the app differ from those in the provider's own table; empty if the table is for these
      settings.
    - ``admit``: raises `InputError` if the queues cannot serve this number of workers.
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
        """The outline for drivers that were made with ``direct``, which deliver sooner; the same one if there is only one way."""
        return self if self.direct is None else attrs.evolve(self, messages=self.direct, route_ranks=1, direct=None)

    def refuses(self, workers: int) -> str:
        """Why the queues of the app cannot serve ``workers`` workers; empty if they can."""
        try:
            self.admit(workers)
        except InputError as error:
            return str(error)
        return ""


def sized(limits: InvokeLimits, concurrency: int | str | None, memory_mb: int | str, timeout_s: float | str) -> InvokeLimits:
    """A platform's ``limits`` with the numbers of one app. Takes numbers, or texts as in `Resources.names`.

    ``concurrency``: how many functions may run at once; `None` if not known. ``memory_mb``: the memory of a function in MiB. ``timeout_s``:
    the time limit of a function in seconds.
    """
    at_once = None if concurrency is None else int(concurrency)
    return attrs.evolve(limits, concurrency=at_once, memory_bytes=int(memory_mb) << 20, timeout_s=float(timeout_s))
