"""This machine under test: the whole of what a provider has to write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fsd_conformance.harness import Harness
from fsd_core.driver import Provider

__all__ = ["LocalHarness"]


class LocalHarness(Harness):
    """The local provider in a folder of its own."""

    name = "local"
    few: Mapping[str, object] | None = {"concurrency": 2}

    def provider(self) -> Provider:
        """The provider."""
        from fsd_local import PROVIDER

        return PROVIDER

    def settings(self, folder: Path) -> Mapping[str, object]:
        """Apps below the session's folder."""
        return {"root": str(folder), "lease_s": 1.0}
