"""Fully serverless distributed inference: many short functions share the layers of a model, on any cloud.

``fsd_core.run(model, inputs, provider="local", channel="queue", workers=8)`` does what ``fsd run`` does and returns a `Result`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsd_core.client.inference import run
    from fsd_core.client.job import Progress
    from fsd_core.client.result import Result

__all__ = ["Progress", "Result", "run"]

_MODULES = {"Progress": "client.job", "Result": "client.result", "run": "client.inference"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use. A worker imports this package too, and needs none of these names."""
    if name in _MODULES:
        import importlib

        globals()[name] = getattr(importlib.import_module(f"fsd_core.{_MODULES[name]}"), name)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
