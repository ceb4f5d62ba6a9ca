"""Models: layers of sparse or dense weights, their file formats, and the readers of inputs.

Each name below is imported when it is first used, so that a worker, which needs two modules of this room, does not load the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsd_core.model.challenge import radixnet
    from fsd_core.model.layer import ACTIVATIONS, Csr, Layer, Model, describe
    from fsd_core.model.sources import import_model, open_model
    from fsd_core.model.store import load, save

__all__ = ["ACTIVATIONS", "Csr", "Layer", "Model", "describe", "import_model", "load", "open_model", "radixnet", "save"]

_MODULE_OF = {
    "ACTIVATIONS": "layer",
    "Csr": "layer",
    "Layer": "layer",
    "Model": "layer",
    "describe": "layer",
    "import_model": "sources",
    "load": "store",
    "open_model": "sources",
    "radixnet": "challenge",
    "save": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
