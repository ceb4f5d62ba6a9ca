"""How the channels of one stage receive, simulated for many runs at once: rounds of requests by the rules of the channels.

Arrays have the shape (runs, targets, sources), or (runs, ranks) for what a rank does. Times are seconds since the run began.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.channel.objects import first_get_s, next_get_s
from fsd_core.channel.packing import ack_messages, linger_s, open_receiver, open_receives
from fsd_core.plan.sample import Sampler
from fsd_core.providers.outline import Outline

__all__ = ["Bundles", "Inbox"]

Array = NDArray[np.float64]
LOOK_S = 1.0  # a rank that finds no bundle looks for failures and for news, in turns, if it did not for so long
LATE_S = 1e-3  # from the delivery of a message until a receive that waits for it returns, with what was delivered meanwhile
CONNECTIONS = 2  # of a rank to the object store, from its claim and its reads
POLLS = 60  # of one bundle: by then the pauses are half a second
_sum = np.add.reduce  # as `numpy.sum`, which takes three times as long for small arrays


@attrs.define(eq=False)
class Inbox:
    """The queues of some ranks. Counts are (runs,): those of all ranks together."""

    sampler: Sampler
    outline: Outline
    shared: Array  # (runs, ranks): `Sampler.functions`
    eager: bool
    weight: float = 1.0  # the next steps stand for so many
    receives: Array = attrs.field(init=False)
    units: Array = attrs.field(init=False)
    acks: Array = attrs.field(init=False)
    _tokens: Array = attrs.field(init=False)  # (runs, ranks) deliveries that are not acknowledged
    _oldest: Array = attrs.field(init=False)
    _looked: Array = attrs.field(init=False)  # when the last receive looked: it took what was there for later steps too
    _waited: Array = attrs.field(init=False)
    _opening: Array = attrs.field(init=False)  # seconds that its first receive takes to open a connection
    _due_s: float = attrs.field(init=False)  # half of a lease
    _full: float = attrs.field(init=False)  # so many deliveries are acknowledged at once

    def __attrs_post_init__(self) -> None:
        shape, limits = self.shared.shape, self.outline.messages
        self.receives, self.units, self.acks = (np.zeros(shape[0]) for _ in range(3))
        self._tokens, self._oldest, self._waited = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._looked = np.full(shape, -np.inf)
        self._opening = self.sampler.draw("connect", self.shared)
        row = self.sampler.table.rows.get("deliver") if self.sampler.table else None
        self._due_s = max(limits.lease_s / 2, limits.lease_s - (row.longest_ms / 1000 if row else 0.0)) / 2
        self._full = float(ack_messages(limits))

    def keep(self, tokens: Array, since: Array) -> None:
        """The ranks have so many deliveries that are not acknowledged, (runs,), ``since`` (runs, ranks)."""
        self._tokens, self._oldest = np.broadcast_to(tokens[:, None], since.shape), since

    @property
    def tokens(self) -> Array:
        """(runs, ranks): deliveries that are not acknowledged."""
        return self._tokens

    def receive(self, asked: Array, arrives: Array, messages: Array, mean_bytes: float) -> Array:
        """When each rank has received everything. ``arrives``: infinite where nothing comes. ``messages``: (targets, sources), of each."""
        limits, sampler = self.outline.messages, self.sampler
        opened, receives = open_receiver(limits, self.eager), open_receives(limits, self.eager)
        copies = 2 if self.eager else 1
        times = copies * self.weight
        order = np.sort(arrives, axis=2)
        total = _sum(np.isfinite(order), 2)  # payloads
        each = _sum(messages, 1) / np.maximum(1, _sum(messages > 0, 1))  # messages of a payload
        most = np.maximum(1, limits.receive_messages // np.maximum(1.0, each)).astype(int)
        have = np.minimum(total, _sum(order <= self._looked[:, :, None], 2))
        # What came before its step began, a receive of the step before brought: in a step of few payloads, one that brought nothing else.
        if have.any():
            self.receives += times * _sum(have / np.maximum(1, total) ** 2, 1)
            self._remember(times * have * each, asked)
        else:
            self._ack(self._due(asked))
        rows = np.arange(total.size).reshape(total.shape) * order.shape[2]
        done, now = asked.copy(), asked.copy()
        while (open_ := have < total).any():
            every = bool(open_.all())  # the usual case: then nothing has to be chosen
            looked = np.maximum(now, order.take(rows + np.minimum(have, order.shape[2] - 1)) + LATE_S)
            looked = looked if every else np.where(open_, looked, now)
            self._wait(now, looked, copies)
            got = np.maximum(np.minimum(_sum(order <= looked[:, :, None], 2) - have, most), 1)
            got = got if every else np.where(open_, got, 0)
            took = sampler.draw("receive", self.shared)
            if self._opens:
                took += np.where(open_, self._opening, 0.0)
                self._opening = np.where(open_, 0.0, self._opening)
            count = got * each
            size = count * mean_bytes
            came = np.maximum(now + took / receives, looked) + sampler.transfer("receive", "read", size)
            have = have + got
            calls = np.maximum(1.0, np.ceil(count / limits.receive_messages))
            units = np.maximum(calls, np.ceil(size / limits.billing_bytes))
            self.receives += times * _sum(calls if every else np.where(open_, calls, 0.0), 1)
            self.units += times * _sum(units if every else np.where(open_, units, 0.0), 1)
            self._remember(times * count, came)
            next_ = came if opened else came + linger_s(self._waited)
            if every:
                done, self._looked, now = came, looked, next_
            else:
                done, self._looked = np.where(open_, came, done), np.where(open_, looked, self._looked)
                now = np.where(open_, next_, now)
        self._waited = done - asked
        return done

    @property
    def _opens(self) -> bool:
        """Whether the next receive of a rank opens a connection, which takes time."""
        return bool(self._opening.any())

    def _wait(self, since: Array, until: Array, copies: int) -> None:
        """A receive that waits ends without a message when acks are due, and after the longest wait of the service."""
        due, waits = self._due(until), np.floor((until - since) / self.outline.messages.wait_s)
        if due is not None or waits.any():
            self.receives += self.weight * copies * _sum(waits if due is None else due + waits, 1)
        self._ack(due)

    def _due(self, now: Array) -> NDArray[np.bool_] | None:
        """Whether half of the lease of the oldest delivery is over; `None`: nowhere. `--latency` shortens it by the longest delivery."""
        old = now - self._oldest >= self._due_s
        if not old.any():
            return None
        due: NDArray[np.bool_] = (self._tokens > 0) & old
        return due

    def _ack(self, late: NDArray[np.bool_] | None) -> None:
        if late is not None:
            self.acks += _sum(np.where(late, np.ceil(self._tokens / self.outline.messages.batch_messages), 0.0), 1)
            self._tokens = np.where(late, 0.0, self._tokens)

    def _remember(self, count: Array, now: Array) -> None:
        self._ack(self._due(now))
        some = count > 0
        self._oldest = np.where((self._tokens == 0) & some, now, self._oldest)
        self._tokens = self._tokens + count
        if (self._tokens >= self._full).any():
            full = np.floor(self._tokens / self._full)
            self.acks += _sum(full, 1)
            self._tokens = self._tokens - full * self._full
            self._oldest = np.where((full > 0) & some, now, self._oldest)

    def finish(self) -> None:
        """Acknowledge the rest."""
        self.acks += np.ceil(self._tokens / self.outline.messages.batch_messages).sum(axis=1)
        self._tokens = np.zeros_like(self._tokens)


@attrs.define(eq=False)
class Bundles:
    """The gets by which some ranks look for the bundles of others."""

    sampler: Sampler
    outline: Outline
    shared: Array  # (runs, targets)
    eager: bool
    weight: float = 1.0  # the next steps stand for so many
    gets: Array = attrs.field(init=False)
    connections: int = CONNECTIONS  # that a rank has opened
    _took: Array | None = attrs.field(default=None, init=False)  # (runs, targets, sources)
    _looked: Array | None = attrs.field(default=None, init=False)  # (runs, targets): when a rank looked for failures or news

    def __attrs_post_init__(self) -> None:
        self.gets = np.zeros(self.shared.shape[0])

    def receive(self, asked: Array, visible: Array, sizes: Array, more: NDArray[np.bool_]) -> Array:
        """When each rank has everything. ``visible``: when each bundle exists; infinite where none comes.

        ``sizes``: (targets, sources) bytes that the target reads of a bundle; ``more``: it needs a second get.
        """
        sampler, poll_s = self.sampler, self.outline.objects.poll_s
        wanted, shape = np.isfinite(visible), visible.shape
        since = asked[:, :, None]
        if self._took is None or self._took.shape != shape:
            self._took = np.zeros(shape)
        shared = self.shared[:, :, None]
        self._looked = asked if self._looked is None else self._looked
        at = since + first_get_s(self._took, self.eager)
        came = np.where(wanted, np.inf, -np.inf)
        open_ = wanted.copy()
        left = open_.any()
        opens = self._opened(wanted)
        for _ in range(POLLS):
            if not left:
                break
            took = sampler.draw("get", shared, shape)
            if opens is not None:
                took, opens = took + opens, None
            self.gets += self.weight * _sum(open_.reshape(len(open_), -1), 1)
            hit = at + took / 2 >= visible
            hit &= open_
            at += took
            np.copyto(came, at, where=hit)
            open_ ^= hit
            left = open_.any()
            if left:  # where a rank has its bundle, what follows changes nothing
                self._look(np.where(open_, at, -np.inf).max(axis=2))
                at += next_get_s(at - since, self.eager, poll_s)
        if left:
            came = np.where(open_, visible + sampler.draw("get", shared, shape), came)
        else:
            sampler.unused("get", shape)
        if more.any():
            came = came + np.where(more, sampler.draw("get", shared, shape), 0.0)
        self._took = np.where(wanted, came - since, self._took)
        own = np.where(wanted, came + sizes * sampler.own_rate("get"), -np.inf).max(axis=2)
        link = asked + _sum(np.where(wanted, sizes, 0.0), 2) * sampler.link_rate("read")
        done: Array = np.maximum(np.maximum(own, link), asked)
        return done

    def _opened(self, wanted: NDArray[np.bool_]) -> Array | None:
        """The seconds in which gets that a rank makes at once open the connections that it lacks; `None` if it has enough."""
        count = int(wanted.sum(axis=2).max())
        if count <= self.connections:
            return None
        lacking = wanted & (np.cumsum(wanted, axis=2) > self.connections)
        self.connections = count
        return np.where(lacking, self.sampler.draw("connect", self.shared[:, :, None], wanted.shape), 0.0)

    def _look(self, missed: Array) -> None:
        """Ranks that ``missed`` a bundle at these moments look whether the run is over; (runs, ranks), minus infinity where one did not.

        Steps that stand for several are as far from each other as these, and a rank looks once a second in all of them.
        """
        assert self._looked is not None
        seconds = missed - self._looked
        if seconds.max() < LOOK_S:
            return
        count = np.floor(np.maximum(0.0, seconds) / LOOK_S)
        self.gets += _sum(count if self.weight > 1 else np.minimum(1.0, count), 1)
        self._looked = np.where(count > 0, missed, self._looked)
