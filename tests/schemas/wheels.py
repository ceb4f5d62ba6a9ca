"""Getting the packages that hold schemas, as they were published and not installed: ``python -m schemas.wheels``, with tests/ as path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fsd_conformance.emulators import install
from fsd_core.errors import InputError

__all__ = ["folder"]

PINNED = Path(__file__).with_name("vendors.txt")


def folder() -> Path:
    """Where they are, made if need be; where they cannot be had, a skip that says how, and a failure where CI is true."""
    try:
        return install.wheels(PINNED, lambda line: None)
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{error}: 'make schemas', with a network, gets them")


if __name__ == "__main__":
    try:
        install.wheels(PINNED, lambda line: print(line[:100], flush=True))
        print("the vendors' schemas are there")
    except InputError as error:
        print(error, file=sys.stderr)
