"""Applies a function to many items in several threads at once, such that an interrupt does not wait for these threads.

At an interrupt and at its own exit, Python waits for the threads of `concurrent.futures`. One of them may be in a request that its
service answers after minutes. The threads of this module are daemon threads, and nothing waits for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["each"]

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """The results of ``work`` for every item, in the order of the items, computed in up to ``threads`` threads.

    After an error, the threads begin no more items. Once they have ended the items that they had begun, the error of the first item
    (in the order of the items) that has one is raised. An interrupt of the caller is raised at once: running calls of ``work`` go on,
    and their results and errors are ignored.
    """
    waiting = list(enumerate(items))
    waiting.reverse()
    done: dict[int, R] = {}
    failed: dict[int, BaseException] = {}
    total = len(waiting)

    def work_on() -> None:
        while not failed:
            try:
                number, item = waiting.pop()
            except IndexError:
                return
            try:
                done[number] = work(item)
            except BaseException as error:  # of any class: the caller gets it
                failed[number] = error

    crew = [threading.Thread(target=work_on, name="fsd-crew", daemon=True) for _ in range(min(threads, total))]
    try:
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    except BaseException:
        waiting.clear()
        raise
    if failed:
        raise failed[min(failed)]
    return [done[number] for number in range(total)]
