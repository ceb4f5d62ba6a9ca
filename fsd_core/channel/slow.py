"""How a rank finds the ranks that it waits for too long. It calls them slow, and the client starts another function for one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from fsd_core.channel.limits import Patience

__all__ = ["SlowSources"]


@attrs.define(eq=False)
class SlowSources:
    """Finds the slow sources of one rank. ``call(step, sources, again)`` adds them to the news of the run.

    With ``again``, ``call`` also adds sources that another rank has already called slow.
    """

    patience: Patience
    call: Callable[[int, Sequence[int], bool], None]
    _called_s: float = attrs.field(default=0.0, init=False)  # how long this wait had lasted when this rank last called a source slow
    _doubted: bool = attrs.field(default=False, init=False)  # another rank has called this rank slow during this wait

    def begins(self, own_s: float) -> None:
        """Record that this rank begins to wait for the payloads of a step, after ``own_s`` seconds of work."""
        self._called_s, self._doubted = 0.0, False
        self.patience.step_began(own_s)

    def arrived(self, source: int, waited: float) -> None:
        """Record that a payload of ``source`` came after ``waited`` seconds in which none came. A new wait begins."""
        self._called_s, self._doubted = 0.0, False
        self.patience.arrived(source, waited)

    def doubt(self) -> None:
        """Record that another rank calls this rank slow. If this rank only waits too, `look` calls its own missing sources slow."""
        self._doubted = True

    def look(self, step: int, missing: Sequence[int], waited: float) -> bool:
        """Call the late ones among the ``missing`` sources of ``step`` slow, and again each time that the wait has doubled.

        The wait has lasted ``waited`` seconds. Returns `True` if this call is the first in this wait that calls a source slow.
        """
        passes_on = self._doubted and 2 * waited > self.patience.seconds
        late = missing if passes_on else [source for source in missing if self.patience.is_over(source, waited)]
        if not late or (waited < 2 * self._called_s and not passes_on):
            return False
        first = self._called_s == 0
        self._called_s, self._doubted = waited, False
        self.call(step, late, passes_on or not first)
        return first
