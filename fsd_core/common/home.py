"""The user's folders: the only module that replaces ``~`` in a path and that finds the folder FSD_HOME."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from fsd_core.errors import InputError

__all__ = ["expanded", "home_folder", "made"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)  # errors that another path would not prevent


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replace ``~`` or ``~NAME`` at the start of a path as a shell does.

    Raises `InputError` if the current user has no home folder, and if no file of this system can have the name.
    """
    text = os.fspath(path)
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise InputError(
            f"path {text!r}: {error.reason} at character {error.start}: expected a path that {error.encoding} can hold"
        ) from None
    if text == "~" or text.startswith("~/"):
        return _user_home(text) / text[1:].lstrip("/")
    return Path(os.path.expanduser(text))


def home_folder(home: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of the folder for records, caches, emulators and the local provider: ``home``, else $FSD_HOME, else ``~/.fsd``.

    Does not create the folder. Raises `InputError` if the path is a file, or if it needs the user's home folder and the user has none.
    """
    named = home or environ.get("FSD_HOME")
    folder = (expanded(named) if named else _user_home("FSD_HOME is not set") / ".fsd").absolute()
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"FSD_HOME {folder}: is a file: expected a folder")
    return folder


def made(folder: Path) -> Path:
    """Create ``folder``, a path inside FSD_HOME, if it does not exist, and return it.

    Raises `InputError` if the folder cannot be created at this path, and `OSError` if the disk is full, the system has no file handles or
    memory left, or the disk fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise InputError(f"FSD_HOME: cannot make {folder}: {error.strerror}: set FSD_HOME to a folder that you can write to") from error
    return folder


def _user_home(asked: str) -> Path:
    """The user's home folder: $HOME, else the one in the system's list of users. ``asked`` is the start of the error line."""
    try:
        return Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir).absolute()
    except KeyError:
        raise InputError(
            f"{asked}: HOME is not set, and the system lists no home folder of user {os.getuid()}: "
            "set FSD_HOME to a folder that you can write to"
        ) from None
