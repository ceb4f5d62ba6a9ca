"""What this client remembers of the audit logs that it wrote to: the number and the digest of each of its entries.

The file of a log is below ``$FSD_HOME/runs/audit``, with one line of JSON for each entry. It shows when somebody removes the last entries
of a log, or writes a whole log anew, because the log itself cannot show that. ``fsd clean`` keeps these files.
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
    """The marks of one log. ``file`` is `None` for the log of an emulator, which may forget what it stores."""

    file: Path | None

    @classmethod
    def of(cls, provider: Provider, resources: Resources, home: Path) -> Marks:
        """Those of the log of an app, which the place of its objects identifies: two accounts may have apps of one name."""
        if provider.stand_in():
            return cls(None)
        place = hashlib.sha256(store_of(provider, resources).encode()).hexdigest()[:PLACE_DIGITS]
        return cls(home / "runs" / FOLDER / f"{_name(provider, resources.app)}-{place}.jsonl")

    @classmethod
    def of_missing(cls, provider: Provider, app: str, home: Path) -> list[Marks]:
        """Those of all logs of apps of one name, for an app that does not exist: nobody knows where its objects were."""
        if provider.stand_in():
            return []
        return [cls(file) for file in sorted((home / "runs" / FOLDER).glob(f"{_name(provider, app)}-{'?' * PLACE_DIGITS}.jsonl"))]

    def add(self, mark: Mark) -> None:
        """Remember an entry. Raises `OSError`."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "ab+", buffering=0) as file:
                file.truncate(_end(file)[1])
                line = json.dumps(attrs.asdict(mark)).encode() + b"\n"
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def newest(self) -> Mark | None:
        """The latest mark; `None` if there is none, or if it cannot be read. Reads only the end of the file."""
        if self.file is None:
            return None
        try:
            with open_regular(self.file) as file:
                return _mark(_end(file)[0].splitlines()[-1])
        except (OSError, ValueError, LookupError, RecursionError, InputError):
            return None

    def read(self) -> list[Mark]:
        """All marks, the latest last. Raises `InputError` if the file is damaged, but a line that was never completed is no damage."""
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
                expected = "expected a line of JSON for each entry of the audit log: remove this line"
                raise InputError(f"{self.file}: line {number} is damaged: {error}: {expected}") from None
        return found

    def forget(self) -> None:
        """Remove the file, because the log is removed."""
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
    """Where the objects of an app are, as its provider says; the app's name if the provider does not say it."""
    asked = getattr(provider, "store", None)  # a provider need not have it
    return str(asked(resources)) if asked else resources.app


def kept_s(resources: Resources) -> float:
    """How old the entries are that may be missing, in seconds, because the store of an app forgets them, or once forgot them sooner."""
    days, forgotten = resources.names.get(RETENTION, ""), resources.names.get(FORGOTTEN, "")
    kept = float(days) * 86400 if days else math.inf
    return min(kept, time.time() - float(forgotten)) if forgotten else kept
