"""The codes of this machine's errors: one table from errno.

A full disk, an exceeded quota, a read-only file system and too many open files are not transient errors: a retry would not help.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fsd_core.driver import Code, Refused

__all__ = ["classify", "naming"]

_CODES = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.NOT_FOUND,
    errno.EEXIST: Code.ALREADY_EXISTS,
    errno.EACCES: Code.DENIED,
    errno.EPERM: Code.DENIED,
    errno.EROFS: Code.DENIED,
    errno.EAGAIN: Code.THROTTLED,  # a fork failed: too many processes
    errno.EMFILE: Code.TOO_LARGE,
    errno.ENFILE: Code.TOO_LARGE,
    errno.ENOSPC: Code.TOO_LARGE,
    errno.EDQUOT: Code.TOO_LARGE,
    errno.EIO: Code.UNAVAILABLE,
    errno.ENOMEM: Code.UNAVAILABLE,
    errno.EPIPE: Code.UNAVAILABLE,
    errno.ECONNRESET: Code.UNAVAILABLE,
    errno.ECONNREFUSED: Code.UNAVAILABLE,
    errno.EBUSY: Code.UNAVAILABLE,
    errno.EINVAL: Code.INVALID,
    errno.ENAMETOOLONG: Code.INVALID,
    errno.EFBIG: Code.TOO_LARGE,
    errno.ETIMEDOUT: Code.DEADLINE,
}


def classify(error: BaseException) -> Code:
    """The `Code` of an error that a driver of this provider raised; UNKNOWN for any other exception."""
    if isinstance(error, Refused):
        return error.code
    if isinstance(error, ConnectionError):
        return Code.UNAVAILABLE
    if isinstance(error, TimeoutError):
        return Code.DEADLINE
    if isinstance(error, MemoryError):
        return Code.UNAVAILABLE
    if isinstance(error, OSError) and error.errno is not None:
        return _CODES.get(error.errno, Code.UNKNOWN)
    return Code.UNKNOWN


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Within the block an `OSError` gets the file name ``path``: errors of reading and writing have no file name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise
