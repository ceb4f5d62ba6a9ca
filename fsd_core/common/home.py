"""The user's folders: what ``~`` in a path stands for, and where FSD_HOME is. No other module of this project looks up either."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from fsd_core.errors import InputError

__all__ = ["expanded", "home_folder", "made"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)  # the path is right all the same


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` or ``~NAME`` at its start replaced as a shell does. Raises `InputError` if this user has no home folder."""
    text = os.fspath(path)
    if text == "~" or text.startswith("~/"):
        return _user_home(text) / text[1:].lstrip("/")
    return Path(os.path.expanduser(text))


def home_folder(home: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of the folder for records, caches, emulators and the local provider: ``home``, else $FSD_HOME, else ``~/.fsd``.

    Makes no folder. Raises `InputError` if the path is a file, or if it starts at the user's home folder and there is none.
    """
    named = home or environ.get("FSD_HOME")
    folder = (expanded(named) if named else _user_home("FSD_HOME is not set") / ".fsd").absolute()
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"FSD_HOME {folder}: is a file, expected a folder")
    return folder


def made(folder: Path) -> Path:
    """``folder``, a path inside FSD_HOME, which this function creates if it does not exist.

    Raises `InputError` if the path cannot be a folder, `OSError` if the system has no room for one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise InputError(f"FSD_HOME: cannot make {folder}: {error.strerror}; set FSD_HOME to a folder that you can write to") from error
    return folder


def _user_home(asked: str) -> Path:
    """The user's home folder: $HOME, else the one in the system's list of users. ``asked``: the start of the error line."""
    try:
        return Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir).absolute()
    except KeyError:
        raise InputError(
            f"{asked}: HOME is not set, and the system lists no home folder of user {os.getuid()}: "
            "set FSD_HOME to a folder that you can write to"
        ) from None
