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
POLLS = 60  # of one bundle: by then the pauses are half a second


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

    def __attrs_post_init__(self) -> None:
        shape = self.shared.shape
        self.receives, self.units, self.acks = (np.zeros(shape[0]) for _ in range(3))
        self._tokens, self._oldest, self._waited = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._looked = np.full(shape, -np.inf)
        self._opening = self.sampler.draw("connect", self.shared)

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
        order = np.sort(arrives, axis=2)
        total = np.isfinite(order).sum(axis=2)  # payloads
        each = messages.sum(axis=1) / np.maximum(1, (messages > 0).sum(axis=1))  # messages of a payload
        most = np.maximum(1, limits.receive_messages // np.maximum(1.0, each)).astype(int)
        have = np.minimum(total, (order <= self._looked[:, :, None]).sum(axis=2))
        # What came before its step began, a receive of the step before brought: in a step of few payloads, one that brought nothing else.
        self.receives += copies * self.weight * (have / np.maximum(1, total) ** 2).sum(axis=1)
        self._remember(copies * self.weight * have * each, asked)
        done, now = asked.copy(), asked.copy()
        while (open_ := have < total).any():
            first = np.take_along_axis(order, np.minimum(have, order.shape[2] - 1)[:, :, None], axis=2)[:, :, 0]
            looked = np.maximum(now, np.where(open_, first, now))
            self._wait(now, looked, copies)
            got = np.minimum((order <= looked[:, :, None]).sum(axis=2) - have, most)
            got = np.where(open_, np.maximum(got, 1), 0)
            took = sampler.draw("receive", self.shared) + np.where(open_, self._opening, 0.0)
            self._opening = np.where(open_, 0.0, self._opening)
            size = got * each * mean_bytes
            came = np.maximum(now + took / receives, looked) + sampler.transfer("receive", "read", size)
            done = np.where(open_, came, done)
            have = have + got
            calls = np.where(open_, np.maximum(1.0, np.ceil(got * each / limits.receive_messages)), 0.0)
            self.receives += copies * self.weight * calls.sum(axis=1)
            self.units += copies * self.weight * np.where(open_, np.maximum(calls, np.ceil(size / limits.billing_bytes)), 0.0).sum(axis=1)
            self._looked = np.where(open_, looked, self._looked)
            self._remember(copies * self.weight * np.where(open_, got * each, 0.0), came)
            now = np.where(open_, came if opened else came + linger_s(self._waited), now)
        self._waited = done - asked
        return done

    def _wait(self, since: Array, until: Array, copies: int) -> None:
        """A receive that waits ends without a message when acks are due, and after the longest wait of the service."""
        due = self._due(until)
        self.receives += self.weight * copies * (due + np.floor((until - since) / self.outline.messages.wait_s)).sum(axis=1)
        self._ack(due)

    def _due(self, now: Array) -> NDArray[np.bool_]:
        """Whether half of the lease of the oldest delivery is over. `--latency` shortens the lease by the longest delivery."""
        lease_s, row = self.outline.messages.lease_s, self.sampler.table.rows.get("deliver") if self.sampler.table else None
        lease_s = max(lease_s / 2, lease_s - (row.longest_ms / 1000 if row else 0.0))
        return (self._tokens > 0) & (now - self._oldest >= lease_s / 2)

    def _ack(self, late: NDArray[np.bool_]) -> None:
        self.acks += np.where(late, np.ceil(self._tokens / self.outline.messages.batch_messages), 0.0).sum(axis=1)
        self._tokens = np.where(late, 0.0, self._tokens)

    def _remember(self, count: Array, now: Array) -> None:
        size = float(ack_messages(self.outline.messages))
        self._ack(self._due(now))
        self._oldest = np.where((self._tokens == 0) & (count > 0), now, self._oldest)
        self._tokens = self._tokens + count
        full = np.floor(self._tokens / size)
        self.acks += full.sum(axis=1)
        self._tokens = self._tokens - full * size
        self._oldest = np.where((full > 0) & (count > 0), now, self._oldest)

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
        since = np.broadcast_to(asked[:, :, None], shape)
        if self._took is None or self._took.shape != shape:
            self._took = np.zeros(shape)
        shared = np.broadcast_to(self.shared[:, :, None], shape)
        self._looked = asked if self._looked is None else self._looked
        at = since + first_get_s(self._took, self.eager)
        came = np.where(wanted, np.inf, -np.inf)
        open_ = wanted.copy()
        for _ in range(POLLS):
            if not open_.any():
                break
            took = sampler.draw("get", shared)
            self.gets += self.weight * open_.sum(axis=(1, 2))
            hit = open_ & (at + took / 2 >= visible)
            came = np.where(hit, at + took, came)
            open_ = open_ & ~hit
            self._look(np.where(open_, at + took, -np.inf).max(axis=2))
            at = np.where(open_, at + took + next_get_s(at + took - since, self.eager, poll_s), at)
        came = np.where(open_, visible + sampler.draw("get", shared), came)
        if more.any():
            came = came + np.where(more, sampler.draw("get", shared), 0.0)
        self._took = np.where(wanted, came - since, self._took)
        own = np.where(wanted, came + sizes * sampler.own_rate("get"), -np.inf).max(axis=2)
        link = asked + np.where(wanted, sizes, 0.0).sum(axis=2) * sampler.link_rate("read")
        done: Array = np.maximum(np.maximum(own, link), asked)
        return done

    def _look(self, missed: Array) -> None:
        """Ranks that ``missed`` a bundle at these moments look whether the run is over; (runs, ranks), minus infinity where one did not.

        Steps that stand for several are as far from each other as these, and a rank looks once a second in all of them.
        """
        assert self._looked is not None
        seconds = np.maximum(0.0, missed - self._looked)
        count = np.floor(seconds / LOOK_S)
        self.gets += (count if self.weight > 1 else np.minimum(1.0, count)).sum(axis=1)
        self._looked = np.where(count > 0, missed, self._looked)
