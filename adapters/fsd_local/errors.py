"""The codes of this machine's errors: one table of the names in errno.

A full disk, an exceeded quota, a read-only file system and too many open files are not transient errors: a retry would not help.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fsd_core.driver import Code
from fsd_core.providers.codes import Codes

__all__ = ["classify", "naming"]

_WORDS = {
    Code.NOT_FOUND: "ENOENT ENOTDIR",
    Code.ALREADY_EXISTS: "EEXIST",
    Code.DENIED: "EACCES EPERM EROFS",
    Code.THROTTLED: "EAGAIN",  # a fork failed: too many processes
    Code.TOO_LARGE: "EMFILE ENFILE ENOSPC EDQUOT EFBIG",
    Code.UNAVAILABLE: "EIO ENOMEM EPIPE ECONNRESET ECONNREFUSED EBUSY",
    Code.INVALID: "EINVAL ENAMETOOLONG",
    Code.DEADLINE: "ETIMEDOUT",
}
_CODES = Codes(_WORDS, [((ConnectionError, MemoryError), Code.UNAVAILABLE), (TimeoutError, Code.DEADLINE)])


def classify(error: BaseException) -> Code:
    """The `Code` of an error that a driver of this provider raised; UNKNOWN for any other exception."""
    name = errno.errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
    return _CODES.word(name) or _CODES.error(error)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Within the block an `OSError` gets the file name ``path``: errors of reading and writing have no file name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise
