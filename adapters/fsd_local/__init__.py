"""This machine as a provider: a folder for objects and queues, processes for functions. Needs nothing but Python.

What it is for: development, tests, and a model that fits one machine. It keeps the promises of the clouds, at-least-once
delivery and all, so that what runs here runs there.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.environment import from_environment
from fsd_local.variables import RESOURCES

__all__ = ["PROVIDER", "LocalProvider"]


class LocalProvider:
    """Implements `fsd_core.driver.Provider`."""

    name = "local"

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """Settings: see `fsd_local.settings`."""
        from fsd_local.provision import LocalProvisioner

        return LocalProvisioner(settings)

    def attach(self, app: str) -> Resources:
        """What the host told this function; InputError outside a function, or of another app."""
        return from_environment(RESOURCES, app)

    def admit(self, resources: Resources, workers: int) -> None:
        """Any number can."""

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        """The queues of one slot."""
        from fsd_local.messages import LocalMessages

        return LocalMessages(resources.names["root"], slot, float(resources.names["lease_s"]))

    def objects(self, resources: Resources) -> ObjectDriver:
        """The app's object store."""
        from fsd_local.objects import LocalObjects

        return LocalObjects(resources.names["root"])

    def invoker(self, resources: Resources) -> InvokeDriver:
        """What starts functions; in a function, siblings of it."""
        from fsd_local.invoke import LocalInvoker

        return LocalInvoker(resources)

    def credentials(self) -> str:
        """This machine asks for none."""
        return "none are needed"

    def stand_in(self) -> str | None:
        """This machine is meant."""
        return None

    def advice(self, error: BaseException | str) -> str | None:
        """Errors of this machine speak for themselves."""
        return None


PROVIDER = LocalProvider()
