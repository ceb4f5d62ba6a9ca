"""Work of many items at once, in threads that end with the process: neither an interrupt nor the interpreter's end waits for them.

The threads of `concurrent.futures` are waited for at both, and a request in one of them may wait for its service for minutes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = ["each"]

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """``work`` of every item, ``threads`` at a time: the results in the items' order.

    After an error no more items are begun; once those under way have ended, the error of the first item that has one is raised.
    An interrupt of the caller waits for nothing: what is under way ends unheard.
    """
    left = list(enumerate(items))
    left.reverse()
    done: dict[int, R] = {}
    failed: dict[int, BaseException] = {}
    total = len(left)

    def go_on() -> None:
        while not failed:
            try:
                number, item = left.pop()
            except IndexError:
                return
            try:
                done[number] = work(item)
            except BaseException as error:  # the caller's to raise, whatever it is
                failed[number] = error

    crew: list[Any] = [threading.Thread(target=go_on, name="fsd-crew", daemon=True) for _ in range(min(threads, total))]
    try:
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    except BaseException:
        left.clear()
        raise
    if failed:
        raise failed[min(failed)]
    return [done[number] for number in range(total)]
