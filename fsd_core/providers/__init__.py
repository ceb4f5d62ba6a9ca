"""What the adapters of all clouds share: the registry of providers, provisioning, packages of functions, launches over HTTP."""

from fsd_core.providers.registry import find, installed

__all__ = ["find", "installed"]
