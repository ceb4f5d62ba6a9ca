"""How much time an interrupted command has for its clean-up, and what it tells the user that it could not clean up.

A command ends `LIMIT_S` seconds after its first signal, in whatever state it is (`fsd_core.cli.signals`). Code that holds something which
outlives the process, a slot or an emulator for instance, registers it with `leave_note` and limits the time of its clean-up to
`remaining`. This module uses no lock: the handler of a signal runs between any two steps of the main thread, so that a lock which the
main thread holds would never become free.
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
_whole = 0  # how many `whole` blocks the main thread is in
_waiting: int | None = None  # the signal that came in a `whole` block


def begin() -> None:
    """A signal came. The time limit starts at the first signal; later calls change nothing."""
    global _until
    _until = min(_until, time.monotonic() + LIMIT_S)


def end() -> None:
    """The interrupted work has ended and this process continues: remove the time limit."""
    global _until
    _until = math.inf


def remaining(max_s: float = math.inf) -> float:
    """Seconds until the process ends, from 0 to ``max_s``. Without an interrupt there is no limit: the result is ``max_s``."""
    return max(0.0, min(max_s, _until - time.monotonic()))


def leave_note(text: str) -> Callable[[], None]:
    """Register a note for the user. Returns a function that removes it, which may be called twice.

    If the command ends while the note is registered, its last line contains ``text``: what is left behind, and how to remove it.
    """
    key = object()
    _notes[key] = text

    def remove() -> None:
        _notes.pop(key, None)

    return remove


@contextlib.contextmanager
def leaving(text: str) -> Iterator[None]:
    """`leave_note` for the length of the block. The note stays registered if an interrupt, not an error, ends the block."""
    remove = leave_note(text)
    try:
        yield
    except Exception:
        remove()
        raise
    remove()


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Remove all notes that the block registers: what it leaves behind ends with its surroundings, an emulator for instance."""
    before = set(_notes)
    try:
        yield
    finally:
        for key in set(_notes) - before:
            _notes.pop(key, None)


def notes() -> list[str]:
    """The registered texts in the order of their registration, each once."""
    return list(dict.fromkeys(list(_notes.values())))


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Postpone signals until the end of the block, which has to be short.

    For instance around `subprocess.Popen`: an interrupt inside it would leave a child process that no variable refers to.
    """
    global _whole, _waiting
    if threading.current_thread() is not threading.main_thread():  # Python runs signal handlers in the main thread only
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
    """For the handler of signal ``number``: whether a `whole` block postpones it. If so, the signal is raised again at the block's end."""
    global _waiting
    if _whole:
        _waiting = _waiting or number
    return _whole > 0
