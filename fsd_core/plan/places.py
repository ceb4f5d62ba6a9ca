"""`place`: the limits, latencies and prices of a provider, for a plan."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from fsd_core import latency as tables
from fsd_core.common import arguments
from fsd_core.cost import default_tariff
from fsd_core.cost import load as load_tariff
from fsd_core.errors import InputError
from fsd_core.latency import Row, Table
from fsd_core.latency.table import Link
from fsd_core.plan.ways import Place
from fsd_core.providers import registry
from fsd_core.providers.outline import Outline

__all__ = ["HERE", "has_outline", "outline_of", "place"]

# The milliseconds of requests on this machine: p50, p90 and p99 of runs with one and eight workers on two cores. Starting a function means
# starting Python, and reading a shard means decoding it.
_MS = {
    "publish": (0.4, 0.8, 4.0),
    "deliver": (0.7, 1.5, 8.0),
    "receive": (0.4, 0.8, 4.0),
    "ack": (0.3, 0.6, 3.0),
    "put": (0.4, 1.0, 6.0),
    "get": (0.2, 0.5, 3.0),
    "list": (0.5, 1.0, 5.0),
    "invoke": (10.0, 15.0, 40.0),
    "start_cold": (350.0, 480.0, 800.0),
    "start_warm": (10.0, 20.0, 60.0),
}
_STARTS = ("invoke", "start_cold", "start_warm")
HERE = Table(
    name="this machine",
    title="this machine",
    as_of="2026-11-27",
    hour_share=0.18,
    function_share=0.08,
    rows={verb: Row(p50_ms=p50, p90_ms=p90, p99_ms=p99) for verb, (p50, p90, p99) in _MS.items()},
    links={"read": Link(mb_per_s=150.0), "write": Link(mb_per_s=150.0)},
)


def has_outline(name: str) -> bool:
    """Whether a plan can be made for a provider. A package that cannot be imported does not keep others from a plan."""
    try:
        return getattr(registry.find(name), "outline", None) is not None
    except InputError:
        return False


def outline_of(name: str, settings: Mapping[str, object]) -> Outline | None:
    """The limits of a provider with its ``settings``; `None` if it does not say them. Raises `InputError` if a setting is wrong."""
    make = getattr(registry.find(name), "outline", None)  # a provider need not have it
    found: Outline | None = None if make is None else make(settings)
    return found


def place(name: str, settings: Mapping[str, object], latency: str | os.PathLike[str] | Table | None = None) -> Place:
    """The provider ``name`` with its ``settings``, the table of ``fsd.toml``.

    ``latency``: a table, its path, or a text for `Latency.parse`; `None`: the provider's own table, and of this machine `HERE`. Raises
    `InputError` if the provider does not say its limits, or if a setting or the table is wrong.
    """
    outline = outline_of(name, settings)
    if outline is None:
        raise InputError(f"provider {name} does not say its limits, which a plan needs: expected a provider with the method `outline`")
    crowded = name == "local"
    table = HERE if crowded else None
    if isinstance(latency, Table):
        table = latency
    elif latency is not None:
        asked = os.fspath(arguments.folder_or_name("latency", latency, "the name or the path of a table of latencies"))
        text = isinstance(latency, str) and not os.path.isfile(latency)  # the name of a file may contain a comma
        table = tables.Latency.parse(asked).scaled() if text else tables.load(asked)
    elif (known := tables.find(name, str(settings.get("region") or ""))) is not None:
        # `fsd measure` starts functions in a host that runs already; a run on this machine starts its own host first.
        table = attrs.evolve(known, rows={**known.rows, **{verb: HERE.rows[verb] for verb in _STARTS}}) if crowded else known
    priced = default_tariff(name)
    return Place(provider=name, outline=outline, table=table, tariff=load_tariff(priced) if priced else None, crowded=crowded)
