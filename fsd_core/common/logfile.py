"""A file of log lines that outlives the process which writes them: if a function is killed, its host passes the lines to the run.

The host makes the file for one function, in memory if the system can do this, and closes it after the end of the function.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from fsd_core.common.logs import LIMIT_BYTES, Journal, Line, MirroredLines

__all__ = ["LogFile", "read"]

FULL_BYTES = 4 * LIMIT_BYTES  # at this size, the file is replaced by the lines that a journal keeps


class LogFile(logging.Handler):
    """Appends each line to the file at this descriptor, as one line of JSON. Writes lines of level error to standard error too."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._journal = Journal()
        self._size = 0
        self._errors = MirroredLines("fsd worker: ")

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record. Never raises."""
        try:
            line = Line.of(record)
            self._journal.add(line)
            self._write(_packed([line.packed()]))
        except Exception:  # the memory is full: to lose a line is better than to end the work
            self._journal.dropped += 1
        if record.levelno >= logging.ERROR:
            self._errors.handle(record)

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > FULL_BYTES:
            data, self._size = _packed(self._journal.lines()), 0
            os.ftruncate(self._descriptor, 0)
        self._size += os.pwrite(self._descriptor, data, self._size)


def read(descriptor: int) -> list[list[Any]]:
    """The lines of the file, each as `Line.packed`: at most those that a journal keeps."""
    journal = Journal()
    for data in os.pread(descriptor, 2 * FULL_BYTES, 0).splitlines():
        try:
            journal.add(Line(*json.loads(data)))
        except (ValueError, TypeError):  # the function was killed while it wrote
            continue
    return journal.lines()


def _packed(lines: list[list[Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
