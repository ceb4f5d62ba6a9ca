"""Applies a function to many items in several threads. An interrupt ends the call at once, without waiting for these threads.

Python waits for the threads of `concurrent.futures` at an interrupt and at its own exit, and a thread may wait minutes for the answer of
a service. The threads of this module are daemon threads, for which Python does not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["each"]

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """Call ``work`` for every item in up to ``threads`` threads. Returns the results in the order of the items.

    If a call fails, the threads start no new items. They finish the running calls; then `each` raises the error of the failed item that
    comes first in ``items``. An interrupt of the caller is raised at once; running calls continue, and their results are ignored.
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
