"""The bill: for each price of a tariff, the quantities that the price counts, times the price."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import attrs

from fsd_core.common import arguments
from fsd_core.cost.quantities import QUANTITIES
from fsd_core.cost.tariff import Price, Tariff, load
from fsd_core.cost.usage import Usage

__all__ = ["Bill", "Line", "bill"]


@attrs.frozen
class Line:
    """The quantity of one SKU, in units of its price, and its cost. ``otherwise_usd``: the cost by ``Price.otherwise`` if it has one."""

    price: Price
    quantity: float
    usd: float
    otherwise_usd: float

    def to_json(self) -> dict[str, Any]:
        """The fields as values that JSON can hold."""
        names = {"service": self.price.service, "sku": self.price.sku, "quantity": self.quantity}
        return names | {"usd": self.usd, "confidence": self.price.confidence}


@attrs.frozen
class Bill:
    """A line for each price whose quantity is above 0, in the order of the tariff.

    ``apart``: the monthly charges of the services that the run used. `total_usd` does not include them.
    """

    tariff: Tariff
    lines: tuple[Line, ...]
    apart: tuple[Line, ...]

    @property
    def total_usd(self) -> float:
        """The sum of the lines, in USD."""
        return math.fsum(line.usd for line in self.lines)

    @property
    def otherwise_usd(self) -> float:
        """The sum of the lines, in USD, if all prices of low confidence are wrong: then ``Price.otherwise`` replaces them."""
        return math.fsum(line.otherwise_usd for line in self.lines)

    @property
    def doubted(self) -> tuple[Price, ...]:
        """The prices of low confidence in this bill."""
        return tuple(line.price for line in self.lines if line.price.confidence == "low")

    @property
    def otherwise(self) -> str:
        """A text for people: the condition under which the run costs `otherwise_usd`; empty if that equals `total_usd`."""
        prices = (line.price for line in self.lines if line.usd != line.otherwise_usd)
        return " and ".join(f"{price.sku} costs {price.otherwise:g} USD, not {price.usd:g}" for price in prices)

    @property
    def by_service(self) -> Mapping[str, tuple[Line, ...]]:
        """The lines of each service, in order."""
        services = dict.fromkeys(line.price.service for line in self.lines)
        return {service: tuple(line for line in self.lines if line.price.service == service) for service in services}

    def to_json(self) -> dict[str, Any]:
        """The fields as values that JSON can hold."""
        return {
            "tariff": self.tariff.name,
            "lines": [line.to_json() for line in self.lines],
            "total_usd": self.total_usd,
            "otherwise_usd": self.otherwise_usd,
            "apart": [line.to_json() for line in self.apart],
        }


def bill(usage: Usage | Mapping[str, object], tariff: Tariff | str | os.PathLike[str], *, free: bool = False) -> Bill:
    """The bill of ``usage`` by the prices of ``tariff``.

    - ``usage``: a `Usage`, or a mapping like the USAGE.json of ``fsd bill``: counts of a run's meter, ``function_seconds`` (a number, or a
      list with one number for each function), ``function_memory_mb`` (MiB), ``stored_byte_seconds``. All keys are optional, but function
      time needs memory.
    - ``tariff``: a `Tariff`, the name of a tariff, or the path of a .toml file of your own.
    - ``free``: subtract the free tiers of one month.

    Raises `InputError` on a wrong argument, key or value.
    """
    usage = usage if isinstance(usage, Usage) else Usage.parse(usage)
    tariff = tariff if isinstance(tariff, Tariff) else load(tariff)
    free = arguments.yes_or_no("free", free)
    lines = []
    for price in tariff.prices:
        counted = math.fsum(QUANTITIES[name](usage, tariff.function, price.min_bytes) for name in price.counts)
        if counted:
            quantity = counted / price.per
            paid = max(0.0, quantity - price.free) if free else quantity
            other = price.otherwise if price.confidence == "low" else price.usd
            lines.append(Line(price, quantity, paid * price.usd, paid * other))
    used = {line.price.service for line in lines}
    apart = (Line(price, 1.0, price.usd, price.usd) for price in tariff.prices if price.apart and price.service in used)
    return Bill(tariff, tuple(lines), tuple(apart))
