"""Tariffs: dated prices with their sources, one TOML file each in the package of a provider. A user can write a file of the same form.

A file has the keys ``provider``, ``region``, ``as_of`` and optionally ``title`` and ``default``, a table ``[function]`` (see
`FunctionRule`), tables ``[[price]]`` (see `Price`), and optionally a table ``[server]`` (see `Server`). Every price names its source.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

from fsd_core.common import arguments, plugins, shipped
from fsd_core.common.fields import Kind, boolean, integer, key, listed, nullable, read, table, text
from fsd_core.cost.quantities import AMOUNT, CONFIDENCE, DATED, NEEDED, POSITIVE, QUANTITIES, FunctionRule
from fsd_core.errors import InputError

__all__ = ["Price", "Server", "Tariff", "default_tariff", "load", "names", "tariff_of_run"]

_FOLDER = "tariffs"  # of a provider's package


def _are_counts(value: Any) -> bool:
    return listed(text(), filled=True).holds(value) and len(set(value)) == len(value) and set(value) <= set(QUANTITIES)


COUNTS = Kind(f"a list of some of {', '.join(QUANTITIES)}, each once", _are_counts, tuple)


@attrs.frozen(kw_only=True)
class Price:
    """What one SKU costs: a table ``[[price]]``."""

    service: str = key(text())
    sku: str = key(text())
    unit: str = key(text())  # for people, in the plural: GB-s, requests, ...
    usd: float = key(AMOUNT)  # of one unit
    source: str = key(text())
    as_of: str = key(DATED)  # a date, a year or a span of years; "undated" if the source has no date
    confidence: str = key(CONFIDENCE)
    counts: tuple[str, ...] = key(COUNTS, default=())  # names of `QUANTITIES`, which are added up
    per: float = key(POSITIVE, default=1.0)  # how much of these makes one unit
    min_bytes: float = key(AMOUNT, default=0.0)  # a request is billed as at least this many bytes
    free: float = key(AMOUNT, default=0.0)  # units a month that cost nothing, in a bill with free tiers
    otherwise: float = key(AMOUNT, default=0.0)  # only with low confidence: the USD of a unit if ``usd`` is wrong
    apart: bool = key(
        boolean(), default=False
    )  # a monthly charge that does not depend on runs: shown apart from the total if a run uses the service
    region: str = key(text(empty=True), default="")  # the region of the price, if it is not the tariff's
    note: str = key(text(empty=True), default="")


@attrs.frozen(kw_only=True)
class Server:
    """A server that always runs, to compare with: a table ``[server]``."""

    name: str = key(text())
    usd_hour: float = key(POSITIVE)
    memory_mb: int = key(integer(1))
    vcpus: float = key(POSITIVE)
    source: str = key(text())
    as_of: str = key(DATED)
    confidence: str = key(CONFIDENCE)


@attrs.frozen(kw_only=True)
class Tariff:
    """The prices of one provider in one region.

    - ``name``, ``title``, ``provider``, ``region``: texts. ``as_of``: the date of the prices. ``path``: the file.
    - ``function``: how the platform bills the time of functions. ``prices``: what each SKU costs, with its source and confidence.
    - ``server``: a server to compare with; `None` if the file has none.
    """

    name: str
    title: str
    provider: str
    region: str
    as_of: str
    function: FunctionRule
    prices: tuple[Price, ...]
    path: str
    server: Server | None = None


@attrs.frozen(kw_only=True)
class _File:
    """The keys of a tariff's file."""

    title: str = key(text(empty=True), default="")
    provider: str = key(text())
    region: str = key(text())
    as_of: str = key(DATED)
    default: bool = key(boolean(), default=False)  # whether a run that names no tariff uses this one, if the package has several
    function: Mapping[str, Any] = key(table("a table, [function]"))
    server: Mapping[str, Any] | None = key(nullable(table("a table, [server]")), default=None)
    price: list[Mapping[str, Any]] = key(Kind("tables, [[price]]", listed(table()).holds))


