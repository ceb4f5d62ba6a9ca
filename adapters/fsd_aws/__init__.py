"""Amazon Web Services as a provider: SNS and SQS for messages, S3 for objects, Lambda for functions.

Importing this package imports no SDK; each factory below imports what it needs when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fsd_aws.variables import RESOURCES
from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.addresses import address, elsewhere
from fsd_core.providers.environment import from_environment

__all__ = ["PROVIDER", "AwsProvider"]


class AwsProvider:
    """Implements `fsd_core.driver.Provider`."""

    name = "aws"

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """Settings: see `fsd_aws.provision`."""
        from fsd_aws.provision import AwsProvisioner

        return AwsProvisioner(settings, self)

    def attach(self, app: str) -> Resources:
        """What the function's environment says; InputError outside a function, or of another app."""
        return from_environment(RESOURCES, app)

    def admit(self, resources: Resources, workers: int) -> None:
        """Any number can: SNS has a quota by the second, and no more."""

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        """The queues of one slot."""
        from fsd_aws.messages import AwsMessages

        return AwsMessages(resources, slot)

    def objects(self, resources: Resources) -> ObjectDriver:
        """The app's bucket."""
        from fsd_aws.objects import AwsObjects

        return AwsObjects(resources)

    def invoker(self, resources: Resources) -> InvokeDriver:
        """What starts functions."""
        from fsd_aws.invoke import AwsInvoker

        return AwsInvoker(resources)

    def credentials(self) -> str:
        """Which of the SDK's sources names whom, and where."""
        from fsd_aws.clients import credentials

        return credentials()

    def stand_in(self) -> str | None:
        """What AWS_ENDPOINT_URL, or that of a service that is used, names outside AWS. InputError: one of them is malformed."""
        named = {name: address(name) for name in os.environ if name.startswith("AWS_ENDPOINT_URL")}
        services = (named.get(f"AWS_ENDPOINT_URL{each}", "") for each in ("", "_SNS", "_SQS", "_S3", "_LAMBDA"))
        return elsewhere(services, "amazonaws.com", "amazonaws.com.cn", "api.aws")

    def advice(self, error: BaseException | str) -> str | None:
        """What a person can do about an error of AWS, or the text of one; None if there is nothing to say."""
        from fsd_aws.errors import advice

        return advice(error)


PROVIDER = AwsProvider()
