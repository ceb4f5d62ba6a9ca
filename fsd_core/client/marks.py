"""Keeps marks on this machine: the number and the digest of each entry that this client wrote to an audit log.

The marks of a log are a file below ``$FSD_HOME/runs/audit``, with one line of JSON for each entry. They show that somebody removed the
last entries of the log or replaced the whole log, because the log itself cannot show that. ``fsd clean`` keeps these files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import attrs

from fsd_core.common.fields import read, table
from fsd_core.common.files import open_regular, read_regular
from fsd_core.driver import Provider, Resources
from fsd_core.errors import InputError
from fsd_core.providers.settings import FORGOTTEN, RETENTION
from fsd_core.storage.ledger import Mark

__all__ = ["FOLDER", "Marks", "kept_s"]

FOLDER = "audit"  # in the folder of the records of runs
PLACE_DIGITS = 8
MAX_BYTES = 256 << 20  # of a million entries
TAIL_BYTES = 1024  # a line has less than 200


@attrs.frozen
class Marks:
    """The marks of one log. ``file`` is `None` for the log of an emulator: its objects may disappear with it, so it has no marks."""

    file: Path | None

    @classmethod
    def of(cls, provider: Provider, resources: Resources, home: Path) -> Marks:
        """The marks of the log of an app. The name of the file depends on the place of the app's objects, because apps of two accounts
        may have the same name.
        """
        if provider.stand_in():
            return cls(None)
        place = hashlib.sha256(store_of(provider, resources).encode()).hexdigest()[:PLACE_DIGITS]
        return cls(home / "runs" / FOLDER / f"{_name(provider, resources.app)}-{place}.jsonl")

    @classmethod
    def of_missing(cls, provider: Provider, app: str, home: Path) -> list[Marks]:
        """The marks of all logs of apps of this name. For an app that does not exist: the place of its objects is not known."""
        if provider.stand_in():
            return []
        return [cls(file) for file in sorted((home / "runs" / FOLDER).glob(f"{_name(provider, app)}-{'?' * PLACE_DIGITS}.jsonl"))]

    def add(self, mark: Mark) -> None:
        """Write the mark of an entry. Raises `OSError` if the file cannot be written."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "ab+", buffering=0) as file:
                file.truncate(_end(file)[1])
                line = json.dumps(attrs.asdict(mark)).encode() + b"\n"
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def newest(self) -> Mark | None:
        """The latest mark; `None` if there is no mark, or if it cannot be read. Reads only the end of the file."""
        if self.file is None:
            return None
        try:
            with open_regular(self.file) as file:
                return _mark(_end(file)[0].splitlines()[-1])
        except (OSError, ValueError, LookupError, RecursionError, InputError):
            return None

    def read(self) -> list[Mark]:
        """All marks, the latest last. Ignores an incomplete last line. Raises `InputError` if another line is damaged."""
        if self.file is None:
            return []
        try:
            data = read_regular(self.file, MAX_BYTES)
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            try:
                found.append(_mark(line))
            except (ValueError, RecursionError, InputError) as error:
                expected = "expected a line of JSON for each entry of the audit log; remove this line"
                raise InputError(f"{self.file}: line {number} is damaged: {error}: {expected}") from None
        return found

    def forget(self) -> None:
        """Remove the file. Call this when the log is removed."""
        if self.file is not None:
            with suppress(FileNotFoundError):
                self.file.unlink()


def _end(file: BinaryIO) -> tuple[bytes, int]:
    """The last whole lines of a file, and where they end. A full disk or a dead client may have left part of a line after them."""
    start = file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
    tail = file.read()
    whole = tail[: tail.rfind(b"\n") + 1]
    return whole, start + len(whole)


def _name(provider: Provider, app: str) -> str:
    return f"{re.sub(r'[^a-z0-9_-]', '_', provider.name.lower())}-{app}"


def _mark(line: bytes) -> Mark:
    return read(Mark, table().check(json.loads(line), "it is "), "")


def store_of(provider: Provider, resources: Resources) -> str:
    """The place of an app's objects, as the provider names it; the app's name if the provider has no method ``store``."""
    asked = getattr(provider, "store", None)  # a provider need not have it
    return str(asked(resources)) if asked else resources.app


def kept_s(resources: Resources) -> float:
    """How old the entries are that may be missing, in seconds, because the store of an app forgets them, or once forgot them sooner."""
    days, forgotten = resources.names.get(RETENTION, ""), resources.names.get(FORGOTTEN, "")
    kept = float(days) * 86400 if days else math.inf
    return min(kept, time.time() - float(forgotten)) if forgotten else kept
