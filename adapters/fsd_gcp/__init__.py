"""Google Cloud as a provider: Pub/Sub for messages, Cloud Storage for objects, Cloud Run functions for functions.

Importing this package imports no SDK; each factory below imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.addresses import address, elsewhere
from fsd_core.providers.base import BaseProvider
from fsd_core.providers.outline import Outline
from fsd_gcp.variables import RESOURCES

__all__ = ["PROVIDER", "GcpProvider"]


class GcpProvider(BaseProvider):
    """Implements `fsd_core.driver.Provider`."""

    name = "gcp"
    contract = 1
    variable = RESOURCES

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner of apps on Google Cloud. ``settings``: the table ``[gcp]``, see `fsd_gcp.settings`. Raises `InputError`."""
        from fsd_gcp.provision import GcpProvisioner

        return GcpProvisioner(settings, self)

    def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
        """A driver of the queues of one slot. There is one way to them, with ``direct`` and without."""
        from fsd_gcp.messages import GcpMessages

        return GcpMessages(resources, slot)

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver of the app's bucket."""
        from fsd_gcp.objects import GcpObjects

        return GcpObjects(resources)

    def store(self, resources: Resources) -> str:
        """The app's bucket."""
        return f"gs://{resources.names['bucket']}"

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts the app's functions."""
        from fsd_gcp.invoke import GcpInvoker

        return GcpInvoker(resources)

    def outline(self, settings: Mapping[str, object]) -> Outline:
        """The limits of an app with the table ``[gcp]``. Raises `InputError` if a setting is wrong."""
        from fsd_gcp.outline import outline

        return outline(settings)

    def credentials(self) -> str:
        """The account of Application Default Credentials, and the project that they name."""
        from fsd_gcp.clients import default

        found, project = default()
        who = getattr(found, "service_account_email", "") or "a user, by gcloud"
        return f"{who}, project {project or 'none'}"

    def caller(self, resources: Resources) -> str:
        """The user or service account, as policies write it. For a user it makes two requests."""
        from fsd_gcp.api import Api

        with Api(resources.names["project"], resources.names["region"]) as api:
            return api.member

    def stand_in(self) -> str | None:
        """HOST:PORT of the emulator in PUBSUB_EMULATOR_HOST, STORAGE_EMULATOR_HOST or FSD_GCP_ENDPOINT.

        None where these variables name no host outside Google. Raises `InputError` where one of the variables is malformed.
        """
        named = [address(name, bare=True) for name in ("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "FSD_GCP_ENDPOINT")]
        return elsewhere(named, "googleapis.com")

    def advice(self, error: BaseException | str) -> str | None:
        """What a person can do about an error of Google Cloud, or about the text of one; None for an unknown error."""
        from fsd_gcp.errors import advice

        return advice(error)


PROVIDER = GcpProvider()
