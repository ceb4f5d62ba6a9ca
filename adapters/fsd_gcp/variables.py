"""The environment variables that a deployment sets for its functions. A module of its own: the package and its parts both read it."""

from __future__ import annotations

__all__ = ["RESOURCES"]

RESOURCES = "FSD_GCP_RESOURCES"  # the app's `Resources`, as JSON
