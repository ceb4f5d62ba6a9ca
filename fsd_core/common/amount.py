"""Numbers of bytes and of things as text for people."""

from __future__ import annotations

__all__ = ["amount", "counted"]


def amount(count: float) -> str:
    """A number of bytes as text for people, for instance 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def counted(number: float, word: str, form: str = "") -> str:
    """A number of things, for instance 1 sample or 12 samples. ``word``: for one thing; ``form``: of the number, as `format` takes it."""
    return f"{number:{form}} {word}{'s' * (number != 1)}"
