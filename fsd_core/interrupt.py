"""What an interrupted command has time for, and what it leaves behind.

A command ends `LIMIT_S` after its first signal, whatever it is doing (`fsd_core.cli.signals`). Who holds something that ought to be given
back says so with `leave_note`, and bounds its clean-up by `remaining`. No lock is taken: a signal's handler comes between any two steps
of its own thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["LIMIT_S", "begin", "end", "leave_note", "notes", "remaining"]

LIMIT_S = 2.0
_until = math.inf  # time.monotonic() at which the process ends
_notes: dict[object, str] = {}


def begin() -> None:
    """A signal came: the time runs from the first one."""
    global _until
    _until = min(_until, time.monotonic() + LIMIT_S)


def end() -> None:
    """What was interrupted is over, and this process goes on."""
    global _until
    _until = math.inf


def remaining(most_s: float = math.inf) -> float:
    """Seconds until the process ends, at most ``most_s``, at least 0; infinite where no signal came, or nobody would end the process."""
    return max(0.0, min(most_s, _until - time.monotonic()))


def leave_note(text: str) -> Callable[[], None]:
    """Name what is held until the returned function is called: should the command end before that, its last line says ``text``.

    ``text``: what stays, and what removes it. The returned function may be called twice.
    """
    key = object()
    _notes[key] = text

    def given_back() -> None:
        _notes.pop(key, None)

    return given_back


def notes() -> list[str]:
    """What is held now, in the order in which it was named, each text once."""
    return list(dict.fromkeys(list(_notes.values())))
