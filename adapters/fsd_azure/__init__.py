"""Azure as a provider: Service Bus for messages, Blob Storage for objects, Functions for functions.

Importing this package imports no SDK; each factory below imports what it needs when it is called.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping

from fsd_azure.variables import RESOURCES
from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.addresses import elsewhere
from fsd_core.providers.base import BaseProvider
from fsd_core.providers.outline import Outline

__all__ = ["PROVIDER", "AzureProvider"]


class AzureProvider(BaseProvider):
    """Implements `fsd_core.driver.Provider`."""

    name = "azure"
    contract = 1
    variable = RESOURCES

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner of apps on Azure. ``settings``: the table ``[azure]``, see `fsd_azure.settings`. Raises `InputError`."""
        from fsd_azure.provision import AzureProvisioner

        return AzureProvisioner(settings, self)

    def admit(self, resources: Resources, workers: int) -> None:
        """Raise `InputError` where ``workers`` need more connections than a namespace allows: each worker opens one to each queue that it
        sends to.
        """
        from fsd_azure.limits import check_connections

        check_connections(resources.names["tier"], workers, resources.names["namespaces"].count(",") + 1)

    def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
        """A driver of the queues of one slot. There is one way to them, with ``direct`` and without."""
        from fsd_azure.messages import AzureMessages

        return AzureMessages(resources, slot)

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver of the app's container."""
        from fsd_azure.objects import AzureObjects

        return AzureObjects(resources)

    def store(self, resources: Resources) -> str:
        """The app's container."""
        return f"{resources.names['blob_url']}/{resources.names['container']}"

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts the app's functions."""
        from fsd_azure.invoke import AzureInvoker

        return AzureInvoker(resources)

    def outline(self, settings: Mapping[str, object]) -> Outline:
        """The limits of an app with the table ``[azure]``. Raises `InputError` if a setting is wrong."""
        from fsd_azure.outline import outline

        return outline(settings)

    def credentials(self) -> str:
        """The names of the variables that hold connection strings; if none is set, the user and the tenant of DefaultAzureCredential's
        token.
        """
        from fsd_azure.clients import credential
        from fsd_azure.connection_strings import SERVICE_BUS, STORAGE

        if strings := [name for name in (SERVICE_BUS, STORAGE) if os.environ.get(name)]:
            return f"by connection string: {', '.join(strings)}"
        claims = credential().get_token("https://management.azure.com/.default").token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(claims + "=="))  # only shown, so the signature is not checked
        return f"{found.get('upn') or found.get('appid')}, tenant {found.get('tid')}"

    def stand_in(self) -> str | None:
        """HOST:PORT of the emulator that a connection string names; None where no connection string names a host outside Azure."""
        from fsd_azure.connection_strings import endpoints

        return elsewhere(endpoints(), "windows.net", "azure.net", "chinacloudapi.cn", "usgovcloudapi.net")

    def advice(self, error: BaseException | str) -> str | None:
        """What a person can do about an error of Azure, or about the text of one; None for an unknown error."""
        from fsd_azure.errors import advice

        return advice(error)


PROVIDER = AzureProvider()
