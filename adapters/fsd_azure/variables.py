"""The environment variables that a deployment sets for its functions. A module of its own: the package and its parts both read it."""

from __future__ import annotations

__all__ = ["KEY", "RESOURCES"]

KEY = "FSD_AZURE_KEY"  # the key of the function app, which a worker needs to start others
RESOURCES = "FSD_AZURE_RESOURCES"  # the app's `Resources`, as JSON
