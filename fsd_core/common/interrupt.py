"""Limits the clean-up time of an interrupted command, and collects notes for the user about things that the command could not clean up.

`fsd_core.cli.signals` ends a command `LIMIT_S` seconds after its first signal, even if the clean-up has not finished. Code that holds
something that outlives the process, for instance a slot or an emulator, registers a note with `leave_note` and limits its clean-up to
`remaining` seconds. This module uses no lock: Python runs a signal handler inside the main thread, so the handler would wait forever for
a lock that the main thread holds.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["LIMIT_S", "begin", "contained", "end", "heard", "leave_note", "leaving", "notes", "postponed", "remaining", "whole"]

LIMIT_S = 2.0
_until = math.inf  # time.monotonic() at which the process ends
_notes: dict[object, str] = {}
_whole = 0  # how many `whole` blocks the main thread is in
_waiting: int | None = None  # the first signal that a `whole` block has postponed


def begin() -> None:
    """Start the time limit, at the first signal. Later calls change nothing."""
    global _until
    _until = min(_until, time.monotonic() + LIMIT_S)


def end() -> None:
    """Remove the time limit, because the interrupted work has ended and the process continues."""
    global _until
    _until = math.inf


def remaining(max_s: float = math.inf) -> float:
    """The seconds until the process ends, from 0 to ``max_s``. Without an interrupt the result is ``max_s``."""
    return max(0.0, min(max_s, _until - time.monotonic()))


def leave_note(text: str) -> Callable[[], None]:
    """Register a note for the user. Returns a function that removes the note; a second call of that function does nothing.

    ``text`` describes what stays behind and how to remove it. If the command ends while the note is registered, the command prints it in
    its last line.
    """
    key = object()
    _notes[key] = text

    def remove() -> None:
        _notes.pop(key, None)

    return remove


@contextlib.contextmanager
def leaving(text: str) -> Iterator[None]:
    """Register a note during the block. The note is removed if the block ends normally or by an error, and stays after an interrupt."""
    remove = leave_note(text)
    try:
        yield
    except Exception:
        remove()
        raise
    remove()


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Remove all notes that the block registers. For work inside an environment that the caller removes, for instance an emulator."""
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
def heard() -> Iterator[None]:
    """Within the block, SIGINT raises KeyboardInterrupt in the main thread, also if it runs an event loop. `whole` postpones it.

    The handler of an event loop asks the loop to cancel its task, and the loop cannot do that while the block keeps its thread busy. Other
    handlers of the caller stay, for instance those of the command, and so does a signal that is ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or not callable(before) or (before is not signal.default_int_handler and not _in_event_loop()):
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _raise(number: int, frame: FrameType | None) -> None:
    if not postponed(number):
        raise KeyboardInterrupt


def _in_event_loop() -> bool:
    """Whether asyncio runs an event loop in this thread."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Postpone signals until the end of the block. The block has to be short.

    It protects, for instance, a call of `subprocess.Popen`: an interrupt inside the call would leave a child process that no variable
    refers to, so that nobody could end it.
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
    """Return True if a `whole` block postpones signal ``number``; the end of that block raises the signal again. For signal handlers."""
    global _waiting
    if _whole:
        _waiting = _waiting or number
    return _whole > 0
