r"""Fits the rows of a table of latencies to measured times.

The model of a row (`fsd_core.latency.draws`) has three parameters: p50, p90 and p99. Its logarithm is a line of the normal score z from p50
to p90 (the body, which goes on below p50), another line from p90 to p99, and a tail of a fixed index beyond. The fit takes quantiles:

- **p50 and p90** are quantiles of the samples x(1) <= ... <= x(n): with h = (n + 1/3) p + 1/3, limited to 1..n, the value between
  x(floor h) and the next, by the fraction of h. This is definition 8 of Hyndman and Fan, "Sample Quantiles in Statistical Packages"
  (The American Statistician 50, 1996), which is about median-unbiased whatever the distribution.
- **p99** is the same quantile if there are at least `TAIL_SAMPLES` samples. With fewer, no sample shows the tail, and the body goes on:
  p99 = p90 (p90 / p50)^((z99 - z90) / z90), but at most twice the largest sample, because a few samples of two kinds would give any
  slope. Then the real tail may be longer, and the row has a low confidence.

The standard error of ln of a quantile is s sqrt(p (1 - p) / n) / phi(z), with s the slope d ln x / dz there and phi the normal density
(the asymptotic variance of a sample quantile, for instance David and Nagaraja, "Order Statistics", 2003, section 10.2): `relative_error`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fsd_core.latency.draws import Z90, Z99
from fsd_core.latency.table import LEAST_MS, Row

__all__ = ["TAIL_SAMPLES", "extra", "fitted", "quantile", "rate", "relative_error"]

TAIL_SAMPLES = 100  # fewer samples do not show their 99th percentile
MOST = 2.0  # times the largest sample: a p99 that follows from the body is no larger
SURE_SAMPLES = 1000  # of a row of high confidence


def quantile(samples: Sequence[float], p: float) -> float:
    """The quantile ``p`` (0 to 1) of at least one sample."""
    ordered, count = sorted(samples), len(samples)
    h = min(max((count + 1 / 3) * p + 1 / 3, 1.0), float(count))
    low = math.floor(h)
    return ordered[low - 1] + (h - low) * (ordered[min(low, count - 1)] - ordered[low - 1])


def fitted(samples: Sequence[float], *, mb_per_s: float | None = None, as_of: str = "", source: str = "", region: str = "") -> Row:
    """The row of ``samples``: at least one, in milliseconds. ``mb_per_s``: see `rate`. The other arguments are texts of the row."""
    p50, p90 = (max(LEAST_MS, quantile(samples, p)) for p in (0.5, 0.9))
    p99 = quantile(samples, 0.99)
    if len(samples) < TAIL_SAMPLES:
        p99 = min(p90 * (p90 / p50) ** ((Z99 - Z90) / Z90), MOST * max(samples))
    sure = "high" if len(samples) >= SURE_SAMPLES else "medium" if len(samples) >= TAIL_SAMPLES else "low"
    p50, p90, p99 = (float(f"{each:.4g}") for each in (p50, p90, max(p90, p99)))
    note = "" if len(samples) >= TAIL_SAMPLES else f"p99 follows from p50 and p90: {len(samples)} samples do not show it"
    return Row(
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mb_per_s=None if mb_per_s is None else float(f"{mb_per_s:.4g}"),
        kind="measured",
        confidence=sure,
        region=region,
        as_of=as_of,
        source=f"{len(samples)} samples: {source}" if source else f"{len(samples)} samples",
        note=note,
    )


def relative_error(row: Row, p: float, count: int) -> float:
    """The standard error of the quantile ``p`` of ``count`` samples of ``row``, as a share of the quantile. ``p``: 0.5, 0.9 or 0.99."""
    z = {0.5: 0.0, 0.9: Z90, 0.99: Z99}[p]
    body = math.log(row.p90_ms / row.p50_ms) / Z90
    slope = body if p < 0.9 else max(body, math.log(row.p99_ms / row.p90_ms) / (Z99 - Z90))
    return slope * math.sqrt(p * (1 - p) / count) / (math.exp(-z * z / 2) / math.sqrt(2 * math.pi))


def extra(first: Sequence[float], later: Sequence[float]) -> list[float]:
    """The extra milliseconds of each ``first`` request over a new connection beyond the median of ``later`` requests; at least 0."""
    usual = quantile(later, 0.5)
    return [max(0.0, each - usual) for each in first]


def rate(small_ms: Sequence[float], large_ms: Sequence[float], more_bytes: int) -> float | None:
    """The bandwidth of one request in MB/s: ``more_bytes`` divided by the difference of the medians of ``large_ms`` and ``small_ms``.

    ``more_bytes``: the difference of the sizes of large and small bodies. `None` if large bodies do not take longer.
    """
    longer_ms = quantile(large_ms, 0.5) - quantile(small_ms, 0.5)
    return more_bytes / 1000 / longer_ms if longer_ms > 0 else None
