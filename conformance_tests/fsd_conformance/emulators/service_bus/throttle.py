"""The Standard tier's throttle: each second a namespace gets new credits.

Source: Microsoft, "Throttling operations on Azure Service Bus" (2026-11): 1,000 credits per second for each namespace; a message sent,
received or peeked costs 1, an administration operation 10. Without credits an operation is refused until the next second.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["BUSY", "CREDITS", "Throttle"]

CREDITS = 1000
_PERIOD_MS = 1000
BUSY = (
    "com.microsoft:server-busy",
    "The request was terminated because the entity is being throttled. Error code: 50009. Please wait 2 seconds and try again.",
)


class Throttle:
    """The credits of one namespace: ``credits`` per second, 0: no throttle. ``clock`` returns the time in ms."""

    def __init__(self, credits: int, clock: Callable[[], int]) -> None:
        self._credits = credits
        self._clock = clock
        self._left = credits
        self._period = clock() // _PERIOD_MS

    def take(self, cost: int) -> bool:
        """Pay ``cost`` credits. Returns False, and pays nothing, if fewer are left. If ``cost`` is larger than the credits of one second,
        it takes all of these.
        """
        if not self._credits:
            return True
        period = self._clock() // _PERIOD_MS
        if period != self._period:
            self._period, self._left = period, self._credits
        if self._left < min(cost, self._credits):
            return False
        self._left = max(0, self._left - cost)
        return True
