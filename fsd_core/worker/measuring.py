"""Measures the services of an app from inside a function, for ``fsd measure``: how long requests take, and how fast it computes.

A launch with a `Task` in place of a rank makes a function measure. The function accepts only numbers within limits, and never executes
content that it receives. It uses the queue of rank 0 of the slot that its client has leased, and objects below the prefix of the client's
run. So the clean-up of the run removes everything that it leaves. It stops at its time limit, when the client writes the run's error, and
when the lease is lost.

Each time is that of one request, measured in this process. If a request was repeated, the time of its last try counts. The function sends
messages to itself, so that one clock measures how long a message takes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fsd_core.common import crew
from fsd_core.common.fields import read
from fsd_core.common.sealed import seal
from fsd_core.driver import Delivery, Message, MessageDriver, Provider, Resources
from fsd_core.errors import FsdError
from fsd_core.kernel import Block, Finish, compiled, stacked, weights
from fsd_core.protocol.measuring import LARGE_BYTES, PROBE, SMALL_BYTES, STREAM_BYTES, Task, filler, note, noted
from fsd_core.storage import slots
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.metered import MeteredMessages, MeteredObjects

__all__ = ["kernel_rate", "measure"]

STREAMS = 4  # requests at once that measure the bandwidth
BATCH = 10  # messages in one publish of a burst, at most
LOOP_SHARE = 0.7  # of the time, at most, for the repeated requests; the rest is for bursts, connections and streams
SETTLE_S = 0.01  # before each message, so that a receive waits for it
LOST_S = 5.0  # the function waits at most this long for a message
WAIT_S = 1.0  # of one receive
LOOK_S = 1.0  # between two checks whether the client has stopped this function
ROWS, LINKS, SAMPLES = 1024, 32, 256  # of the layer that the kernel computes

T = TypeVar("T")


def measure(task: Mapping[str, object], provider: Provider, resources: Resources, *, cold: bool) -> int:
    """Do a `Task`, and write the results to `Task.answer`. Returns 0, or 1 if it failed; the answer then has the reason as ``error``.

    A second function with the same task does nothing. ``cold``: whether this is the first launch in its process. The answer is a sealed
    object: ``began`` (seconds since 1970), ``cold``, ``samples`` (a list of milliseconds by name), ``received`` (messages of each receive
    of a burst), ``rates`` (MB/s of read and write), ``kernel`` (see `kernel_rate`), ``seconds``, ``meter``, ``error``.
    Raises `InputError` if the task is wrong.
    """
    began = time.time()
    wanted = read(Task, task, "measure: ")
    over, meter = threading.Event(), Meter()
    with closing(provider.objects(resources)) as objects:
        retry = Retry(began + wanted.limit_s + LOST_S, meter, stop=over)
        store = Store(MeteredObjects(objects, meter), retry)
        if not store.create(wanted.claim, os.urandom(8).hex().encode()):
            return 0
        measuring = _Measuring(wanted, provider, resources, store)
        error = None
        try:
            if wanted.objects or wanted.messages or wanted.kernel_s:
                measuring.run(time.monotonic() + began + wanted.limit_s - time.time())
        except FsdError as failure:
            error = str(failure)
        over.wait(max(0.0, began + wanted.hold_s - time.time()))
        over.set()
        body = {"began": began, "cold": cold, "seconds": time.time() - began, "error": error, "meter": meter.snapshot()}
        answering = Store(objects, Retry(time.time() + LOST_S, meter))
        if not measuring.stopped:  # else the client has removed everything
            answering.put(wanted.answer, seal(body | measuring.found()))
    return int(error is not None)


class _Measuring:
    """One function that measures."""

    def __init__(self, task: Task, provider: Provider, resources: Resources, store: Store) -> None:
        self.task, self.provider, self.resources, self.store = task, provider, resources, store
        self.over = store.retry.stop
        self.stopped = False  # by the client
        self.samples: dict[str, list[float]] = defaultdict(list)
        self.received: list[int] = []
        self._rates: dict[str, float] = {}
        self._kernel: tuple[float, float] | None = None
        self._prefix = f"{task.keys.prefix}measure/"
        self._looked = time.monotonic()

    def found(self) -> dict[str, Any]:
        """What was measured so far, as values that JSON can hold."""
        samples = {name: [round(each, 4) for each in values] for name, values in self.samples.items()}
        return {"samples": samples, "received": self.received, "rates": self._rates, "kernel": self._kernel}

    def run(self, until: float) -> None:
        """Measure until the monotonic time ``until`` at most."""
        threading.Thread(target=self._watch, name="lease", daemon=True).start()
        task, loop_until = self.task, until - (1 - LOOP_SHARE) * (until - time.monotonic())
        if task.kernel_s:
            self._kernel = kernel_rate(task.kernel_s)
        with closing(self._messages(direct=False)) as topics, closing(self._messages(direct=True)) as direct:
            ways = [_Way(self, topics, "")]
            if direct.limits.direct and not topics.limits.direct:
                ways.append(_Way(self, direct, "_direct"))
            self._clocks(topics)
            for number in range(max(task.messages, task.objects)):
                if self._ends(loop_until):
                    break
                for way in ways if number < task.messages else ():
                    way.single(number)
                if number < task.objects:
                    self._objects()
            for number in range(task.bursts):
                if self._ends(until):
                    break
                ways[0].burst(number)
        self._connections(until)
        self._streams(until)

    def timed(self, driver: Any, name: str | None, request: Callable[[], T]) -> T:
        """Make a request, repeat it like all requests, and keep the milliseconds of its last try as ``name``, unless that is `None`."""

        def once() -> tuple[float, T]:
            began = time.perf_counter()
            answer = request()
            return 1000 * (time.perf_counter() - began), answer

        took, answer = self.store.retry.call(driver, name or "a request of fsd measure", once)
        if name is not None:
            self.samples[name].append(took)
        return answer

    def receive(self, driver: MessageDriver) -> Sequence[Delivery]:
        """One receive of rank 0."""
        limits = driver.limits
        return self.timed(driver, None, partial(driver.receive, 0, limits.receive_messages, min(WAIT_S, limits.wait_s)))

    def ack(self, driver: MessageDriver, got: Sequence[Delivery]) -> None:
        """Acknowledge the messages of probes, also those of earlier measurements. All other messages stay in the queue."""
        tokens = [each.token for each in got if each.body.startswith(PROBE)]
        for at in range(0, len(tokens), driver.limits.batch_messages):
            self.timed(driver, "ack", partial(driver.ack, 0, tokens[at : at + driver.limits.batch_messages]))

    def _messages(self, *, direct: bool) -> MessageDriver:
        return MeteredMessages(self.provider.messages(self.resources, self.task.slot, direct=direct), self.store.retry.meter)

    def _watch(self) -> None:
        """Stop if the lease is lost: then another run may use the queues."""
        try:
            slots.watch(self.store, self.task.slot, self.task.epoch, self.over)
        except FsdError:
            self.stopped = True
            self.over.set()

    def _ends(self, until: float) -> bool:
        """Whether the time is over, or the client has stopped this function."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S and not self.over.is_set():
            self._looked = now
            if self.store.find(self.task.keys.error) is not None:
                self.stopped = True
                self.over.set()
        return now >= until or self.over.is_set()

    def _objects(self) -> None:
        """A round of puts, gets and a list."""
        driver = self.store.driver
        for name, size, ending in (("small", SMALL_BYTES, ""), ("large", LARGE_BYTES, "_large")):
            at, body = f"{self._prefix}{name}", os.urandom(size)
            self.timed(driver, f"put{ending}", partial(driver.put, at, body))
            self.timed(driver, f"get{ending}", partial(driver.get, at))
        self.timed(driver, "list", partial(driver.list, self._prefix))

    def _connections(self, until: float) -> None:
        """The first get over new connections."""
        for _ in range(self.task.connections if self.samples["put"] else 0):
            if self._ends(until):
                return
            with closing(MeteredObjects(self.provider.objects(self.resources), self.store.retry.meter)) as fresh:
                self.timed(fresh, "get_first", partial(fresh.get, f"{self._prefix}small"))

    def _clocks(self, driver: MessageDriver) -> None:
        """Tell the client that this function is there, then answer each of its messages with the times of arrival and departure."""
        count, run, wait_until = 0, self.task.run, time.monotonic() + LOST_S
        if self.task.clocks:
            self._send(driver, {"ready": run})
        while count < self.task.clocks and not self._ends(wait_until):
            got = self.receive(driver)
            arrived = time.time()
            asked = [found for delivery in got if (found := noted(delivery.body)).get("ask") == run]
            for found in asked:
                self._send(driver, {"answer": run, "number": found.get("number"), "arrived": arrived, "left": time.time()})
                count, wait_until = count + 1, time.monotonic() + LOST_S
            self.ack(driver, got)

    def _send(self, driver: MessageDriver, fields: Mapping[str, Any]) -> None:
        """A message to the client, which receives as rank 1."""
        self.store.retry.entries(driver, "a message of fsd measure", [Message(1, note(fields))], driver.publish)

    def _streams(self, until: float) -> None:
        """The bandwidth of `STREAMS` requests at once, in both directions."""
        driver, body, count = self.store.driver, os.urandom(STREAM_BYTES), self.task.streams
        requests: dict[str, Callable[[str], object]] = {"write": lambda at: driver.put(at, body), "read": driver.get}
        for side, request in requests.items():
            if not count or self._ends(until):
                return
            keys = [f"{self._prefix}stream-{number}" for number in range(count)]
            began = time.perf_counter()
            crew.each(lambda at, request=request: self.timed(driver, None, partial(request, at)), keys, STREAMS)  # type: ignore[misc]
            self._rates[side] = count * STREAM_BYTES / 1e6 / (time.perf_counter() - began)


