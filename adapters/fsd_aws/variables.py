"""The environment variables that a deployment sets for its functions. They have their own module, since the package and its modules both
import them.
"""

from __future__ import annotations

__all__ = ["RESOURCES"]

RESOURCES = "FSD_AWS_RESOURCES"  # the app's `Resources`, as JSON
