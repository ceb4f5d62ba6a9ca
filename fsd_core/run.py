"""Shim for a moment: the client is `fsd_core.client`."""

from fsd_core.client import CHANNELS, OBJECTIVES, Progress, Result, clean, home_folder, run

__all__ = ["CHANNELS", "OBJECTIVES", "Progress", "Result", "clean", "home_folder", "run"]
