"""ONNX models: opens and checks ONNX files, folds their constants, computes their figures, divides them, and stores imported models.

Only the client imports this room. Its modules import the packages onnx and onnxruntime when they are called.
"""

from fsd_core.graph.figures import describe_graph
from fsd_core.graph.graph import BATCH_AXES, Graph, input_names, is_graph, open_graph
from fsd_core.graph.store import save_graph

__all__ = ["BATCH_AXES", "Graph", "describe_graph", "input_names", "is_graph", "open_graph", "save_graph"]