def names() -> list[str]:
    """The names of the tariffs that come with the installed providers, ascending."""
    return list(plugins.files(_FOLDER))


def default_tariff(provider: str) -> str | None:
    """The name of the tariff for a provider's runs if the user names no tariff; `None` if the provider's package has no tariff.

    If the package has several tariffs, it is the one with ``default = true``, else the first. Raises `InputError` if another package has a
    tariff of the same name.
    """
    own = {name: content for name in plugins.files(_FOLDER, provider) if (content := shipped.load("tariff", name, _FOLDER)[1])}
    mine = [name for name, content in own.items() if content.get("provider") == provider]
    return next((name for name in mine if own[name].get("default") is True), mine[0] if mine else None)


def load(name: str | os.PathLike[str]) -> Tariff:
    """The tariff of this name. A text that contains a ``/`` or ends in ``.toml``, and any `Path`, is the path of a tariff file.

    Raises `InputError` on an unknown name, with the nearest known one, on a name that tariffs of two packages have, and on a file with an
    unknown key or a missing or wrong value.
    """
    given = arguments.folder_or_name("tariff", name, f"one of {', '.join(names())}, or the path of a .toml file of your own")
    path, content = shipped.load("tariff", given, _FOLDER)
    return _read(str(given), path, content)


def tariff_of_run(provider: str, tariff: Tariff | str | os.PathLike[str] | None = None) -> Tariff | None:
    """The tariff of a run on ``provider``: ``tariff``, else the default tariff; `None` if the provider's package has no tariff.

    Raises `InputError` on a tariff of another provider, because a run packs its requests for the prices of its own provider. A run on a
    provider whose prices are all 0 may use any tariff.
    """
    own = default_tariff(provider)
    wanted = own if tariff is None else tariff
    if wanted is None:
        return None
    found = wanted if isinstance(wanted, Tariff) else load(wanted)
    if provider != found.provider and not (own and all(price.usd == 0 for price in load(own).prices)):
        raise InputError(
            f"tariff {found.name}: has prices of provider {found.provider}: expected a tariff of {provider}, the provider of the run"
        )
    return found


def _read(name: str, path: str, content: Mapping[str, Any]) -> Tariff:
    where = f"tariff {name}: "
    file = read(_File, content, where)
    rule = read(FunctionRule, file.function, f"{where}[function] ")
    prices = tuple(_price(table, f"{where}[[price]] {number} ") for number, table in enumerate(file.price, 1))
    skus = [(price.service, price.sku) for price in prices]
    if twice := next((sku for sku in skus if skus.count(sku) > 1), None):
        raise InputError(f"{where}{' '.join(twice)} has several prices: expected one [[price]] for each service and sku")
    counted = {each for price in prices for each in price.counts}
    for row in NEEDED:
        if not counted & set(row):
            raise InputError(f"{where}no price counts {' or '.join(row)}: expected a [[price]] that does, with usd = 0 if it costs nothing")
    if "function_vcpu_seconds" in counted and not rule.vcpus:
        raise InputError(f"{where}[function] vcpus: is missing: expected it because a price counts function_vcpu_seconds")
    return Tariff(
        name=name,
        title=file.title or name,
        provider=file.provider,
        region=file.region,
        as_of=file.as_of,
        function=rule,
        prices=prices,
        path=path,
        server=None if file.server is None else read(Server, file.server, f"{where}[server] "),
    )


def _price(found: Mapping[str, Any], where: str) -> Price:
    where += f"({found.get('service')} {found.get('sku')}) "
    price = read(Price, found, where)
    if price.confidence == "low" and "otherwise" not in found:
        raise InputError(f"{where}otherwise: is missing, but confidence = low: expected the price that holds if usd is wrong")
    if price.confidence != "low" and "otherwise" in found:
        raise InputError(f"{where}otherwise = {price.otherwise:g}: expected only with low confidence, but confidence = {price.confidence}")
    if bool(price.counts) == price.apart:
        raise InputError(f"{where}counts: expected either counts, or apart = true for a monthly charge that counts nothing")
    return price
