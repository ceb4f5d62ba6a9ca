"""The table ``[local]`` of the configuration:

=============  ======================  ======================================================================================
root           $FSD_HOME/local         where the apps' folders are; FSD_HOME is ~/.fsd unless set
memory_mb      2048                    memory limit of one function (resident set)
timeout_s      900                     time limit of one function
concurrency    128                     functions at once
lease_s        2                       a message that was delivered and not acknowledged is delivered again after this
cold           false                   start an interpreter for each function instead of forking a warm one
=============  ======================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fsd_core.common.home import expanded, home_folder
from fsd_core.providers import settings
from fsd_core.providers.provisioning import check_app
from fsd_core.providers.settings import flag, key, matches, number, whole

__all__ = ["Settings", "parse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """See the module."""

    root: str = key("", "a path in quotes", matches(r".*"))
    memory_mb: int = key(2048, "a whole number of at least 64", whole(64, 10**9))
    timeout_s: float = key(900.0, "seconds, at least 0.1", number(0.1, 1e9))
    concurrency: int = key(128, "a whole number of at least 1", whole(1, 10**9))
    lease_s: float = key(2.0, "seconds, at least 0.1", number(0.1, 1e9))
    cold: bool = key(False, "true or false", flag)

    def folder(self, app: str) -> str:
        """The absolute folder of an app. `InputError`: a bad name."""
        check_app(app)
        root = expanded(self.root) if self.root else home_folder() / "local"
        return str(root.absolute() / app)


def parse(table: Mapping[str, object]) -> Settings:
    """Check keys, types and ranges; `InputError` names what is wrong and what would be right."""
    return settings.parse(Settings, "local", table)
