"""Mistakes to plant in an exchange, so that it is seen that they are found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from schemas import Exchange

__all__ = ["Mistake", "answer", "body", "first", "status", "target"]

Mistake = Callable[[Exchange], Exchange]


def body(change: Callable[[Any], object]) -> Mistake:
    """In what is sent: ``change`` is given its JSON."""
    return lambda exchange: replace(exchange, body=_changed(exchange.body, change))


def answer(change: Callable[[Any], object]) -> Mistake:
    """In what comes back."""
    return lambda exchange: replace(exchange, answer=_changed(exchange.answer, change))


def target(pattern: str, by: str) -> Mistake:
    """In path or query, as `re.sub` does it."""

    def plant(exchange: Exchange) -> Exchange:
        changed = re.sub(pattern, by, exchange.target)
        assert changed != exchange.target
        return replace(exchange, target=changed)

    return plant


def status(code: int) -> Mistake:
    """In the answer's status."""
    return lambda exchange: replace(exchange, status=code)


def _changed(text: bytes, change: Callable[[Any], object]) -> bytes:
    told = json.loads(text)
    change(told)
    return json.dumps(told).encode()


def first(exchanges: Iterable[Exchange], what: str) -> Exchange:
    """The first that was answered well: ``what`` is its method and an expression that its path ends with."""
    method, _, end = what.partition(" ")
    return next(each for each in exchanges if each.method == method and each.status < 300 and re.search(f"{end}$", each.path))
