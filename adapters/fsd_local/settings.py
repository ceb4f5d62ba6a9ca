"""The table ``[local]`` of the configuration file.

====================  ======================  ======================================================================================
root                  $FSD_HOME/local         the folder that holds a folder for each app; FSD_HOME is ~/.fsd where it is not set
memory_mb             2048                    memory limit of one function (resident set)
timeout_s             900                     time limit of one function, in seconds
concurrency           128                     functions at once
lease_s               2                       seconds until a delivered message that is not acknowledged is delivered again
audit_retention_days  365                     days after which fsd gc removes an entry of the audit log
cold                  false                   true starts an interpreter for each function; false forks one that is started already
====================  ======================  ======================================================================================
"""

from __future__ import annotations

import attrs

from fsd_core.common.fields import boolean, integer, key, matching, number
from fsd_core.common.home import expanded, home_folder
from fsd_core.providers.app_name import check_app

__all__ = ["Settings"]

_TIME = number(0.1, 1e9, "seconds")


@attrs.frozen(kw_only=True)
class Settings:
    """The keys and their defaults; the table in the docstring of the module explains each key."""

    root: str = key(matching(r".*", "a path in quotes"), default="")
    memory_mb: int = key(integer(64, 10**9), default=2048)
    timeout_s: float = key(_TIME, default=900.0)
    concurrency: int = key(integer(1, 10**9), default=128)
    lease_s: float = key(_TIME, default=2.0)
    audit_retention_days: int = key(integer(1, 36500, "days"), default=365)
    cold: bool = key(boolean(), default=False)

    def folder(self, app: str) -> str:
        """The absolute path of an app's folder. Raises `InputError` where ``app`` cannot be an app's name."""
        check_app(app)
        root = expanded(self.root) if self.root else home_folder() / "local"
        return str(root.absolute() / app)
