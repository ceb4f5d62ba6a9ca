"""The entry point of the command: it turns signals, errors and closed streams into an exit code and a last line.

This module imports little before `Signals.start`, because a signal that arrives earlier ends the process without a last line.

Exit codes: 0: success; 1: a check that the user asked for failed; 2: an input, flag or setting is wrong; 3: the run failed, or the command
could not print its answer; 129, 130, 143: SIGHUP, SIGINT or SIGTERM ended the command.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from fsd_core.cli.screen import Screen
from fsd_core.cli.signals import Interrupted, Signals
from fsd_core.common import interrupt

__all__ = ["main"]

_NO_MEMORY = ("can't start new thread", "failed to map segment", "annot allocate memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. With ``--json``, it prints one JSON object, even if it fails.

    ``arguments``: the words after ``fsd``; `None` means the arguments of this process. In that case the process is expected to end after
    this call, because the earlier signal handlers are not restored.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    screen = Screen(json="--json" in words)
    signals = Signals(lambda came: _last_words(screen, came))
    with screen.streams(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: screen.note(f"warning: {message}")
        try:
            try:
                signals.start()
                code = _command(words, screen, signals)
            except Interrupted as late:  # while an earlier error was being shown
                code = _last_words(screen, late)
            signals.over()
        finally:
            if arguments is not None:
                signals.stop()
    return code


def _command(words: Sequence[str], screen: Screen, signals: Signals) -> int:
    try:
        from fsd_core.cli.commands import root

        code = int(root.main(list(words), prog_name="fsd", standalone_mode=False, obj=screen) or 0)
        if signals.came:  # and other code caught the exception of the signal
            raise signals.came
    except BaseException as error:
        return _last_words(screen, signals.came or error)
    if lost := "is closed" if screen.closed else screen.lost:
        run = screen.known.get("run")
        kept = f"; the record of run {run} is kept: fsd report {run}" if run else ""
        screen.note(f"fsd: standard output: {lost}: the answer was not printed{kept}")
    return code or (3 if screen.lost else 0)


def _last_words(screen: Screen, error: BaseException) -> int:
    """Write the last line and, with ``--json``, the JSON object. Returns the exit code."""
    code, fields, line = _explain(error)
    if os.environ.get("FSD_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    screen.answer(dict(screen.known) | {"error": fields})
    screen.note(line)
    return code


def _explain(error: BaseException) -> tuple[int, dict[str, Any], str]:
    """Exit code, the ``error`` of the JSON object, and the last line on standard error."""

    def fields(code: str, message: str, rank: int | None = None, layer: int | None = None) -> dict[str, Any]:
        return {"code": code, "rank": rank, "layer": layer, "message": message}

    if isinstance(error, KeyboardInterrupt):
        code, word = (error.code, error.word) if isinstance(error, Interrupted) else (130, "interrupted")
        left = dict.fromkeys([*getattr(error, "__notes__", ()), *interrupt.notes()])
        return code, fields("INTERRUPTED", word), "; ".join([f"fsd: {word}", *left])
    import click

    from fsd_core.errors import CheckFailed, InputError, RunFailed

    if isinstance(error, click.Abort):  # which click raises for an interrupt, its cause, and for the end of standard input
        return _explain(error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else KeyboardInterrupt())
    if isinstance(error, click.ClickException):
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fsd"
        message = " ".join(error.format_message().split())
        return 2, fields("INVALID", message), f"{path}: {message} (see: {path} --help)"
    if isinstance(error, InputError):
        return 2, fields("INVALID", str(error)), f"fsd: {error}"
    if isinstance(error, CheckFailed):
        return 1, fields("CHECK", str(error)), f"fsd: {error}"
    if isinstance(error, RunFailed):
        line = "; ".join([f"fsd: {error}", *getattr(error, "__notes__", ())])
        return 3, fields(error.code.name, error.message, error.rank, error.layer), line
    # An error of the machine, not a defect of fsd. With too little memory, a library cannot be imported, and a thread cannot start.
    if isinstance(error, OSError | MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        why = getattr(error, "strerror", None) or str(error) or "out of memory"
        text = f"{getattr(error, 'filename', None) or type(error).__name__}: {why}"
        return 3, fields("UNAVAILABLE", text), f"fsd: {text}"
    text = f"this is a bug: {type(error).__name__}: {error}"
    return 3, fields("UNKNOWN", text), f"fsd: {text} (FSD_DEBUG=1 shows where)"
