"""The user's own folders: what ``~`` in a path means, and where FSD_HOME is. Nothing else in this project resolves either."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from fsd_core.errors import InputError

__all__ = ["expanded", "home_folder", "made"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)  # no fault of the path


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, with ``~`` or ``~NAME`` at its start replaced as a shell does. `InputError`: this user has no home folder."""
    text = os.fspath(path)
    if text == "~" or text.startswith("~/"):
        return _user_home(text) / text[1:].lstrip("/")
    return Path(os.path.expanduser(text))


def home_folder(home: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where records, caches, emulators and the local provider live, absolute: ``home``, else ``$FSD_HOME``, else ``~/.fsd``.

    `InputError`: it is a file, or there is no home folder to put it in. Nothing is made.
    """
    named = home or environ.get("FSD_HOME")
    folder = (expanded(named) if named else _user_home("FSD_HOME is not set") / ".fsd").absolute()
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"FSD_HOME {folder}: is a file, expected a folder")
    return folder


def made(folder: Path) -> Path:
    """``folder``, which is below FSD_HOME, made if need be. `InputError`: it cannot be; `OSError`: for lack of room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise InputError(f"FSD_HOME: {folder} cannot be made: {error.strerror}; set FSD_HOME to a folder that can be written") from error
    return folder


def _user_home(asked: str) -> Path:
    """The user's home folder: ``$HOME``, else what the system has on record."""
    try:
        return Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir).absolute()
    except KeyError:
        raise InputError(
            f"{asked}: HOME is not set, and the system knows no home of user {os.getuid()}: set FSD_HOME to a folder that can be written"
        ) from None
