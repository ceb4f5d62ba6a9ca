"""``python -m fsd_conformance.emulators``: get what all emulators need, so that nothing waits for it later. What cannot be had is said."""

from __future__ import annotations

import sys

from fsd_conformance.emulators import EMULATORS, find
from fsd_core.errors import InputError


def main() -> None:
    """Install them, one after the other."""
    for provider, there in EMULATORS.items():
        for name in there:
            try:
                find(provider, name).install(_tell)
                print(f"{provider}: {name} is there", flush=True)
            except InputError as error:
                print(f"{provider}: {name}: {error}", file=sys.stderr, flush=True)


def _tell(text: str) -> None:
    if not text.startswith("Collecting "):  # of which there are a hundred
        print(text[:100], flush=True)


if __name__ == "__main__":
    main()
