"""The base of every provider: the methods of `fsd_core.driver.Provider` that most providers share."""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.driver import Resources
from fsd_core.providers.environment import from_environment
from fsd_core.providers.outline import Outline

__all__ = ["BaseProvider"]


class BaseProvider:
    """A provider whose functions find their app in the environment variable ``variable``. A subclass adds the drivers.

    Unless a subclass says otherwise, its queues take any number of workers, it has no emulator, and its errors need no advice.
    """

    variable: str

    def attach(self, app: str) -> Resources:
        """The resources of ``app``, from this process's environment. Raises `InputError` unless the process is a function of ``app``."""
        return from_environment(self.variable, app)

    def admit(self, resources: Resources, workers: int) -> None:
        """Accept any number of workers: most services limit the messages per second, not the connections."""

    def outline(self, settings: Mapping[str, object]) -> Outline | None:
        """What the services allow an app with these settings, from which ``fsd plan`` computes. Makes no request.

        `None`: this provider does not say it, so ``fsd plan`` leaves it out. Raises `InputError` if a setting is wrong.
        """
        return None

    def store(self, resources: Resources) -> str:
        """Where the objects of an app are: a text without secrets that no other app has, and that stays the same.

        A client keeps this text to remember to which audit log it wrote.
        """
        return resources.app

    def caller(self, resources: Resources) -> str:
        """The name of the caller in the cloud, for the audit log, without secrets. If it is empty, the log shows ``credentials``."""
        return ""

    def stand_in(self) -> str | None:
        """`None`: this provider has no emulator."""
        return None

    def advice(self, error: BaseException | str) -> str | None:
        """`None`: errors of this provider need no advice."""
        return None
