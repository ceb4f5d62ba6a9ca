"""Fully serverless distributed inference: a model's layers split among many short functions, on any cloud.

``fsd_core.run(model, inputs, provider="local", channel="queue", workers=8) -> Result`` is the same as ``fsd run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsd_core.client import Progress, Result, run

__all__ = ["Progress", "Result", "run"]


def __getattr__(name: str) -> Any:
    """The client's names, imported when first used: a worker imports this package too and needs none of it."""
    if name in __all__:
        import importlib

        module = importlib.import_module("fsd_core.client")
        globals().update({public: getattr(module, public) for public in __all__})
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
