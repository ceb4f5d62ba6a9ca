"""The loop of each engine, by the engine's name. A worker imports only that of its run."""

from __future__ import annotations

from fsd_core.worker.loop import Loop

__all__ = ["engine"]


def engine(name: str) -> type[Loop]:
    """The loop of an engine, one of `fsd_core.protocol.runconfig.ENGINES`."""
    if name == "onnx":
        from fsd_core.worker.stages import StageLoop

        return StageLoop
    from fsd_core.worker.layers import LayerLoop

    return LayerLoop
