"""What an interrupted command has time for, and what it leaves behind.

A command ends `LIMIT_S` after its first signal, whatever it is doing (`fsd_core.cli.signals`). Who holds something that ought to be given
back says so with `leave_note`, and bounds its clean-up by `remaining`. No lock is taken: a signal's handler comes between any two steps
of its own thread.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["LIMIT_S", "begin", "contained", "end", "leave_note", "leaving", "notes", "postponed", "remaining", "whole"]

LIMIT_S = 2.0
_until = math.inf  # time.monotonic() at which the process ends
_notes: dict[object, str] = {}
_whole = 0  # blocks of the main thread that must not be cut
_waiting: int | None = None  # the signal that came meanwhile


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


@contextlib.contextmanager
def leaving(text: str) -> Iterator[None]:
    """`leave_note` within the block; it stays if the block is interrupted. An error speaks for itself."""
    given_back = leave_note(text)
    try:
        yield
    except Exception:
        given_back()
        raise
    given_back()


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """What the block leaves ends with what it ran on, an emulator for instance, and need not be named."""
    before = set(_notes)
    try:
        yield
    finally:
        for key in set(_notes) - before:
            _notes.pop(key, None)


def notes() -> list[str]:
    """What is held now, in the order in which it was named, each text once."""
    return list(dict.fromkeys(list(_notes.values())))


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Within the block, which must be short, no signal raises: what is begun is also noted, and so can be ended. Then it does.

    For a child process, for instance: interrupted while `subprocess.Popen` waits, it would run on, known to nobody.
    """
    global _whole, _waiting
    if threading.current_thread() is not threading.main_thread():  # where nothing raises
        yield
        return
    _whole += 1
    try:
        yield
    finally:
        _whole -= 1
        if not _whole and _waiting is not None:
            number, _waiting = _waiting, None
            signal.raise_signal(number)


def postponed(number: int) -> bool:
    """For the handler of a signal: whether it is to come again when a `whole` block ends."""
    global _waiting
    if _whole:
        _waiting = _waiting or number
    return _whole > 0
