"""This machine as a provider: a folder for objects and queues, processes for functions. It needs only Python.

It serves development, tests, and models that fit one machine. It behaves like the clouds, also in that a message may be delivered twice, so
a run that works on this machine also works in a cloud.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.base import BaseProvider
from fsd_core.providers.outline import Outline
from fsd_local.variables import RESOURCES

__all__ = ["PROVIDER", "LocalProvider"]


class LocalProvider(BaseProvider):
    """Implements `fsd_core.driver.Provider`."""

    name = "local"
    contract = 1
    variable = RESOURCES

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner of apps on this machine. ``settings``: the table ``[local]``, see `fsd_local.settings`. Raises `InputError`."""
        from fsd_local.provision import LocalProvisioner

        return LocalProvisioner(settings)

    def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
        """A driver of the queues of one slot. There is one way to them, with ``direct`` and without."""
        from fsd_local.messages import LocalMessages

        return LocalMessages(resources.names["root"], slot, float(resources.names["lease_s"]))

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver of the app's object store."""
        from fsd_local.objects import LocalObjects

        return LocalObjects(resources.names["root"])

    def store(self, resources: Resources) -> str:
        """The app's folder."""
        return resources.names["root"]

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts functions. In a function it starts siblings of that function."""
        from fsd_local.invoke import LocalInvoker

        return LocalInvoker(resources)

    def outline(self, settings: Mapping[str, object]) -> Outline:
        """The limits of an app on this machine. Raises `InputError` if a setting is wrong."""
        from fsd_local.outline import outline

        return outline(settings)

    def credentials(self) -> str:
        """This machine needs no credentials."""
        return "none are needed"


PROVIDER = LocalProvider()
