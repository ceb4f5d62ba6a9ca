"""Providers as a plan sees them, by the tables and tariffs that come with fsd."""

from __future__ import annotations

from fsd_core.cost import load as load_tariff
from fsd_core.latency import load as load_table
from fsd_core.plan.places import outline_of
from fsd_core.plan.ways import Place
from fsd_core.providers.outline import Outline


def outline(name: str = "local", **settings: object) -> Outline:
    found = outline_of(name, settings)
    assert found is not None
    return found


def place(name: str, **settings: object) -> Place:
    table = load_table(name) if name != "local" else None
    tariff = load_tariff({"local": "local", "aws": "aws-us-east-1"}[name])
    return Place(provider=name, outline=outline(name, **settings), table=table, tariff=tariff, crowded=name == "local")
