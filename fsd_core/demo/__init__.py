"""The example of ``fsd demo``: a small network that is trained here, and a run of it that is compared with a single process."""

from fsd_core.demo.running import Demo, run_demo
from fsd_core.demo.training import DENSITY, Digits, accuracy, digits, network, train

__all__ = ["DENSITY", "Demo", "Digits", "accuracy", "digits", "network", "run_demo", "train"]
