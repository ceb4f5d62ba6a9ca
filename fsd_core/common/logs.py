"""Log lines: one line each and free of secrets. A `Journal` keeps the lines of a worker, `shown` writes those of a command.

All modules log with ``logging.getLogger(__name__)``. Nothing here changes what another program does with these loggers, except inside the
two blocks `kept` and `shown`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from fsd_core.errors import one_line

__all__ = ["DEBUG", "INFO", "LEVELS", "LIMIT_BYTES", "Journal", "Line", "MirroredLines", "include", "kept", "masked", "set_level", "shown"]

INFO, DEBUG = LEVELS = ("info", "debug")  # how much a worker keeps
LIMIT_BYTES = 64 << 10  # of the lines that a journal keeps, as JSON
LINE_CHARS = 1000
FRAMES = 4  # of the traceback of an error
CORE = "fsd_core"
_packages = {CORE, "fsd_conformance"}  # whose lines count as those of this project; see `include`
_NUMBERS = {INFO: logging.INFO, DEBUG: logging.DEBUG}
_LIBRARIES = {INFO: logging.WARNING, DEBUG: logging.INFO}  # their debug lines hold payloads and signed headers
_MASK = "***"
# Signatures, keys and tokens, as connection strings, addresses, headers and JSON write them.
_SECRET = re.compile(
    r"""(?isx)
    ( (?: sharedaccesskey | accountkey | secret[a-z_]{0,40} | passw(?:or)?d | x-functions-key | token | private_?key | api[-_]?key
        | frame_?key | signature | (?:\b|(?<=%3f)|(?<=%26))sig | x-(?:amz|goog)-credential | [?&]code )
      \\?["']? \s* (?:[=:]|%3d) \s* (?P<quote>\\?["'])? )
    (?(quote) (?:\\.|[^\\])*? (?=(?P=quote)|$) | (?: -----BEGIN .*? (?=-----END|$) | [^\s&;,"'<>]+ ) )
    | (\b(?:bearer|basic|sharedkey|sharedaccesssignature)\s+) [^\s,"'<>]+
    | (://[^/\s:@]{0,200}:) [^\s"'<>]{1,200} (?=@)
    | (-----BEGIN\ [^-]*KEY-----) .*? (?=-----END|$)
    """
)


def masked(text: str) -> str:
    """The text in one line that can be printed, with each secret in it replaced by ``***``: keys, signatures, tokens, passwords."""
    return one_line(" ".join(_SECRET.sub(lambda found: next(filter(None, found.groups()), "") + _MASK, text).split()))


@attrs.frozen
class Line:
    """One line of a log. ``at``: seconds since 1970; ``level``: info, warning and so on; ``name``: the logger, which is the module."""

    at: float
    level: str
    name: str
    text: str

    @staticmethod
    def of(record: logging.LogRecord) -> Line:
        """The line of a record: one line without secrets, of at most `LINE_CHARS` characters."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError) as error:  # of a library, whose arguments do not fit its format
            text = f"{record.msg} ({error})"
        if record.exc_info and (cause := record.exc_info[1]) is not None:
            frames = traceback.extract_tb(cause.__traceback__)[-FRAMES:]
            places = " < ".join(f"{os.path.basename(each.filename)}:{each.lineno} {each.name}" for each in reversed(frames))
            text += f" ({type(cause).__name__}: {cause}{f'; raised in {places}' if places else ''})"
        text = masked(text)
        text = text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}..."
        return Line(round(record.created, 3), record.levelname.lower(), record.name, text)

    def packed(self) -> list[Any]:
        """The line as values of JSON."""
        return [self.at, self.level, self.name, self.text]

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        return f"{clock}.{int(self.at * 1000) % 1000:03d} {self.level:<7} {self.name}: {self.text}"


class Journal(logging.Handler):
    """Keeps the first and the last lines that it gets, at most `LIMIT_BYTES` of JSON together. Thread-safe."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__()
        self._limit = limit_bytes // 2
        self._first: list[Line] = []
        self._last: deque[tuple[int, Line]] = deque()
        self._first_bytes = self._last_bytes = 0
        self.dropped = 0
        self.count = 0  # of all lines so far

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a record. Never raises."""
        try:
            self.add(Line.of(record))
        except Exception:  # to lose a line is better than to end the work
            self.dropped += 1

    def add(self, line: Line) -> None:
        """Keep a line."""
        size = len(json.dumps(line.packed())) + 2
        self.acquire()
        try:
            self.count += 1
            if not self._last and not self.dropped and self._first_bytes + size <= self._limit:
                self._first.append(line)
                self._first_bytes += size
                return
            self._last.append((size, line))
            self._last_bytes += size
            while self._last_bytes > self._limit:
                self._last_bytes -= self._last.popleft()[0]
                self.dropped += 1
        finally:
            self.release()

    def lines(self) -> list[list[Any]]:
        """The kept lines in their order, each as `Line.packed`. Where lines were dropped, a line says how many."""
        self.acquire()
        try:
            first, last = list(self._first), [line for _, line in self._last]
        finally:
            self.release()
        if self.dropped:
            at = last[0].at if last else first[-1].at if first else time.time()
            first.append(Line(at, "warning", __name__, f"{self.dropped} lines are dropped here, so that the first and last lines stay"))
        return [line.packed() for line in (*first, *last)]


class MirroredLines(logging.Handler):
    """Writes ``prefix`` and each line to standard error: to the object that is ``sys.stderr`` when the line is written."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record. Never raises: standard error may be closed, or a file on a disk that is full."""
        with contextlib.suppress(Exception):
            sys.stderr.write(f"{self._prefix}{Line.of(record)}\n")
            sys.stderr.flush()


# Without a handler, Python writes the warnings of a logger to standard error, where they would mix with the output of the program.
logging.getLogger(CORE).addHandler(logging.NullHandler())
_changing = threading.Lock()


def include(module: str) -> None:
    """Treat log lines of the package of ``module`` like those of this project, from the next `set_level`, `kept` or `shown` on."""
    _packages.add(module.partition(".")[0])


def set_level(level: str, libraries: int = logging.WARNING) -> Mapping[str, int]:
    """Set which lines loggers pass on: those of this project from ``level`` on, those of libraries from ``libraries`` on.

    ``level`` is one of `LEVELS`, ``libraries`` a number of `logging`. Returns the earlier levels of these loggers, by name.
    """
    with _changing:
        names = {"": libraries, **dict.fromkeys(sorted(_packages), _NUMBERS[level])}
        before = {name: logging.getLogger(name or None).level for name in names}
        for name, number in names.items():
            logger = logging.getLogger(name or None)
            if name or logger.level > number:  # a root logger that lets more pass is the choice of its program
                logger.setLevel(number)
        return before


@contextlib.contextmanager
def _attached(handler: logging.Handler, level: str, libraries: int = logging.WARNING) -> Iterator[None]:
    root, before = logging.getLogger(), set_level(level, libraries)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for name, number in before.items():
            logging.getLogger(name or None).setLevel(number)


@contextlib.contextmanager
def kept(journal: Journal) -> Iterator[None]:
    """Within the block, ``journal`` gets the lines of this process: from level info on, until `set_level` sets another level.

    If no other handler gets the lines, they go to standard error too, which platforms keep as the function's log.
    """
    present = (*logging.getLogger().handlers, *logging.getLogger(CORE).handlers)
    with contextlib.ExitStack() as stack:
        if all(isinstance(each, logging.NullHandler) for each in present):
            stack.enter_context(_attached(MirroredLines(), INFO))
        stack.enter_context(_attached(journal, INFO))
        yield


@contextlib.contextmanager
def shown(verbose: int) -> Iterator[None]:
    """Within the block, this process writes its lines to standard error: with 0 none, with 1 from info on, with 2 from debug on."""
    if not verbose:
        yield
        return
    from fsd_core.common.plugins import PROVIDERS, entries  # a worker needs none of it

    for entry in entries(PROVIDERS).values():
        include(entry.module)
    level = LEVELS[min(verbose, len(LEVELS)) - 1]
    with _attached(MirroredLines(), level, _LIBRARIES[level]):
        yield
