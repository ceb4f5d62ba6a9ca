"""Estimates a measurement before it starts: upper bounds of its requests, and their cost by a tariff."""

from __future__ import annotations

import attrs

from fsd_core.cost import Tariff, Usage, bill
from fsd_core.driver import MessageLimits
from fsd_core.protocol.measuring import LARGE_BYTES, SMALL_BYTES, STREAM_BYTES, Task
from fsd_core.providers.outline import Outline

__all__ = ["FULL", "QUICK", "Ask", "Estimate", "hour_usd"]

BURST = 20  # messages
NOTE_BYTES = 300  # of a message that compares clocks
POLL_S = 0.5  # between two looks of the client for answers
START_S = 10.0  # how long the client looks for answers of all cold and warm starts together
OTHERS = 20  # puts, gets and lists of the lease and the clean-up
KERNEL_S = 2.0  # a function that only computes does so for at least this long: a small one gets its processor time in slices
COMPUTE_S = 10.0  # a function that only computes may take so much longer
HOUR = 1 / 730  # of a month
LATE_S = 5.0  # a function may exceed its limit by this time
RECORD_BYTES = 100_000  # of answers, claims and the lease
UNIT_BYTES = 64 << 10  # billed as one publish, if the provider has no outline
MEMORY_MB = 1024.0  # of a function, if the provider has no outline


@attrs.frozen(kw_only=True)
class Ask:
    """The largest counts of a measurement. ``colds``: functions that start at once. ``warms``: functions that start one after another.

    All other fields: see `Task`.
    """

    colds: int
    warms: int
    hold_s: float = 1.0  # each function of a cold start stays this long, so that no other start reuses its instance
    limit_s: float
    clocks: int
    messages: int
    bursts: int
    objects: int
    connections: int
    streams: int
    kernel_s: float

    def task(self, run: str, slot: int, epoch: int) -> Task:
        """The task of the function that measures everything except starts of functions."""
        names = ("limit_s", "clocks", "messages", "bursts", "objects", "connections", "streams", "kernel_s")
        return Task(name="main", run=run, slot=slot, epoch=epoch, **{name: getattr(self, name) for name in names})

    def start(self, name: str, run: str, slot: int, epoch: int, hold_s: float = 0.0) -> Task:
        """The task of a function that only starts."""
        return Task(name=name, run=run, slot=slot, epoch=epoch, limit_s=self.hold_s + 1, hold_s=hold_s)

    @property
    def kernel(self) -> Ask:
        """Only the part that measures the kernel."""
        nothing = dict.fromkeys(("colds", "warms", "clocks", "messages", "bursts", "objects", "connections", "streams"), 0)
        seconds = max(KERNEL_S, self.kernel_s)
        return attrs.evolve(self, hold_s=0.0, limit_s=seconds + COMPUTE_S, kernel_s=seconds, **nothing)

    def usage(self, outline: Outline | None, memory_mb: float = MEMORY_MB) -> Usage:
        """An upper bound of the requests of the measurement.

        ``outline``: the limits of the provider; `None`: not known, then ``memory_mb`` is the memory of a function.
        """
        limits: MessageLimits | None = outline.messages if outline else None
        overhead, unit = (limits.overhead_bytes, limits.billing_bytes) if limits else (0, UNIT_BYTES)
        ways = 2 if outline is not None and outline.direct is not None else 1
        singles, burst = self.messages * ways, BURST * self.bursts
        publishes = singles + 2 * self.bursts + 2 * self.clocks + 1
        size = (singles + burst) * (SMALL_BYTES + overhead) + (2 * self.clocks + 1) * (NOTE_BYTES + overhead)
        units = publishes + 2 * self.bursts * (-(-BURST // 2 * (SMALL_BYTES + overhead) // unit))
        received = singles + burst + 2 * self.clocks + 1
        looks = int((self.limit_s + START_S) / POLL_S)
        launches = self.colds + self.warms + 2
        written = self.objects * (SMALL_BYTES + LARGE_BYTES) + self.streams * STREAM_BYTES + RECORD_BYTES
        counts: dict[str, float] = {
            "publish_requests": publishes,
            "publish_units": units,
            "messages_sent": received,
            "message_bytes_sent": size,
            "messages_received": received,
            "receive_requests": received + 2 * self.limit_s + looks,  # some find nothing
            "ack_requests": received,
            "object_puts": 2 * self.objects + self.streams + 2 * launches + OTHERS,
            "object_gets": 2 * self.objects + self.streams + self.connections + self.limit_s + launches + OTHERS,
            "object_lists": self.objects + looks + OTHERS,
            "object_bytes_written": written,
            "invocations": launches,
            "stored_byte_seconds": written * self.limit_s,
        }
        lasts = [self.limit_s + LATE_S, *[self.hold_s + 1] * self.colds, *[1.0] * (self.warms + 1)]
        memory = outline.functions.memory_bytes if outline else None
        return Usage(counts, tuple((seconds, 0.0) for seconds in lasts), 0.0, memory_mb if memory is None else memory / 2**20)

    def estimate(self, outline: Outline | None, tariff: Tariff | None) -> Estimate:
        """An upper bound of the requests of the measurement and of their cost. ``tariff``: `None`: the cost is not known."""
        usage = self.usage(outline)
        return Estimate(usage, None if tariff is None else bill(usage, tariff).total_usd, "" if tariff is None else tariff.name)


def hour_usd(tariff: Tariff) -> float:
    """What an app costs for an hour, whatever it does: the monthly charges of a tariff."""
    return HOUR * sum(price.usd for price in tariff.prices if price.apart)


@attrs.frozen
class Estimate:
    """An upper bound of the requests and the cost of a measurement.

    ``usd``: `None` without a tariff. ``sizes``: the functions of other sizes, in MiB, whose cost ``usd`` includes.
    """

    usage: Usage
    usd: float | None
    tariff: str
    sizes: tuple[int, ...] = ()

    def with_size(self, memory_mb: int, usd: float | None) -> Estimate:
        """The estimate with the cost of functions of another size."""
        return attrs.evolve(self, usd=None if self.usd is None or usd is None else self.usd + usd, sizes=(*self.sizes, memory_mb))

    def words(self, provider: str, emulator: str | None) -> str:
        """The estimate as one line for people."""
        counts = self.usage.counts
        what = (
            f"{counts['publish_requests']:.0f} publishes, {counts['receive_requests']:.0f} receives, {counts['ack_requests']:.0f} acks, "
            f"{counts['object_puts']:.0f} puts, {counts['object_gets']:.0f} gets, {counts['object_lists']:.0f} lists, "
            f"{counts['object_bytes_written'] / 1e6:.0f} MB, {counts['invocations']:.0f} functions for "
            f"{sum(seconds for seconds, _ in self.usage.functions):.0f} s together"
        )
        if self.sizes:
            what += f"; and an app for a while with functions of {', '.join(map(str, self.sizes))} MB that compute"
        cost = "no tariff is known, so the cost is not known" if self.usd is None else f"{self.usd:.4f} USD by the tariff {self.tariff}"
        where = f"an emulator, which bills nothing; the cloud would bill {cost}" if emulator and self.usd is not None else cost
        return f"{provider}: will request at most about {what}: {where}"


QUICK = Ask(
    colds=4, warms=4, limit_s=16.0, clocks=8, messages=40, bursts=3, objects=20, connections=5, streams=4, kernel_s=0.3
)  # fmt: skip
FULL = Ask(
    colds=8, warms=20, limit_s=180.0, clocks=20, messages=300, bursts=20, objects=200, connections=20, streams=16, kernel_s=2.0
)  # fmt: skip
