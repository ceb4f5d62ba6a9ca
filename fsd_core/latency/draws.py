"""Reproducible draws from a table of latencies.

A draw depends only on the seed, the rank, the attempt of its launch, the verb, and the number of earlier draws of that verb. So a function
that makes the same requests in the same order gets the same latencies. If several threads make requests of one verb, the order of their
calls decides which call gets which draw.

The model follows published measurements of S3 (docs/latency.md). The logarithm of a latency is a function of a normal score z (a draw of
the standard normal distribution): a line through p50 and p90 up to p90, and a line through p90 and p99 up to p99. Beyond p99, the tail is
that of a Pareto distribution with the index `TAIL_INDEX`.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import Counter
from hashlib import blake2b

from fsd_core.latency.spec import Latency
from fsd_core.latency.table import Row

__all__ = ["TAIL_INDEX", "Z90", "Z99", "Draws", "function", "hour", "quantile_ms", "request"]

TAIL_INDEX = 4.0  # measured: 3.3 to 4.6 for the slowest 1 % and 0.1 % of requests to S3
_THREE = struct.Struct("<3Q")
Z90, Z99 = 1.2815515655446004, 2.3263478740408408  # the standard normal distribution is below these in 90 % and 99 % of all cases


def quantile_ms(row: Row, z: float) -> float:
    """The latency in milliseconds at ``z`` standard deviations: 0 gives p50, 1.28 gives p90, 2.33 gives p99."""
    if z <= Z90:
        return row.p50_ms * math.pow(row.p90_ms / row.p50_ms, z / Z90)
    if z <= Z99:
        return row.p90_ms * math.pow(row.p99_ms / row.p90_ms, (z - Z90) / (Z99 - Z90))
    beyond = max(math.erfc(z / math.sqrt(2)) / 2, 1e-300)  # the probability of a larger value
    return row.p99_ms * math.pow(0.01 / beyond, 1 / TAIL_INDEX)


def hour(seed: int) -> float:
    """The part of the normal score that all functions of a run with this seed share, in standard deviations."""
    return _numbers(f"{seed}/hour")[0]


def function(seed: int, rank: int, attempt: int = 0) -> float:
    """The part of the normal score that all requests of one function of a run with this seed share, in standard deviations.

    ``rank`` -1 is the client.
    """
    return _numbers(f"{seed}/{rank}/{attempt}/function")[0]


def request(seed: int, rank: int, verb: str, number: int, attempt: int = 0) -> tuple[float, float]:
    """The normal score and the uniform number of a request of one function of a run with this seed.

    ``number``: earlier requests of ``verb``.
    """
    return _numbers(f"{seed}/{rank}/{attempt}/{verb}/{number}")


class Draws:
    """The draws of one function. ``rank`` -1 is the client. Thread-safe."""

    def __init__(self, latency: Latency, rank: int, attempt: int) -> None:
        self.latency = latency
        self._function = latency.seed, rank, attempt
        table = latency.table
        own = function(latency.seed, rank, attempt)
        self._shared = math.sqrt(table.hour_share) * hour(latency.seed) + math.sqrt(table.function_share) * own
        self._own = math.sqrt(max(0.0, 1 - table.hour_share - table.function_share))
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def next(self, verb: str) -> float:
        """The next latency of ``verb`` in seconds; 0 if the table has no row for it."""
        row = self.latency.table.rows.get(verb)
        if row is None:
            return 0.0
        normal, uniform = self._take(verb)
        found = quantile_ms(row, self._shared + self._own * normal)
        if uniform < row.second_share:
            found *= row.second_factor
        return self.latency.scale * min(found, row.longest_ms) / 1000

    def start(self) -> float:
        """The seconds until the code of the next function runs: with the probability `Latency.warm` a warm start, else a cold one."""
        _, uniform = self._take("start")
        return self.next("start_warm" if uniform < self.latency.warm else "start_cold")

    def _take(self, verb: str) -> tuple[float, float]:
        with self._lock:
            number = self._counts[verb]
            self._counts[verb] += 1
        seed, rank, attempt = self._function
        return request(seed, rank, verb, number, attempt)


def _numbers(text: str) -> tuple[float, float]:
    """Two independent numbers that depend on ``text`` alone: one of the standard normal distribution, one uniform in [0, 1)."""
    digest = blake2b(text.encode(), digest_size=24, person=b"fsd-latency").digest()
    first, second, third = (number / 2**64 for number in _THREE.unpack(digest))
    return math.sqrt(-2 * math.log(1 - min(first, 1 - 2**-53))) * math.cos(2 * math.pi * second), third
