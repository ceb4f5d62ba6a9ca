"""Calls functions in threads: one, or one for many items. An interrupt ends the wait at once, without waiting for these threads.

Python waits for the threads of `concurrent.futures` at an interrupt and at its own exit, and a thread may wait minutes for the answer of
a service. The threads of this module are daemon threads, for which Python does not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["begin", "each"]

T = TypeVar("T")
R = TypeVar("R")


def begin(work: Callable[[], R]) -> Future[R]:
    """Call ``work`` in a new thread. The future has its result or its error."""
    done: Future[R] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # of any class: the caller gets it
            done.set_exception(error)

    threading.Thread(target=run, name="fsd-begun", daemon=True).start()
    return done


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
