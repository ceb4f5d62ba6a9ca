"""What to do about an error of an SDK: a table of patterns for each provider, and the one line that shows error and advice."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["advise", "line"]

_SAID_CHARS = 400


def advise(table: Sequence[tuple[str, str]], error: BaseException | str) -> str | None:
    """What to do about an error, from a provider's ``table`` of (words as a pattern, what to do): the first that is found, or None.

    ``error``: an exception, or text that holds its type's name and message, as a worker's error does that reached the client.
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return next((what for words, what in table if re.search(rf"\b({words})\b", text)), None)


def line(said: BaseException | str, tip: str | None) -> str:
    """What an SDK said, in one line and cut, and after it what helps: a tip is for all errors of a kind, and says less than they do."""
    words = " ".join(str(said).split()).rstrip(".")
    return ": ".join(filter(None, [words if len(words) <= _SAID_CHARS else f"{words[:_SAID_CHARS]} ...", tip]))
