"""The page of a plan."""

from __future__ import annotations

__all__ = ["check_page", "write_plan"]


def check_page(path: str) -> None:
    """Not there yet."""


def write_plan(plan: object, path: str) -> None:
    """Not there yet."""
