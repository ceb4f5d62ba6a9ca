"""How a rank finds the ranks that it waits for too long. It calls them slow, and the client starts another function for one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from fsd_core.channel.limits import Patience

__all__ = ["SlowSources"]


@attrs.define(eq=False)
class SlowSources:
    """The sources of one rank. ``call(step, sources, again)`` adds them to the news of the run.

    With ``again``, it also adds those that another rank has called slow already.
    """

    patience: Patience
    call: Callable[[int, Sequence[int], bool], None]
    _called_s: float = attrs.field(default=0.0, init=False)  # how long this wait had lasted when this rank last called somebody slow
    _doubted: bool = attrs.field(default=False, init=False)  # somebody has called this rank slow during this wait

    def begins(self, own_s: float) -> None:
        """A wait for the payloads of a step begins, after ``own_s`` seconds of work."""
        self._called_s, self._doubted = 0.0, False
        self.patience.step_began(own_s)

    def arrived(self, source: int, waited: float) -> None:
        """A payload of ``source`` came after ``waited`` seconds without another one. A new wait begins."""
        self._called_s, self._doubted = 0.0, False
        self.patience.arrived(source, waited)

    def doubt(self) -> None:
        """Somebody calls this rank slow. If it waits itself, it says for whom, so that the rank that all wait for is found."""
        self._doubted = True

    def look(self, step: int, missing: Sequence[int], waited: float) -> bool:
        """Call those of the ``missing`` sources of ``step`` slow that are late, once each time that the wait has doubled.

        Returns `True` if it does so for the first time in this wait, which has lasted ``waited`` seconds.
        """
        passes_on = self._doubted and 2 * waited > self.patience.seconds
        late = missing if passes_on else [source for source in missing if self.patience.is_over(source, waited)]
        if not late or (waited < 2 * self._called_s and not passes_on):
            return False
        first = self._called_s == 0
        self._called_s, self._doubted = waited, False
        self.call(step, late, passes_on or not first)
        return first
