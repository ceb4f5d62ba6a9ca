"""Google Cloud as a provider: Pub/Sub for messages, Cloud Storage for objects, Cloud Run functions for functions.

Importing this package imports no SDK; each factory below imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.addresses import address, elsewhere
from fsd_core.providers.environment import from_environment
from fsd_gcp.variables import RESOURCES

__all__ = ["PROVIDER", "GcpProvider"]


class GcpProvider:
    """Implements `fsd_core.driver.Provider`."""

    name = "gcp"

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """Settings: see `fsd_gcp.settings`."""
        from fsd_gcp.provision import GcpProvisioner

        return GcpProvisioner(settings, self)

    def attach(self, app: str) -> Resources:
        """What the function's environment says; InputError outside a function, or of another app."""
        return from_environment(RESOURCES, app)

    def admit(self, resources: Resources, workers: int) -> None:
        """Any number can: Pub/Sub has a quota by the second, and no more."""

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        """The queues of one slot."""
        from fsd_gcp.messages import GcpMessages

        return GcpMessages(resources, slot)

    def objects(self, resources: Resources) -> ObjectDriver:
        """The app's bucket."""
        from fsd_gcp.objects import GcpObjects

        return GcpObjects(resources)

    def invoker(self, resources: Resources) -> InvokeDriver:
        """What starts functions."""
        from fsd_gcp.invoke import GcpInvoker

        return GcpInvoker(resources)

    def credentials(self) -> str:
        """Who Application Default Credentials are of, and which project comes with them."""
        from fsd_gcp.clients import default

        found, project = default()
        who = getattr(found, "service_account_email", "") or "a user, by gcloud"
        return f"{who}, project {project or 'none'}"

    def stand_in(self) -> str | None:
        """What PUBSUB_EMULATOR_HOST, STORAGE_EMULATOR_HOST or FSD_GCP_ENDPOINT names outside Google. InputError: one is malformed."""
        named = [address(name, bare=True) for name in ("PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "FSD_GCP_ENDPOINT")]
        return elsewhere(named, "googleapis.com")

    def advice(self, error: BaseException | str) -> str | None:
        """What a person can do about an error of Google Cloud, or the text of one; None if there is nothing to say."""
        from fsd_gcp.errors import advice

        return advice(error)


PROVIDER = GcpProvider()
