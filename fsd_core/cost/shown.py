"""A bill as lines of text for people."""

from __future__ import annotations

from collections.abc import Iterable

from fsd_core.cost.bill import Bill, Line

__all__ = ["by_line", "by_service", "title"]


def title(made: Bill) -> str:
    """The title of a bill: its tariff, region and date."""
    return f"Bill by {made.tariff.name} ({made.tariff.region}, {made.tariff.as_of})"


def by_line(made: Bill) -> list[tuple[str, str]]:
    """A name and a text for each line of a bill, and for its totals."""
    return [(f"{line.price.service} {line.price.sku}", _line(line)) for line in made.lines] + list(_totals(made))


def by_service(made: Bill) -> list[tuple[str, str]]:
    """A name and a text for each service of a bill, and for its totals."""
    rows = []
    for service, lines in made.by_service.items():
        marked = (
            f"{line.price.sku} {line.quantity:.6g} {line.price.unit}" + (" (low confidence)" if line.price.confidence == "low" else "")
            for line in lines
        )
        rows.append((service, f"{_usd(sum(line.usd for line in lines))}  {', '.join(marked)}"))
    return [*rows, *_totals(made)]


def _line(line: Line) -> str:
    mark = ", low confidence" if line.price.confidence == "low" else ""
    mark += ", free" if line.price.usd and not line.usd else ""
    return f"{_usd(line.usd)}  {line.quantity:.10g} {line.price.unit} at {line.price.usd:g} USD{mark}"


def _usd(usd: float) -> str:
    return f"{usd:11.7f} USD"


def _totals(made: Bill) -> Iterable[tuple[str, str]]:
    yield "total", _usd(made.total_usd)
    if made.otherwise_usd != made.total_usd:
        yield "or", f"{_usd(made.otherwise_usd)}  if {made.otherwise}"
    for line in made.apart:
        yield "not in the total", f"{_usd(line.usd)}  {line.price.service} {line.price.unit}"
