"""The output of the command: the answer on standard output, everything else on standard error.

While a command runs, file descriptor 1 is a duplicate of standard error, so that the output of children and C libraries does not mix with
the answer. The answer goes to a private duplicate of the original standard output. If a stream cannot be written, the command still does
its work, and `Screen.lost` holds the reason why the answer is incomplete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.progress import Progress as Bars

__all__ = ["Screen", "Show", "pairs"]

Show = Callable[[str, int, int, str], None]  # phase, done, total (0: unknown), text
EVERY_S = 5.0  # between two progress lines of one phase, if standard error is not a terminal


class _Lossy:
    """A text stream that raises no OSError: after the first one it drops all text. ``error``: the first OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Never raises an OSError."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Never raises an OSError."""
        self._try(self._stream.flush)

    def _try(self, what: Callable[[], object]) -> None:
        try:
            what()
        except OSError as error:
            self.error = self.error or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # the text in its buffers goes there too
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Screen:
    """The output of one command. ``known``: the fields of the answer that are known so far; the JSON object of a failure has them too.

    ``closed``: standard output was closed when the process started, so no program reads the answer.
    """

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self.closed = False
        self.known: dict[str, Any] = {}
        self._answering = threading.Lock()  # acquired by the first answer and never released
        self._out: _Lossy | None = None
        self._private: _Lossy | None = None

    @contextlib.contextmanager
    def streams(self) -> Iterator[None]:
        """Within the block, file descriptors 0 to 2 are open, and `sys.stdout` and `sys.stderr` raise no OSError."""
        closed = [number for number in range(3) if not _is_open(number)]
        for number in closed:  # else the next file that is opened would get this number
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        before = sys.stdout, sys.stderr
        out, err = (_stream(number, stream) for number, stream in enumerate(before, 1))
        self._out = _Lossy(out)
        self.closed = 1 in closed
        sys.stdout, sys.stderr = cast(TextIO, self._out), cast(TextIO, _Lossy(err))
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stdout, sys.stderr = before

    @property
    def lost(self) -> str | None:
        """The reason why a part of the answer was not printed; `None` if all was printed, or if the reader closed the pipe."""
        errors = [stream.error for stream in (self._out, self._private) if stream and stream.error]
        return next((error.strerror or str(error) for error in errors if error.errno != errno.EPIPE), None)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Within the block, file descriptor 1 and `sys.stdout` lead to standard error."""
        import ctypes

        sys.stdout.flush()
        real = os.dup(1)
        os.dup2(2, 1)
        private = os.fdopen(os.dup(real), "w", encoding=sys.stdout.encoding or "utf-8", errors="replace")
        self._private = _Lossy(private)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            ctypes.CDLL(None).fflush(None)  # the text in the buffers of C libraries belongs to standard error too
            os.dup2(real, 1)
            os.close(real)
            self._private.flush()
            private.close()

    def answer(self, fields: Mapping[str, Any]) -> None:
        """With ``--json``: print the fields as one JSON object. Later calls print nothing."""
        if self.json and self._answering.acquire(blocking=False):
            self._write(json.dumps(fields, allow_nan=False) + "\n")

    def print(self, *renderables: RenderableType) -> None:
        """Print for people on standard output; with ``--json``, print nothing. Plain text is not wrapped, so that it can be copied."""
        if self.json:
            return
        from rich.console import Console

        out: Any = self._writer()
        console = Console(file=out, width=None if out.isatty() else 100, highlight=False, emoji=False)
        with console.capture() as capture:
            for renderable in renderables:
                console.print(renderable, soft_wrap=isinstance(renderable, str), markup=False)
        self._write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))

    def note(self, text: str) -> None:
        """One line on standard error."""
        sys.stderr.write(" ".join(text.split()) + "\n")
        sys.stderr.flush()

    @contextlib.contextmanager
    def progress(self) -> Iterator[Show]:
        """A callback that shows progress on standard error: bars on a terminal, else a line every 5 s. It is thread-safe."""
        from rich.console import Console

        console = Console(file=sys.stderr)
        if not console.is_terminal:
            yield _lines(self.note)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Bars(*columns, console=console, transient=True, redirect_stdout=False) as bars:
            yield _bars(bars)

    def _writer(self) -> Any:
        """The stream of the answer."""
        private = self._private
        return private if private and not private.closed else self._out or sys.stdout

    def _write(self, text: str) -> None:
        out = self._writer()
        out.write(text)
        out.flush()


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _stream(number: int, stream: TextIO | None) -> TextIO:
    """Python's stream, or a new one on file descriptor ``number`` where Python found it closed."""
    return stream if stream is not None else os.fdopen(number, "w", encoding="utf-8", errors="replace", closefd=False)


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> Group:
    """A title and a table with two columns: names and values."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=22)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return Group(Text(title, style="bold"), table)


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
