"""Reads text files that people write: with any line ends, with or without a byte-order mark, up to `MAX_BYTES` bytes."""

from __future__ import annotations

import codecs
import os
import select
from pathlib import Path

from fsd_core.errors import InputError

__all__ = ["read_text"]

MAX_BYTES = 16 << 20  # files of settings, prices or counts are smaller, and /dev/zero has no end
PIPE_S = 10.0  # seconds that a pipe may send nothing; `--config <(command)` reads from a pipe


def read_text(path: Path, where: str) -> str:
    r"""Read the text of a file or pipe, with all line ends converted to ``\n``.

    Raises `InputError` if the file cannot be read, is larger than `MAX_BYTES` bytes or is not UTF-8, or if a pipe sends nothing for
    `PIPE_S` seconds. ``where`` is the start of the error line.
    """
    try:
        data = _read(path, where)
    except FileNotFoundError:
        raise InputError(f"{where}: no such file: expected a text file") from None
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{where}: is larger than {MAX_BYTES >> 20} MiB: expected a text file")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{where}: is UTF-16: expected UTF-8; save the file again with that encoding")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start} is 0x{data[error.start]:02x}, which is not UTF-8: expected UTF-8 text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, where: str) -> bytes:
    """The bytes of the file. For a file larger than ``MAX_BYTES``, the first ``MAX_BYTES`` and at least one more."""
    data = bytearray()
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while len(data) <= MAX_BYTES:
            if not poll.poll(1000 * PIPE_S):
                raise InputError(f"{where}: is a pipe that sent nothing for {PIPE_S:.0f} s: expected a text file")
            part = file.read(1 << 20)
            if part == b"":
                break
            data += part or b""
    return bytes(data)
