"""Text files that people write: read whole, of any line ends, with or without a byte-order mark, and never waited for in vain."""

from __future__ import annotations

import codecs
import os
import select
from pathlib import Path

from fsd_core.errors import InputError

__all__ = ["read_text"]

MOST_BYTES = 16 << 20  # a larger one is no settings, prices or counts, and /dev/zero has no end
PATIENCE_S = 10.0  # for a pipe: `--config <(command)` is one


def read_text(path: Path, where: str) -> str:
    """The text of a file or pipe. `InputError`, which begins with ``where``: it cannot be read, or holds something else."""
    try:
        data = _read(path, where)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{where}: is larger than {MOST_BYTES >> 20} MiB, expected a text file")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{where}: is UTF-16, expected UTF-8: save it again with that encoding")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is 0x{data[error.start]:02x}, which is no UTF-8: expected UTF-8 text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, where: str) -> bytes:
    """Up to a byte more than `MOST_BYTES`."""
    data = bytearray()
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # or a pipe's open waits
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while len(data) <= MOST_BYTES:
            if not poll.poll(1000 * PATIENCE_S):
                raise InputError(f"{where}: is a pipe to which nobody wrote for {PATIENCE_S:.0f} s, expected a text file")
            part = file.read(1 << 20)
            if part == b"":
                break
            data += part or b""
    return bytes(data)
