"""The suite as a command: which cases a provider passes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fsd_conformance.emulators import find as find_emulator
from fsd_conformance.emulators import names
from fsd_conformance.harness import Harness
from fsd_core.driver import Provider
from fsd_core.errors import InputError
from fsd_core.providers.registry import find

__all__ = ["cases", "harness_of", "run"]

_GROUPS = (
    "MessageCases",
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
)
_FILE = """
from fsd_conformance.table import cases, harness_of
globals().update(cases(harness_of({provider!r}, {settings!r}, {live!r}, {emulator!r})))
"""


def cases(harness: Harness) -> dict[str, type]:
    """Every group of cases for one harness, by names that pytest collects: ``globals().update(cases(Mine()))``."""
    import fsd_conformance

    groups = {name: getattr(fsd_conformance, name) for name in _GROUPS}
    return {f"Test{name.removesuffix('Cases')}": type(f"Test{name}", (group,), {"harness": harness}) for name, group in groups.items()}


class _Account(Harness):
    """A provider as it is configured: what runs, runs on the user's account."""

    def __init__(self, provider: Provider, settings: Mapping[str, object]) -> None:
        self.name = provider.name
        self._provider = provider
        self._settings = settings

    def provider(self) -> Provider:
        return self._provider

    def settings(self, folder: Path) -> Mapping[str, object]:
        return self._settings


def harness_of(provider: str, settings: Mapping[str, object], live: bool, emulator: str | None = None) -> Harness:
    """The harness of a provider by name. `InputError`: no such provider, or one that has nothing to run on but an account."""
    if live:
        return _Account(find(provider), settings)
    if provider == "local":
        from fsd_conformance.local import LocalHarness

        return LocalHarness()
    if not names(provider):
        raise InputError(f"provider {find(provider).name!r}: has no emulator here; --live runs the suite on your account")
    chosen = find_emulator(provider, emulator)
    chosen.install(lambda line: print(line, file=sys.stderr))
    harness: Harness = importlib.import_module(f"fsd_conformance.{provider}").HARNESSES[chosen.name]()
    return harness


def run(
    provider: str,
    live: bool = False,
    settings: Mapping[str, object] | None = None,
    emulator: str | None = None,
    only: str | None = None,
) -> int:
    """Run the suite, a line a case on standard error; ``only``: the cases that pytest's -k chooses by it.

    0: the provider conforms; 1: a case failed; `InputError`: it cannot be run.
    """
    if importlib.util.find_spec("pytest") is None:
        raise InputError("pytest is not installed: the suite needs it, and comes with fsd-inference[test]")
    import pytest

    chosen = dict(settings or {})
    harness_of(provider, chosen, live, emulator)  # refused here, not inside pytest
    with tempfile.TemporaryDirectory(prefix="fsd-conformance-") as folder:
        file = Path(folder, f"test_{provider}.py")
        file.write_text(_FILE.format(provider=provider, settings=chosen, live=live, emulator=emulator))
        Path(folder, "pytest.ini").write_text("[pytest]\n")  # not the one of a project that the user stands in
        arguments = [str(file), f"--rootdir={folder}", "-c", f"{folder}/pytest.ini", "-v", "-rs", "--no-header", "-p", "no:cacheprovider"]
        with contextlib.redirect_stdout(sys.stderr):
            code = pytest.main([*arguments, *(["-k", only] if only else [])])
    if only and code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise InputError(f"-k {only!r}: chooses no case, or is no expression")
    return 0 if code == pytest.ExitCode.OK else 1
