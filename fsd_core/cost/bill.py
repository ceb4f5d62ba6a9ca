"""The bill: each price of a tariff times what a usage has of what it counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsd_core.cost.quantities import QUANTITIES
from fsd_core.cost.tariff import Price, Tariff
from fsd_core.cost.usage import Usage

__all__ = ["Bill", "Line", "bill"]


@dataclass(frozen=True, slots=True)
class Line:
    """So many units of one SKU, and what they cost. ``otherwise_usd`` differs where the price is of low confidence."""

    price: Price
    quantity: float
    usd: float
    otherwise_usd: float

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        names = {"service": self.price.service, "sku": self.price.sku, "quantity": self.quantity}
        return names | {"usd": self.usd, "confidence": self.price.confidence}


@dataclass(frozen=True, slots=True)
class Bill:
    """Lines in the order of the tariff, without those of which nothing was used.

    ``apart`` are charges by the month of the services that were used: no part of the total.
    """

    tariff: Tariff
    lines: tuple[Line, ...]
    apart: tuple[Line, ...]

    @property
    def total_usd(self) -> float:
        """The sum of the lines."""
        return math.fsum(line.usd for line in self.lines)

    @property
    def otherwise_usd(self) -> float:
        """The sum if every price of low confidence were its other figure: ``otherwise``, or nothing."""
        return math.fsum(line.otherwise_usd for line in self.lines)

    @property
    def doubted(self) -> tuple[Price, ...]:
        """The prices of low confidence that it uses."""
        return tuple(line.price for line in self.lines if line.price.confidence == "low")

    @property
    def otherwise(self) -> str:
        """When `otherwise_usd` is right, in words; empty where it is the total."""
        prices = (line.price for line in self.lines if line.usd != line.otherwise_usd)
        return " and ".join(f"{price.sku} costs {price.otherwise:g} USD, not {price.usd:g}" for price in prices)

    @property
    def by_service(self) -> Mapping[str, tuple[Line, ...]]:
        """The lines of each service, in order."""
        services = dict.fromkeys(line.price.service for line in self.lines)
        return {service: tuple(line for line in self.lines if line.price.service == service) for service in services}

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "tariff": self.tariff.name,
            "lines": [line.to_json() for line in self.lines],
            "total_usd": self.total_usd,
            "otherwise_usd": self.otherwise_usd,
            "apart": [line.to_json() for line in self.apart],
        }


def bill(usage: Usage, tariff: Tariff, *, free: bool = False) -> Bill:
    """What ``usage`` costs by ``tariff``, in USD; with ``free`` as the first of its month, so that all free tiers are left."""
    lines = []
    for price in tariff.prices:
        counted = math.fsum(QUANTITIES[name](usage, tariff.function, price.least) for name in price.counts)
        if counted:
            quantity = counted / price.per
            paid = max(0.0, quantity - price.free) if free else quantity
            other = price.otherwise if price.confidence == "low" else price.usd
            lines.append(Line(price, quantity, paid * price.usd, paid * other))
    used = {line.price.service for line in lines}
    apart = (Line(price, 1.0, price.usd, price.usd) for price in tariff.prices if price.apart and price.service in used)
    return Bill(tariff, tuple(lines), tuple(apart))
