"""Hands an app's `Resources` to its functions in one environment variable, which the function and its provisioner read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from attrs import asdict

from fsd_core.driver import InvokeLimits, Resources
from fsd_core.errors import InputError

__all__ = ["from_environment", "from_record", "function_limits", "to_environment"]


def to_environment(resources: Resources) -> str:
    """The text of the environment variable that tells a function of its app; `from_environment` reads it."""
    return json.dumps(asdict(resources))


def from_environment(variable: str, app: str) -> Resources:
    """What this function's environment says of its app. `InputError`: this is no function, or another app's."""
    text = os.environ.get(variable, "{}")
    try:
        fields = json.loads(text)
        if fields.get("app") == app:
            return Resources(**fields)
    except (ValueError, AttributeError, TypeError):
        raise InputError(f"app {app!r}: {variable} is {text[:80]!r}, not what deploying writes: deploy again") from None
    raise InputError(f"app {app!r}: this process is no function of it ({variable} names {fields.get('app')!r})")


def from_record(said: str | None, app: str, what: str) -> Resources:
    """The resources that `to_environment` wrote into a function of an app, as its provisioner reads them.

    ``said``: the variable's text; ``what``: how messages name the function. Raises `InputError` where fsd did not make that function.
    """
    try:
        fields = json.loads(said or "{}")
        if fields.get("app") == app:
            return Resources(**fields)
    except (ValueError, AttributeError, TypeError):
        pass
    raise InputError(f"app {app!r}: {what} is there that fsd did not make; choose another app")


def function_limits(names: Mapping[str, str], **said: Any) -> InvokeLimits:
    """The limits of functions whose number, memory and time are in `Resources.names`; ``said``: the rest."""
    memory_bytes = int(names["memory_mb"]) << 20
    return InvokeLimits(concurrency=int(names["concurrency"]), memory_bytes=memory_bytes, timeout_s=float(names["timeout_s"]), **said)
