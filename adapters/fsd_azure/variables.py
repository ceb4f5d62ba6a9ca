"""The environment variables that a deployment sets for its functions. They have their own module, since the package and its modules both
import them.
"""

from __future__ import annotations

__all__ = ["KEY", "RESOURCES"]

KEY = "FSD_AZURE_KEY"  # the key of the function app, which a worker needs to start others
RESOURCES = "FSD_AZURE_RESOURCES"  # the app's `Resources`, as JSON
