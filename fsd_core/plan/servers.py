"""Servers that always run, beside functions: how many a day's runs need, and from how many runs a day they are cheaper."""

from __future__ import annotations

import math

import attrs

from fsd_core.cost.tariff import Server

__all__ = ["Servers", "servers"]


@attrs.frozen
class Servers:
    """``holding``: how many servers hold the weights. ``runs_each``: the runs a day that one computes. ``usd``: of one for a day."""

    holding: int
    runs_each: float
    usd: float

    def count(self, runs: float) -> int:
        """How many servers compute ``runs`` a day and hold the weights."""
        return max(self.holding, math.ceil(runs / self.runs_each))

    def cheaper_from(self, run_usd: float) -> int | None:
        """The runs a day from which servers cost less than functions at every larger number; `None` if there is no such number.

        ``run_usd``: of a run with functions. A server that computes all day replaces functions of ``gain`` times its price. If the runs
        need n servers, there are more than (n - 1) ``runs_each``, so functions cost more than (n - 1) ``gain`` servers. These are at least
        n servers if n >= gain / (gain - 1). Any fewer servers may cost more than functions, until there are runs enough for them.
        """
        gain = run_usd * self.runs_each / self.usd
        if gain <= 1:
            return None
        last = max(self.holding, math.floor(gain / (gain - 1)))
        return math.ceil(self.usd * last / run_usd)


def servers(server: Server, stored_bytes: float, work_s: float, speed: float = 1.0) -> Servers:
    """The servers for a model. ``stored_bytes``: of its weights. ``work_s``: the seconds that a run takes of one core of this machine.

    ``speed``: of a processor of the server, as a multiple of such a core. A server needs 1 GiB and 1.2 times the bytes of the weights.
    """
    holding = math.ceil((1.2 * stored_bytes + (1 << 30)) / (server.memory_mb << 20))
    return Servers(holding, 86_400 * server.vcpus * speed / max(1e-9, work_s), 24 * server.usd_hour)
