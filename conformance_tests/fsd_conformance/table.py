"""The suite as a command: runs all cases for one provider."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fsd_conformance.emulators import find as find_emulator
from fsd_conformance.emulators import harnesses, names
from fsd_conformance.harness import Harness
from fsd_core.driver import Provider
from fsd_core.errors import InputError
from fsd_core.providers.registry import find

__all__ = ["cases", "harness_of", "run"]

_GROUPS = (
    "MessageCases",
    "DirectMessageCases",
    "ObjectCases",
    "InvokeCases",
    "ProvisionCases",
    "ChannelCases",
    "EndToEndCases",
    "MeteredMessageCases",
    "MeteredObjectCases",
    "PrefixedObjectCases",
    "FaultyMessageCases",
    "FaultyObjectCases",
    "DelayedMessageCases",
    "DelayedObjectCases",
)
_FILE = """
from fsd_conformance.table import cases, harness_of
globals().update(cases(harness_of({provider!r}, {settings!r}, {live!r}, {emulator!r})))
"""


def cases(harness: Harness) -> dict[str, type]:
    """A class for each group of cases, under a name that pytest collects. Use: ``globals().update(cases(Mine()))``."""
    import fsd_conformance

    groups = {name: getattr(fsd_conformance, name) for name in _GROUPS}
    return {f"Test{name.removesuffix('Cases')}": type(f"Test{name}", (group,), {"harness": harness}) for name, group in groups.items()}


class _Account(Harness):
    """A provider as it is configured: the suite runs on the user's account."""

    def __init__(self, provider: Provider, settings: Mapping[str, object]) -> None:
        self.name = provider.name
        self._provider = provider
        self._settings = settings

    def provider(self) -> Provider:
        return self._provider

    def settings(self, folder: Path) -> Mapping[str, object]:
        return self._settings


def harness_of(provider: str, settings: Mapping[str, object], live: bool, emulator: str | None = None) -> Harness:
    """The harness of a provider by name. Raises `InputError` for an unknown provider, and for a provider without a harness unless ``live``
    is set.
    """
    if live:
        return _Account(find(provider), settings)
    known: Mapping[str, type[Harness]] = harnesses(provider)
    if not known:
        raise InputError(f"provider {find(provider).name!r}: has no emulator: expected --live, which runs the suite on your account")
    if emulator is None and next(iter(known)) not in names(provider):  # it needs no emulator
        return known[next(iter(known))]()
    chosen = find_emulator(provider, emulator)
    chosen.install(lambda line: print(line, file=sys.stderr))
    return known[emulator or names(provider)[0]]()


def run(
    provider: str,
    live: bool = False,
    settings: Mapping[str, object] | None = None,
    emulator: str | None = None,
    only: str | None = None,
) -> int:
    """Run the suite, with a line for each case on standard error. ``only``: an expression for pytest's -k.

    Returns 0 where all cases pass, 1 where one fails. Raises `InputError` where the suite cannot run.
    """
    if importlib.util.find_spec("pytest") is None:
        raise InputError("pytest is not installed, and the suite needs it: install fsd-inference[test]")
    import pytest

    chosen = dict(settings or {})
    harness_of(provider, chosen, live, emulator)  # raises here, not inside pytest
    with tempfile.TemporaryDirectory(prefix="fsd-conformance-") as folder:
        file = Path(folder, f"test_{provider}.py")
        file.write_text(_FILE.format(provider=provider, settings=chosen, live=live, emulator=emulator))
        Path(folder, "pytest.ini").write_text("[pytest]\n")  # not the configuration in the user's folder
        arguments = [str(file), f"--rootdir={folder}", "-c", f"{folder}/pytest.ini", "-v", "-rs", "--no-header", "-p", "no:cacheprovider"]
        with contextlib.redirect_stdout(sys.stderr):
            code = pytest.main([*arguments, *(["-k", only] if only else [])])
        sys.modules.pop(file.stem, None)  # a second call in this process has another file
    if only and code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise InputError(f"-k {only!r}: selects no case: expected an expression of pytest's -k")
    return 0 if code == pytest.ExitCode.OK else 1
