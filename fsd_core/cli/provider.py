"""``fsd provider new``."""

from __future__ import annotations

import click

from fsd_core.cli.options import Group, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.config import Settings

__all__ = ["group"]


@click.group(name="provider", cls=Group, no_args_is_help=False)
def group() -> None:
    """Write a provider of your own."""


@group.command(epilog="Example: fsd provider new mine fsd-mine/")
@click.argument("name")
@click.argument("folder")
@with_settings()
def new(screen: Screen, settings: Settings, name: str, folder: str) -> None:
    """Write the skeleton of a provider's package.

    NAME is the word after --provider. FOLDER is a new or an empty folder. The package keeps its objects in memory and passes the object
    cases of the conformance suite; its README says what is next, and docs/writing-a-provider.md explains each step.
    """
    from fsd_core.machine.skeleton import new_provider

    written = new_provider(name, folder)
    screen.answer({"provider": name, "files": [str(path) for path in written]})
    screen.print(
        pairs(f"Provider {name}", [(str(path), f"{len(path.read_text().splitlines())} lines") for path in written]),
        f"\nNext: cd {folder}; pip install -e '.[test]'; pytest. README.md has the next steps.",
    )
