"""The entry point: the group of commands, and what each error means to the caller.

Exit codes: 0; 1 a check asked for did not hold; 2 the input, flag or configuration is wrong; 3 the run failed;
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from types import FrameType
from typing import Any

import click

from fsd_core.cli import apps, compare, conformance, cost, demo, doctor, emulators, model, partition, report, run
from fsd_core.cli.screen import Screen
from fsd_core.errors import CheckFailed, InputError, RunFailed

__all__ = ["main"]


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C, so that a run ends its workers."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog="Start with: fsd demo")
@click.version_option(version("fsd-inference"), prog_name="fsd")
def root() -> None:
    """Fully serverless distributed inference.

    A model too large for one function is run by many short functions that nobody keeps warm, on a cloud or on this machine.
    """


for command in (
    run.run, compare.compare, report.report, partition.partition, model.group, cost.bill, cost.group, demo.demo, apps.deploy, apps.destroy,
    apps.gc, apps.clean, emulators.group, conformance.conformance, doctor.doctor,
):  # fmt: skip
    root.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code. With ``--json``, whatever happens, one JSON object is on standard output."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    screen = Screen(json="--json" in words)
    try:
        with _terminable():
            return int(root.main(words, prog_name="fsd", standalone_mode=False, obj=screen) or 0)
    except BaseException as error:
        code, fields, line = _explain(error)
        screen.answer(screen.known | {"error": fields})
        if os.environ.get("FSD_DEBUG") == "1":
            traceback.print_exception(error)
        screen.note(line)
        return code


def _explain(error: BaseException) -> tuple[int, dict[str, Any], str]:
    """Exit code, the ``error`` of the JSON object, and the last line on standard error."""

    def fields(code: str, message: str, rank: int | None = None, layer: int | None = None) -> dict[str, Any]:
        return {"code": code, "rank": rank, "layer": layer, "message": message}

    if isinstance(error, click.Abort | KeyboardInterrupt):
        first = error.__cause__ or error  # click's own Abort has the interrupt as its cause, and notes are on that
        code, word = (143, "terminated") if isinstance(first, Terminated) else (130, "interrupted")
        return code, fields("INTERRUPTED", word), "; ".join([f"fsd: {word}", *getattr(first, "__notes__", ())])
    if isinstance(error, click.ClickException):
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fsd"
        message = " ".join(error.format_message().split())
        return 2, fields("INVALID", message), f"{path}: {message} (see: {path} --help)"
    if isinstance(error, InputError):
        return 2, fields("INVALID", str(error)), f"fsd: {error}"
    if isinstance(error, CheckFailed):
        return 1, fields("CHECK", str(error)), f"fsd: {error}"
    if isinstance(error, RunFailed):
        return 3, fields(error.code.name, error.message, error.rank, error.layer), f"fsd: {error}"
    if isinstance(error, OSError | MemoryError) or "can't start new thread" in str(error):  # the machine's refusal, not ours
        why = getattr(error, "strerror", None) or str(error) or "out of memory"
        text = f"{getattr(error, 'filename', None) or type(error).__name__}: {why}"
        return 3, fields("UNAVAILABLE", text), f"fsd: {text}"
    text = f"this is a bug: {type(error).__name__}: {error}"
    return 3, fields("UNKNOWN", text), f"fsd: {text} (FSD_DEBUG=1 shows where)"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated`."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
