"""Models: layers of sparse or dense weights, their formats, what reads inputs. Light: workers import it for its arithmetic."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fsd_core.model.layer import ACTIVATIONS, Csr, Layer, Model, describe
from fsd_core.model.radixnet import radixnet

if TYPE_CHECKING:
    from fsd_core.model.sources import import_model, open_model
    from fsd_core.model.store import load, save

__all__ = ["ACTIVATIONS", "Csr", "Layer", "Model", "describe", "import_model", "load", "open_model", "radixnet", "save"]

_LATER = {"import_model": "sources", "open_model": "sources", "load": "store", "save": "store"}  # what a worker never asks for


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
