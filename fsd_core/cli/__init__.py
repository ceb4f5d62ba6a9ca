"""The ``fsd`` command: one module a group of commands, around `Screen` (what is shown) and `with_settings` (what is asked)."""

from fsd_core.cli.main import main

__all__ = ["main"]
