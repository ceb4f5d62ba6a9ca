"""This machine as a provider: a folder for objects and queues, processes for functions. Needs nothing but Python.

It serves development, tests, and models that fit one machine. It behaves as the clouds do, at-least-once delivery included, so that a run
that works here works there.
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
        """The app's resources, from the function's environment. Raises `InputError` outside a function, and for another app."""
        return from_environment(RESOURCES, app)

    def admit(self, resources: Resources, workers: int) -> None:
        """Accept any number of workers."""

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        """A driver of the queues of one slot."""
        from fsd_local.messages import LocalMessages

        return LocalMessages(resources.names["root"], slot, float(resources.names["lease_s"]))

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver of the app's object store."""
        from fsd_local.objects import LocalObjects

        return LocalObjects(resources.names["root"])

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts functions. In a function it starts siblings of that function."""
        from fsd_local.invoke import LocalInvoker

        return LocalInvoker(resources)

    def credentials(self) -> str:
        """This machine needs no credentials."""
        return "none are needed"

    def stand_in(self) -> str | None:
        """None: this machine is the provider itself, no stand-in."""
        return None

    def advice(self, error: BaseException | str) -> str | None:
        """None: errors of this machine need no advice."""
        return None


PROVIDER = LocalProvider()