class _Way:
    """A way of publishing to the queue of rank 0, and the receives there. ``ending``: of the names of its samples."""

    def __init__(self, measuring: _Measuring, driver: MessageDriver, ending: str) -> None:
        self._measuring, self._driver, self._ending = measuring, driver, ending
        self._name = f"{measuring.task.run}-{measuring.task.name}{ending}"

    def single(self, number: int) -> None:
        """Publish a message while a receive waits, and acknowledge it."""
        measuring, driver = self._measuring, self._driver
        body, done = filler(f"{self._name}-{number}", SMALL_BYTES), threading.Event()
        got: list[Delivery] = []

        def receive() -> float | None:
            """The time at which the message came, on the clock of `time.perf_counter`; `None` if it did not come."""
            while not done.is_set():
                some = measuring.receive(driver)
                now = time.perf_counter()
                got.extend(some)
                if any(each.body == body for each in some):
                    done.set()
                    return now
            return None

        receiving = crew.begin(receive)
        time.sleep(SETTLE_S)
        began = time.perf_counter()
        try:
            measuring.timed(driver, f"publish{self._ending}", partial(driver.publish, [Message(0, body)]))
            done.wait(LOST_S)
        finally:
            done.set()
        arrived = receiving.result()
        if arrived is not None:
            measuring.samples[f"deliver{self._ending}"].append(1000 * (arrived - began))
        measuring.ack(driver, got)

    def burst(self, number: int) -> None:
        """Publish two batches, give them time to arrive, then receive them."""
        measuring, driver, limits = self._measuring, self._driver, self._driver.limits
        batch = max(1, min(BATCH, limits.batch_messages, limits.batch_bytes // (SMALL_BYTES + limits.overhead_bytes)))
        for part in range(2):
            messages = [Message(0, filler(f"{self._name}-{number}-{part}-{each}", SMALL_BYTES)) for each in range(batch)]
            measuring.timed(driver, "publish_batch", partial(driver.publish, messages))
        time.sleep(min(1.0, 3 * max(measuring.samples["deliver"][-20:], default=100.0) / 1000))
        missing, until = 2 * batch, time.monotonic() + LOST_S
        while missing > 0 and time.monotonic() < until and not measuring.over.is_set():
            began = time.perf_counter()
            if got := measuring.receive(driver):
                measuring.samples["receive"].append(1000 * (time.perf_counter() - began))
                measuring.received.append(len(got))
                missing -= len(got)
                measuring.ack(driver, got)


def kernel_rate(seconds: float) -> tuple[float, float]:
    """Compute a sparse layer with the kernel of a worker for about ``seconds`` seconds, once with all threads and once with one.

    Returns two speeds, in nonzero weights times samples: per second of time, with as many threads as a worker has; and per second of
    processor time, with one thread, which is the speed of a core.
    """
    columns = np.sort((np.arange(ROWS)[:, None] + np.arange(LINKS) * (ROWS // LINKS)) % ROWS, axis=1).astype(np.int32)
    csr = (np.arange(0, ROWS * LINKS + 1, LINKS, dtype=np.int64), columns.ravel(), np.full(ROWS * LINKS, 1 / 16, np.float32))
    layer = weights((ROWS, ROWS), csr, None, None, Finish(np.zeros(ROWS, np.float32), "relu", None, False))
    values = np.zeros((ROWS, 1 + SAMPLES), np.float32)  # column 0 is the base
    values[:, 1:] = np.random.default_rng(1).random((ROWS, SAMPLES), np.float32)
    live = np.arange(SAMPLES, dtype=np.int32)
    block = stacked([Block(values, live, SAMPLES)], live)
    active = compiled.active()
    all_threads = _rate(lambda: layer.forward(block), seconds / 2, time.perf_counter)
    with nullcontext() if active is None else compiled.using(active.name, 1):
        return all_threads, _rate(lambda: layer.forward(block), seconds / 2, time.process_time)


def _rate(compute: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Repeat ``compute`` for so many seconds. Returns weights times samples by the seconds of ``clock``."""
    compute()
    count, until, began = 0, time.perf_counter() + seconds, clock()
    while time.perf_counter() < until or not count:
        compute()
        count += 1
    return count * ROWS * LINKS * SAMPLES / max(1e-9, clock() - began)
