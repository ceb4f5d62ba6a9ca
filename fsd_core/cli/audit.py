"""``fsd audit``: what a company checks about an app."""

from __future__ import annotations

import click

from fsd_core.cli.audit_log import log
from fsd_core.cli.options import Group

__all__ = ["group"]


@click.group(name="audit", cls=Group, no_args_is_help=False)
def group() -> None:
    """Show and check what an app leaves for an audit."""


group.add_command(log)
