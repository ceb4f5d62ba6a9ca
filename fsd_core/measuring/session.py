"""One measurement from its lease to its clean-up: starts functions, compares clocks, and collects what the functions measured."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

import attrs

from fsd_core.channel import explain
from fsd_core.client.cleanup import Cleanup
from fsd_core.client.result import warn
from fsd_core.common import crew
from fsd_core.common.sealed import unseal
from fsd_core.driver import WORKER, Code, InvokeDriver, Launch, Message, MessageDriver, ObjectDriver, Provider, Resources
from fsd_core.errors import RunFailed
from fsd_core.measuring.asking import POLL_S, Ask
from fsd_core.protocol.abort import report_failure
from fsd_core.protocol.measuring import PROBE, Task, note, noted
from fsd_core.protocol.spawn import start_limit_s
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys, new_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import OUTAGE_S, Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.metered import MeteredInvoker, MeteredMessages, MeteredObjects

__all__ = ["Found", "Session"]

FIRST_POLL_S = 0.05  # before the first look for an answer; it doubles up to `POLL_S`
FAILURES_S = 2.0  # between two requests for failures
RECEIVE_S = 1.0  # of one receive
PONG_S = 5.0  # for the answer to a message that compares clocks
MARGIN_S = 30.0  # for the answer of a function after its time limit: functions may be slow
THREADS = 16  # launches at once


@attrs.define
class Found:
    """The raw figures of a measurement.

    ``samples``: milliseconds by name. ``received``: the number of messages of each receive. ``rates``: MB/s of read and write. ``kernel``:
    see `kernel_rate`. ``offset_ms``: the function's clock minus the client's clock; `None`: they could not be compared. ``lasts``: the
    seconds of each function. ``meter``: the requests of client and functions.
    """

    samples: dict[str, list[float]] = attrs.field(factory=lambda: defaultdict(list))
    received: list[int] = attrs.field(factory=list)
    rates: dict[str, float] = attrs.field(factory=dict)
    kernel: tuple[float, float] | None = None
    memory_mb: float | None = None
    offset_ms: float | None = None
    offset_error_ms: float | None = None
    lasts: list[float] = attrs.field(factory=list)
    meter: Counter[str] = attrs.field(factory=Counter)

    @property
    def size(self) -> tuple[float, float, float] | None:
        """The function's memory in MiB, its kernel's weights times samples a second, and how many cores compute that; `None`: not known."""
        if self.kernel is None or self.memory_mb is None:
            return None
        return self.memory_mb, self.kernel[0], self.kernel[0] / self.kernel[1]


@attrs.frozen
class _Started:
    task: Task
    launch: Launch
    at: float  # the begin of the request, in seconds since 1970


class Session:
    """One measurement of an app.

    ``progress`` is called with the number of functions that have answered, the number of all functions, and a text.
    """

    def __init__(self, provider: Provider, resources: Resources, ask: Ask, progress: Callable[[int, int, str], None]) -> None:
        self._provider, self._resources, self._ask, self._progress = provider, resources, ask, progress
        self._run = new_run()
        self._meter = Meter()
        self._found = Found()
        self._done = 0
        self._failures_at = 0.0

    def execute(self) -> Found:
        """Lease a slot, measure, and in any case remove all objects and give the slot back.

        Raises `RunFailed` if a function fails, and `DriverError` if a service refuses a request.
        """
        with closing(self._provider.objects(self._resources)) as objects, closing(self._provider.invoker(self._resources)) as invoker:
            return self._execute(objects, MeteredInvoker(invoker, self._meter))

    def _execute(self, objects: ObjectDriver, invoker: InvokeDriver) -> Found:
        over = threading.Event()
        store = Store(MeteredObjects(objects, self._meter), Retry(math.inf, self._meter, stop=over, outage_s=OUTAGE_S))
        lease = slots.lease(store, self._resources.slots, self._run)
        cleanup = Cleanup(self._provider, self._resources, Store(objects, Retry(math.inf, Meter())), invoker, lease)
        try:
            threading.Thread(target=slots.renew, args=(store, lease, over), name="fsd-lease", daemon=True).start()
            self._measure(store, invoker, lease)
        except BaseException as error:
            over.set()
            if undone := cleanup.after_failure(error):
                error.add_note(undone)
            raise
        over.set()
        if undone := cleanup.after_answer(late=False):
            warn(f"the measurement is complete, but the clean-up is not: {undone}")
        self._found.meter.update(self._meter.snapshot())
        return self._found

    def _measure(self, store: Store, invoker: InvokeDriver, lease: slots.Lease) -> None:
        ask, limits, found = self._ask, invoker.limits, self._found
        found.memory_mb = None if limits.memory_bytes is None else limits.memory_bytes / 2**20
        where = (self._run, lease.slot, lease.epoch)
        start = partial(self._start, store, invoker)
        await_ = partial(self._await, store, invoker)
        colds = min(ask.colds, limits.concurrency or ask.colds)
        total = colds + ask.warms + 2
        starts: list[tuple[_Started, dict[str, Any]]] = []
        self._tell(total, "starts a function")
        await_([start(ask.start("first", *where))], total, ask.hold_s + 1)  # opens the connections of the client, so nothing of it counts
        found.samples.clear()
        tasks = [ask.start(f"cold-{number}", *where, hold_s=ask.hold_s) for number in range(colds)]
        if tasks:
            self._tell(total, f"starts {colds} functions at once")
        starts += await_(crew.each(start, tasks, THREADS), total, ask.hold_s + 1)
        found.samples.clear()  # of these requests, each opened a connection
        for number in range(ask.warms):
            self._tell(total, "starts functions one after another")
            starts += await_([start(ask.start(f"warm-{number}", *where))], total, ask.hold_s + 1)
        main = start(ask.task(*where))
        if ask.clocks:
            self._tell(total, "compares the clocks")
            with closing(MeteredMessages(self._provider.messages(self._resources, lease.slot), self._meter)) as messages:
                self._compare_clocks(messages, store, partial(self._check, invoker, [main]), start_limit_s(limits))
        self._tell(total, f"a function measures, for {ask.limit_s:g} s at most")
        ((_, answer),) = await_([main], total, ask.limit_s)
        starts.append((main, answer))
        for name, times in answer["samples"].items():
            found.samples[name] += times
        found.received, found.rates, found.kernel = answer["received"], answer["rates"], tuple(answer["kernel"])
        for started, each in starts:
            took = 1000 * (each["began"] - started.at) - (found.offset_ms or 0.0)
            found.samples["start_cold" if each["cold"] else "start_warm"].append(max(0.0, took))
            found.lasts.append(each["seconds"])
            found.meter.update(each["meter"])

    def _tell(self, total: int, text: str) -> None:
        self._progress(self._done, total, text)

    def _start(self, store: Store, invoker: InvokeDriver, task: Task) -> _Started:
        """Launch one function, and add the time of this request to the samples of "invoke"."""
        payload = task.payload(self._resources.app, time.time() + task.limit_s + start_limit_s(invoker.limits) + MARGIN_S)

        def once() -> tuple[float, Launch, float]:
            at, began = time.time(), time.perf_counter()
            launch = invoker.invoke(WORKER, payload)
            return at, launch, 1000 * (time.perf_counter() - began)

        at, launch, took = store.retry.call(invoker, f"launch of a function that measures ({task.name})", once)
        self._found.samples["invoke"].append(took)
        return _Started(task, launch, at)

    def _await(
        self, store: Store, invoker: InvokeDriver, started: Sequence[_Started], total: int, limit_s: float
    ) -> list[tuple[_Started, dict[str, Any]]]:
        """Wait for the answers of functions that take ``limit_s`` seconds. Raises `RunFailed` if one failed or gave none in time."""
        keys, pause_s = RunKeys(self._run), FIRST_POLL_S
        until = time.monotonic() + start_limit_s(invoker.limits) + limit_s + MARGIN_S
        waiting = {each.task.answer for each in started}
        while waiting:
            time.sleep(pause_s)
            pause_s = min(POLL_S, 2 * pause_s)
            listed = set(store.keys(keys.prefix))
            if keys.error in listed:
                self._raise_failure(store)
            here = waiting & listed
            waiting -= here
            self._done += len(here)
            if here:
                self._tell(total, "")
            elif waiting:
                self._check(invoker, [each for each in started if each.task.answer in waiting])
                if time.monotonic() > until:
                    names = ", ".join(sorted(each.task.name for each in started if each.task.answer in waiting))
                    why = f"functions that measure ({names}) gave no answer: the platform's log shows why"
                    raise RunFailed(Code.UNAVAILABLE, why)
        found = [(each, unseal(store.get(each.task.answer), "the answer of a function that measures")) for each in started]
        for _, answer in found:
            if answer["error"] is not None:
                raise RunFailed(Code.UNAVAILABLE, f"the function that measures failed: {answer['error']}")
        return found

    def _raise_failure(self, store: Store) -> None:
        """Raise the error that ended this measurement, if there is one."""
        if (found := store.find(RunKeys(self._run).error)) is not None:
            raise explain(found).reason

    def _check(self, invoker: InvokeDriver, waiting: Sequence[_Started]) -> None:
        """Raise `RunFailed` if a launch is known to have failed; report functions that died."""
        if invoker.limits.failures != "host" and time.monotonic() >= self._failures_at:
            self._failures_at = time.monotonic() + FAILURES_S
            for failure in invoker.failures(self._is_ours_or_over).taken:
                if self._is_ours(failure.payload):
                    report_failure(self._provider, self._resources, failure)
        for each in waiting:
            if (code := each.launch.poll()) is not None:
                raise RunFailed(code, f"a function that measures ({each.task.name}) did not start: {each.launch.text or code.value}")

    def _is_ours(self, payload: bytes) -> bool:
        with suppress(ValueError, TypeError, KeyError):
            return bool(json.loads(payload)["run"] == self._run)
        return False

    def _is_ours_or_over(self, payload: bytes) -> bool:
        """Also take failures of runs whose deadline has passed, so that no client reads these failures again."""
        with suppress(ValueError, TypeError, KeyError):
            fields = json.loads(payload)
            return bool(fields["run"] == self._run or float(fields["deadline"]) <= time.time())
        return False

    def _compare_clocks(self, driver: MessageDriver, store: Store, check: Callable[[], None], start_s: float) -> None:
        """Compare the clock of the function with the client's clock.

        First waits at most ``start_s`` seconds until the function is ready; ``check`` raises if it failed. Then sends messages. The
        function answers each message with the times, by its own clock, at which the message arrived and the answer left.

        With the client's times t0 of the message and t3 of the answer, and the function's times t1 and t2, the offset is
        ((t1 - t0) + (t2 - t3)) / 2. Its error is at most half of (t3 - t0) - (t2 - t1). The message with the smallest such error counts
        (RFC 5905, section 8 and appendix A.5.2).
        """
        best, retry, until = math.inf, store.retry, time.monotonic() + start_s
        while not self._receive(driver, retry, "ready", None, RECEIVE_S):
            if time.monotonic() > until:
                return  # `_await` says what happened to the function
            self._raise_failure(store)
            check()
        for number in range(self._ask.clocks):
            began = time.time()
            asked = Message(0, note({"ask": self._run, "number": number}))
            retry.entries(driver, "a message of fsd measure", [asked], driver.publish)
            answer = self._receive(driver, retry, "answer", number, PONG_S)
            if answer is None:
                continue
            ended, fields = answer
            way = (ended - began) - (fields["left"] - fields["arrived"])
            if way < best:
                best = way
                self._found.offset_ms = 500 * ((fields["arrived"] - began) + (fields["left"] - ended))
                self._found.offset_error_ms = 500 * max(0.0, way)

    def _receive(
        self, driver: MessageDriver, retry: Retry, kind: str, number: int | None, limit_s: float
    ) -> tuple[float, dict[str, Any]] | None:
        """The time at which a message of this measurement came, and its fields; `None` if none comes within ``limit_s`` seconds."""
        until, limits = time.monotonic() + limit_s, driver.limits
        while time.monotonic() < until:
            wait_s = min(RECEIVE_S, limits.wait_s)
            got = retry.call(driver, "a receive of fsd measure", partial(driver.receive, 1, limits.receive_messages, wait_s))
            now, found = time.time(), [noted(each.body) for each in got]
            tokens = [each.token for each in got if each.body.startswith(PROBE)]
            for at in range(0, len(tokens), limits.batch_messages):
                retry.entries(driver, "an ack", tokens[at : at + limits.batch_messages], partial(driver.ack, 1))
            for fields in found:
                if fields.get(kind) == self._run and (number is None or fields.get("number") == number):
                    return now, fields
        return None
