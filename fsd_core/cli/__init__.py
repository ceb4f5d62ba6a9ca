"""The ``fsd`` command: a module for each command or group, on top of `Screen` (output) and `with_settings` (flags and settings)."""

from fsd_core.cli.main import main

__all__ = ["main"]
