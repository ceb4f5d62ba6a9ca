"""``python -m fsd_conformance.emulators``: install the packages of all emulators in advance, and report those that fail."""

from __future__ import annotations

import sys

from fsd_conformance.emulators import find, names, providers
from fsd_core.errors import InputError


def main() -> None:
    """Install the packages of the emulators one after the other. Print each emulator with "is installed", or with its error."""
    for provider in providers():
        for name in names(provider):
            try:
                find(provider, name).install(_tell)
                print(f"{provider}: {name} is installed", flush=True)
            except InputError as error:
                print(f"{provider}: {name}: {error}", file=sys.stderr, flush=True)


def _tell(text: str) -> None:
    if not text.startswith("Collecting "):  # pip prints about a hundred of these
        print(text[:100], flush=True)


if __name__ == "__main__":
    main()
