"""The contract's `Code` for the errors of a provider: one reader of the tables in which an adapter lists its services' errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fsd_core.driver import Code, Refused

__all__ = ["Codes", "http_code"]

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


class Codes:
    """The errors of a provider as data.

    ``words``: for each code the error codes of the services, separated by white space. ``kinds``: pairs of exception classes and their
    code; the first match counts. ``statuses``: HTTP statuses that have another meaning in this provider than in `http_code`.
    """

    def __init__(
        self,
        words: Mapping[Code, str],
        kinds: Iterable[tuple[type[BaseException] | tuple[type[BaseException], ...], Code]],
        statuses: Mapping[int, Code] | None = None,
    ) -> None:
        self._words = {word: code for code, listed in words.items() for word in listed.split()}
        self._kinds = tuple(kinds)
        self._statuses = statuses or {}

    def word(self, word: str) -> Code | None:
        """The code of a service's error code; `None` if the table does not have it."""
        return self._words.get(word)

    def answer(self, status: int, word: str = "") -> Code:
        """The code of an HTTP answer, to a whole request or to one part of a batch. ``word``: the service's error code."""
        return self._words.get(word) or self._statuses.get(status) or http_code(status)

    def error(self, error: BaseException) -> Code:
        """The code of an exception by its class: that of a `Refused`, that of the table, otherwise UNKNOWN."""
        if isinstance(error, Refused):
            return error.code
        return next((code for kinds, code in self._kinds if isinstance(error, kinds)), Code.UNKNOWN)
