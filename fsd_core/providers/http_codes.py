"""The contract's `Code` for each status of HTTP."""

from __future__ import annotations

from fsd_core.driver import Code

__all__ = ["http_code"]

_STATUS = {
    400: Code.INVALID,
    401: Code.DENIED,
    403: Code.DENIED,
    404: Code.NOT_FOUND,
    408: Code.UNAVAILABLE,
    409: Code.UNAVAILABLE,  # another change is under way
    412: Code.PRECONDITION,
    413: Code.TOO_LARGE,
    416: Code.INVALID,
    429: Code.THROTTLED,
}


def http_code(status: int) -> Code:
    """The code of an HTTP status. For errors whose body names no cause that the adapter knows."""
    return Code.UNAVAILABLE if status >= 500 else _STATUS.get(status, Code.UNKNOWN)
