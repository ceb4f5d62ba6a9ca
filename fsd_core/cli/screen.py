"""What the command shows: answers on standard output, everything else on standard error.

While a command runs, file descriptor 1 points at standard error: what children and C libraries print there can not mix
with the answer, which goes to a private duplicate of the original.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

__all__ = ["Screen", "Show", "amount", "pairs"]

Show = Callable[[str, int, int, str], None]  # phase, done, total (0: unknown), text
EVERY_S = 5.0  # of plain progress lines within one phase


class Screen:
    """One command's output. ``known`` collects the fields that are known so far, for the JSON object of a failure."""

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self.known: dict[str, Any] = {}
        self.answered = False
        self._out: TextIO | None = None

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Point file descriptor 1 at 2, and Python's standard output with it, until the end of the block."""
        sys.stdout.flush()
        real = os.dup(1)
        os.dup2(2, 1)
        self._out = os.fdopen(os.dup(real), "w", encoding=sys.stdout.encoding or "utf-8", errors="replace")
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            ctypes.CDLL(None).fflush(None)  # what C libraries still hold belongs to standard error too
            os.dup2(real, 1)
            os.close(real)
            out, self._out = self._out, None
            with contextlib.suppress(BrokenPipeError):
                out.close()

    def answer(self, fields: Mapping[str, Any]) -> None:
        """With ``--json``: print the one object. Of several only the first is printed."""
        if self.json and not self.answered:
            self.answered = True
            self._write(json.dumps(fields, allow_nan=False) + "\n")

    def print(self, *renderables: RenderableType) -> None:
        """For people, on standard output; nothing with ``--json``. Plain text is not wrapped, so that it can be copied."""
        if self.json:
            return
        out = self._out or sys.stdout
        console = Console(file=out, width=None if out.isatty() else 100, highlight=False)
        with console.capture() as capture:
            for renderable in renderables:
                console.print(renderable, soft_wrap=isinstance(renderable, str), markup=False)
        self._write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

    def note(self, text: str) -> None:
        """One line on standard error."""
        with contextlib.suppress(BrokenPipeError):
            print(" ".join(text.split()), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Show]:
        """How far something is, on standard error: bars on a terminal, sparse lines elsewhere. The callback is thread-safe."""
        console = Console(file=sys.stderr)
        if not console.is_terminal:
            yield _lines(self.note)
            return
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Bars(*columns, console=console, transient=True, redirect_stdout=False) as bars:
            yield _bars(bars)

    def _write(self, text: str) -> None:
        out = self._out or sys.stdout
        try:
            out.write(text)
            out.flush()
        except BrokenPipeError:  # the reader has what it wanted; the work and the exit code stand
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> Group:
    """A title and a table of names and values."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=22)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return Group(Text(title, style="bold"), table)


def amount(count: float) -> str:
    """Bytes for people: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def _bars(bars: Bars) -> Show:
    tasks: dict[str, Any] = {}
    lock = threading.Lock()

    def show(phase: str, done: int, total: int, text: str) -> None:
        with lock:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=None, text="")
        bars.update(tasks[phase], completed=done, total=total or None, text=text)

    return show


def _lines(note: Callable[[str], None]) -> Show:
    last: dict[str, float] = {}
    lock = threading.Lock()

    def show(phase: str, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        with lock:
            if phase in last and now - last[phase] < EVERY_S:
                return
            last[phase] = now
        note(f"{phase} {f'{done}/{total} ' if total else ''}{text}")

    return show
