"""Finds tables of latencies: those that ``fsd measure`` made, those that come with providers, and a user's own.

``fsd measure`` writes a table to ``$FSD_HOME/measured/PROVIDER-REGION.toml``. fsd uses this table instead of the one that comes with the
provider. A table that was measured on an emulator has the name ``PROVIDER-REGION-emulator.toml``; fsd uses it only if its path is given.
"""

from __future__ import annotations

import datetime
import re
import warnings
from pathlib import Path

import attrs

from fsd_core.errors import InputError
from fsd_core.latency.table import Table, of_content

__all__ = ["find", "load", "measured_file", "measured_table", "names", "shipped_table"]

_FOLDER = "latency"  # of a provider's package
_EMULATOR = "-emulator"  # ends the name of a file that was measured on one
FRESH_DAYS = 90  # an older measured table is used with a warning
_warned: set[str] = set()


def names() -> list[str]:
    """The names of the tables that come with the installed providers, ascending."""
    from fsd_core.common import plugins

    return list(plugins.files(_FOLDER))


def load(name: str) -> Table:
    """The table of this name: the table that was measured on the provider ``name``, else the table ``name`` that comes with a provider.

    A ``name`` that contains a ``/`` or ends in ``.toml`` is the path of a file. Raises `InputError` on an unknown name, a name that tables
    of two packages have, a file that cannot be read, an unknown verb or key, and a missing or wrong figure.
    """
    if "/" not in name and not name.endswith(".toml") and (measured := measured_table(name)) is not None:
        return measured
    return _of_file(name)


def find(provider: str, region: str = "") -> Table | None:
    """The table for a provider: the measured one, else the one that comes with the provider, else `None`.

    ``region``: as in `measured_table`. Raises `InputError` like `load`.
    """
    return measured_table(provider, region) or shipped_table(provider)


def shipped_table(provider: str) -> Table | None:
    """The table that comes with a provider, also if a measured one exists; `None` if there is none. Raises `InputError` like `load`."""
    return _of_file(provider) if provider in names() else None


def measured_file(provider: str, region: str, *, emulator: bool) -> Path:
    """The path of the file in which ``fsd measure`` keeps the table of a provider in a region. Makes no file or folder."""
    from fsd_core.common.home import home_folder

    place = re.sub(r"[^a-z0-9-]+", "-", region.lower()).strip("-") or "here"
    return home_folder() / "measured" / f"{provider}-{place}{_EMULATOR * emulator}.toml"


def measured_table(provider: str, region: str = "") -> Table | None:
    """The table that ``fsd measure`` made of a provider's own services, not of an emulator; `None` if none exists.

    ``region``: only the table of that region; empty: the newest table of all regions. The name of the returned table is ``provider``. Warns
    about a table that is older than `FRESH_DAYS` days. Raises `InputError` if a file is damaged: the error names the file and the key.
    """
    if region:
        files = [file for file in (measured_file(provider, region, emulator=False),) if file.exists()]
    else:
        folder = measured_file(provider, region, emulator=False).parent
        files = [file for file in sorted(folder.glob(f"{provider}-*.toml")) if not file.stem.endswith(_EMULATOR)]
    found: list[tuple[datetime.date, Table, Path]] = []
    for file in files:
        remove = f": remove the file, then measure again: fsd measure --provider {provider}"
        try:
            table = _of_file(str(file))
        except InputError as error:
            raise InputError(f"measured {error}{remove}") from error
        if table.measured is None or table.measured.emulator:
            what = "has no table [measured]" if table.measured is None else f"was measured on an emulator at {table.measured.emulator}"
            raise InputError(f"measured latency {file}: {what}: expected a table of the services of {provider}{remove}")
        if table.measured.provider == provider:  # provider "a" has files that begin like those of provider "a-b"
            found.append((_day(table.as_of, file, remove), table, file))
    if not found:
        return None
    day, table, file = max(found, key=lambda each: each[0])
    if (age := (datetime.date.today() - day).days) > FRESH_DAYS:
        line = f"latencies of {provider} were measured {age} days ago ({file}): fsd measure --provider {provider} measures them again"
        if line not in _warned:  # a command may read a table several times
            _warned.add(line)
            warnings.warn(line, stacklevel=2)
    return attrs.evolve(table, name=provider)


def _of_file(name: str) -> Table:
    from fsd_core.common import shipped  # a worker reads no file

    return of_content(name, shipped.load("latency", name, _FOLDER)[1])


def _day(as_of: str, file: Path, remove: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(as_of)
    except ValueError:
        raise InputError(f"measured latency {file}: as_of = {as_of!r}: expected a day, for instance 2026-01-31{remove}") from None
