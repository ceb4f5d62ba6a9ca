"""Advice on errors of an SDK: finds the advice in a provider's table of patterns, and puts error and advice on one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["CLOCK", "PROXY", "advise", "line"]

# Advice that is the same for all clouds; each adapter has its own pattern for it.
CLOCK = "this machine's clock is wrong by more than 5 minutes: set it ('timedatectl set-ntp true')"
PROXY = "the proxy of HTTPS_PROXY or HTTP_PROXY cannot be reached: set another proxy, or NO_PROXY"

_MAX_CHARS = 400


def advise(table: Sequence[tuple[str, str]], error: BaseException | str) -> str | None:
    """The advice of the first row of ``table`` whose pattern the error matches, or `None`. A row is (pattern of words, advice).

    ``error``: an exception, or a text with the name of its type and its message, such as the error that a worker reported to the client.
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return next((what for words, what in table if re.search(rf"\b({words})\b", text)), None)


def line(error: BaseException | str, tip: str | None) -> str:
    """An SDK's error in one line of limited length, followed by the advice if there is one."""
    words = " ".join(str(error).split()).rstrip(".")
    return ": ".join(filter(None, [words if len(words) <= _MAX_CHARS else f"{words[:_MAX_CHARS]} ...", tip]))
