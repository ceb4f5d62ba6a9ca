"""What this machine's errors mean: one table from errno to codes."""

from __future__ import annotations

import errno

from fsd_core.driver import Code, Refused

__all__ = ["classify"]

_CODES = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.ENOTDIR: Code.NOT_FOUND,
    errno.EEXIST: Code.ALREADY_EXISTS,
    errno.EACCES: Code.DENIED,
    errno.EPERM: Code.DENIED,
    errno.EROFS: Code.DENIED,
    errno.EAGAIN: Code.THROTTLED,  # of a fork: too many processes
    errno.EMFILE: Code.THROTTLED,
    errno.ENFILE: Code.THROTTLED,
    errno.ENOSPC: Code.UNAVAILABLE,
    errno.EDQUOT: Code.UNAVAILABLE,
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
    """The code of any error that a driver of this provider raised."""
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
