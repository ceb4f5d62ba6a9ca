"""Tests whether a provider keeps the contract of `fsd_core.driver`."""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core import providers
from fsd_core.common import arguments
from fsd_core.errors import InputError

__all__ = ["conformance"]


def conformance(
    provider: str = "local",
    settings: Mapping[str, object] | None = None,
    *,
    live: bool = False,
    emulator: str | None = None,
    only: str | None = None,
) -> bool:
    """Run a test case for each promise that a provider makes, with a line for each case on standard error. True if all pass.

    - ``provider``, ``settings``: those of `run`.
    - ``live``: test the cloud itself, with the account that its SDK finds, which costs a little. Without it, the cases run on an emulator
      that is started for them. The provider local needs neither.
    - ``emulator``: the name of the emulator, if the provider has several.
    - ``only``: run only cases whose names match, with the syntax of -k of pytest.

    Raises `InputError` if an argument is wrong, if pytest is not installed, or if ``only`` selects no case.
    """
    live, table = arguments.yes_or_no("live", live), arguments.table("settings", settings)
    emulator, only = (None if each is None else arguments.text(name, each) for name, each in (("emulator", emulator), ("only", only)))
    providers.find(arguments.text("provider", provider))
    if live and emulator is not None:
        raise InputError("live and emulator: expected only one of them")
    try:
        from fsd_conformance import run
    except ImportError as error:
        raise InputError(
            f"the conformance suite cannot be imported: {error}; install it with: pip install 'fsd-inference[test]'"
        ) from error
    return not run(provider, live, table, emulator, only)
