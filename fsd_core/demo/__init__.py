"""The examples of ``fsd demo``: a small network that is trained here, and an ONNX model, each compared with a single process."""

from fsd_core.demo.running import Demo, run_demo
from fsd_core.demo.stages import OnnxDemo, run_onnx_demo
from fsd_core.demo.training import DENSITY, Digits, accuracy, digits, network, train

__all__ = ["DENSITY", "Demo", "Digits", "OnnxDemo", "accuracy", "digits", "network", "run_demo", "run_onnx_demo", "train"]
