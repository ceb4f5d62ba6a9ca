"""``fsd tariff list``, ``fsd tariff show``, ``fsd bill``, and the table of a run's bill."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from fsd_core import cost
from fsd_core.cli.options import Command, Group, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.textfile import read_text
from fsd_core.config import PATH, Settings
from fsd_core.cost import Bill, Price, Tariff, Usage, shown
from fsd_core.errors import InputError

__all__ = ["bill", "group", "service_table"]


@click.group(name="tariff", cls=Group, no_args_is_help=False)
def group() -> None:
    """Show the prices from which fsd computes bills."""


@group.command(name="list", epilog="Example: fsd tariff list")
@with_settings()
def list_command(screen: Screen, settings: Settings) -> None:
    """List the tariffs that come with fsd."""
    tariffs = [cost.load(name) for name in cost.names()]
    screen.answer({"tariffs": [_facts(tariff) for tariff in tariffs]})
    rows = []
    for tariff in tariffs:
        usual = f", the default of {tariff.provider}" if cost.default_tariff(tariff.provider) == tariff.name else ""
        rows.append((tariff.name, f"{tariff.title} ({tariff.region}), {tariff.as_of}{usual}"))
    screen.print(pairs("Tariffs", rows))


@group.command(
    epilog="""\b
Examples:
  fsd tariff show aws-us-east-1
  fsd tariff show ./mine.toml
"""
)
@click.argument("name")
@with_settings()
def show(screen: Screen, settings: Settings, name: str) -> None:
    """Show the prices of a tariff.

    NAME is a name that fsd tariff list shows, or the path of a .toml file. Each price is shown with its source, date and confidence. To
    make a tariff of your own, copy the file that is shown and change it.
    """
    tariff = cost.load(name)
    rule = tariff.function
    prices = [
        {
            key: getattr(price, key)
            for key in ("service", "sku", "unit", "usd", "free", "region", "source", "as_of", "confidence", "note", "apart")
        }
        | {"region": price.region or tariff.region, "counts": list(price.counts)}
        | ({"otherwise": price.otherwise} if price.confidence == "low" else {})
        for price in tariff.prices
    ]
    function = {"step_ms": rule.step_ms, "min_ms": rule.min_ms, "init": rule.init, "source": rule.source, "confidence": rule.confidence}
    screen.answer(_facts(tariff) | {"function": function, "prices": prices})
    rows = [("region", tariff.region), ("as of", tariff.as_of), ("file", tariff.path)]
    rows.append(
        (
            "function time",
            f"in steps of {rule.step_ms:g} ms, at least {rule.min_ms:g} ms, {'with' if rule.init else 'without'} start-up",
        )
    )
    screen.print(pairs(f"{tariff.name}: {tariff.title}", rows))
    screen.print(pairs("\nPrices", [(f"{price.service} {price.sku}", _price_text(price)) for price in tariff.prices]))


def _facts(tariff: Tariff) -> dict[str, Any]:
    names = ("name", "title", "provider", "region", "as_of", "path")
    return {name: getattr(tariff, name) for name in names}


def _price_text(price: Price) -> str:
    parts = [f"{price.unit} at {price.usd:g} USD, {price.confidence} confidence" + (f", of {price.region}" if price.region else "")]
    parts += [f"{price.otherwise:g} USD if that is wrong"] if price.confidence == "low" else []
    parts += [f"{price.free:g} a month free"] if price.free else []
    return "; ".join([*parts, f"{price.source}, {price.as_of}", *([price.note] if price.note else [])])


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd bill --tariff aws-us-east-1 --usage usage.json
  echo '{"object_puts": 1000, "object_gets": 5000}' | fsd bill --tariff gcp-us-central1 --usage - --json
""",
)
@click.option("--usage", metavar="USAGE.json", required=True, help="JSON file with the counts and times; - reads standard input.")
@click.option("--free-tier", is_flag=True, help="Subtract the free tiers of one month.")
@with_settings("tariff")
def bill(screen: Screen, settings: Settings, usage: str, free_tier: bool) -> None:
    """Compute a bill from counts and times.

    \b
    USAGE.json is a JSON object. All keys are optional, but function_seconds
    needs function_memory_mb. The keys are the counts that `fsd run --json`
    prints under meter, and:
    function_seconds     seconds of all functions together, or a list with the
                         seconds of each function
    function_memory_mb   memory of one function in MiB
    stored_byte_seconds  sum over all objects: bytes times seconds in the store
    """
    if settings.tariff is None:
        raise InputError(f"--tariff is missing: expected one of {', '.join(cost.names())}, or a .toml file of your own")
    tariff = cost.load(settings.tariff)
    used = Usage.parse(_read(usage), f"--usage {usage}")
    made = cost.bill(used, tariff, free=free_tier)
    screen.answer(made.to_json())
    screen.print(pairs(shown.title(made) + (", free tiers taken off" if free_tier else ""), shown.by_line(made)))
    if used["invocations"] and used.memory_mb is None:
        screen.print("The bill has no function time: function_seconds and function_memory_mb are not given.")


def _read(path: str) -> Any:
    try:
        if path == "-" and sys.stdin is None:
            raise InputError("--usage -: standard input is closed: expected a JSON object")
        text = sys.stdin.read() if path == "-" else read_text(Path(PATH.read_text(path, "--usage ")), f"--usage {path}")
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(f"--usage {path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--usage {path}: is not JSON: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(
            f"{next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)!r} is given twice, expected once"
        )
    return found


def service_table(made: Bill) -> Any:
    """A run's bill with a row for each service."""
    return pairs(f"\n{shown.title(made)}", shown.by_service(made))
