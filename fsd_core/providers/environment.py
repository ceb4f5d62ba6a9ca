"""An app's `Resources` in one environment variable of its function: the provisioner writes it, the function and the provisioner read it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import attrs

from fsd_core.common.fields import Kind, integer, key, read, table, text
from fsd_core.driver import Resources
from fsd_core.errors import InputError

__all__ = ["foreign", "from_environment", "from_record", "to_environment"]

_TEXTS = Kind("a table of texts", lambda value: table().holds(value) and all(isinstance(each, str) for each in value.values()))


@attrs.frozen(kw_only=True)
class _Variable:
    """The keys of the variable's JSON object, see `Resources`."""

    app: str = key(text())
    ranks: int = key(integer(0))
    slots: int = key(integer(0))
    names: Mapping[str, str] = key(_TEXTS)


def to_environment(resources: Resources) -> str:
    """The text of the environment variable that describes the app to its function; `from_environment` reads it."""
    return json.dumps(attrs.asdict(resources))


def from_environment(variable: str, app: str) -> Resources:
    """The resources of ``app`` from the environment of this function.

    Raises `InputError` if this process is not a function of the app, or if the variable holds something else.
    """
    found = os.environ.get(variable)
    if not found:
        raise InputError(f"app {app!r}: this process is not a function of this app: expected the variable {variable}, which is not set")
    try:
        resources = _parse(found, f"{variable}: ")
    except InputError as error:
        raise InputError(f"app {app!r}: {error}: deploy again") from None
    if resources.app != app:
        raise InputError(f"app {app!r}: this process is not a function of this app: {variable} holds app {resources.app!r}")
    return resources


def from_record(found: str | None, app: str, what: str) -> Resources:
    """The resources of ``app`` from the variable's text ``found``, which a provisioner got from the function ``what``.

    Raises `InputError` if fsd did not make this function for the app.
    """
    try:
        resources = _parse(found or "", "")
        if resources.app == app:
            return resources
    except InputError:
        pass
    raise foreign(app, what)


def foreign(app: str, what: str, instead: str = "") -> InputError:
    """The error for a resource with a name of the app that fsd did not make. ``instead``: advice beside another name for the app."""
    return InputError(f"app {app!r}: {what} exists that fsd did not make; choose another app{instead and f', or {instead}'}")


def _parse(found: str, where: str) -> Resources:
    try:
        content = json.loads(found)
    except (ValueError, RecursionError):
        raise InputError(f"{where}{found[:80]!r}: expected the JSON object that a deployment writes") from None
    return Resources(**attrs.asdict(read(_Variable, table("an object").check(content, where), where), recurse=False))
