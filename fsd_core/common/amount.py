"""Numbers of bytes as text for people."""

from __future__ import annotations

__all__ = ["amount"]


def amount(count: float) -> str:
    """A number of bytes as text for people, for instance 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
