"""The figures of a measurement as texts, for a screen and a page."""

from __future__ import annotations

from fsd_core.measuring.asking import BURST
from fsd_core.measuring.making import Measurement

__all__ = ["facts", "figure"]


def figure(value: float | None) -> str:
    """Milliseconds or MB/s as a text; empty if ``value`` is `None`."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def facts(found: Measurement) -> list[tuple[str, str]]:
    """Names and values of all figures that are not in the rows of the table, and of the cost and the time."""
    measured = found.table.measured
    assert measured is not None
    shown = []
    if measured.memory_mb is not None:
        shown.append(("memory of a function", f"{measured.memory_mb:.0f} MB"))
    if measured.weights_per_s is not None:
        core = f"; a core is {measured.speed:.2f} times as fast as one of the client" if measured.speed else ""
        shown.append(("kernel of a function", f"{measured.weights_per_s / 1e6:,.0f} million weights times samples a second{core}"))
    for memory_mb, rate, cores in measured.sizes if len(measured.sizes) > 1 else ():
        shown.append((f"kernel with {memory_mb:.0f} MB", f"{rate / 1e6:,.0f} million weights times samples a second, as {cores:.2f} cores"))
    if measured.clock_offset_ms is not None:
        shown.append(("clock of a function", f"{measured.clock_offset_ms:+.1f} ms, within {measured.clock_error_ms or 0:.1f} ms"))
    if measured.receive_messages is not None:
        shown.append(("messages of a receive", f"{measured.receive_messages:.1f} at the mean, of bursts of {BURST}"))
    cost = "no tariff is known"
    if found.usd is not None:
        cost = f"{found.usd:.4f} USD by the tariff {found.tariff}, estimated {found.usd_estimate:.4f}"
        cost += "; the emulator bills nothing" if found.stand_in else ""
    return [*shown, ("cost", cost), ("took", f"{found.seconds:.1f} s"), ("table", str(found.file or "not written"))]
