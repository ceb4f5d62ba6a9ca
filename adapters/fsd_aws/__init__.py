"""Amazon Web Services as a provider: SNS and SQS for messages, S3 for objects, Lambda for functions.

Importing this package imports no SDK; each factory below imports what it needs when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing

from fsd_aws.variables import RESOURCES
from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.addresses import address, elsewhere
from fsd_core.providers.base import BaseProvider
from fsd_core.providers.outline import Outline

__all__ = ["PROVIDER", "AwsProvider"]


class AwsProvider(BaseProvider):
    """Implements `fsd_core.driver.Provider`."""

    name = "aws"
    contract = 1
    variable = RESOURCES

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner of apps on AWS. ``settings``: the table ``[aws]``, see `fsd_aws.settings`. Raises `InputError`."""
        from fsd_aws.provision import AwsProvisioner

        return AwsProvisioner(settings, self)

    def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
        """A driver of the queues of one slot, which publishes through the slot's topics; with ``direct`` straight to the queues."""
        from fsd_aws.messages import AwsDirectMessages, AwsMessages

        return AwsDirectMessages(resources, slot) if direct else AwsMessages(resources, slot)

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver of the app's bucket."""
        from fsd_aws.objects import AwsObjects

        return AwsObjects(resources)

    def store(self, resources: Resources) -> str:
        """The app's bucket."""
        return f"s3://{resources.names['bucket']}"

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts the app's functions."""
        from fsd_aws.invoke import AwsInvoker

        return AwsInvoker(resources)

    def outline(self, settings: Mapping[str, object]) -> Outline:
        """The limits of an app with the table ``[aws]``. Raises `InputError` if a setting is wrong."""
        from fsd_aws.outline import outline

        return outline(settings)

    def credentials(self) -> str:
        """The source of the SDK's credentials, their key id, and the region."""
        from fsd_aws.clients import credentials

        return credentials()

    def caller(self, resources: Resources) -> str:
        """The ARN of the user or of the assumed role, by one request that everybody may make."""
        from fsd_aws.clients import client

        with closing(client("sts", resources.names["region"], read_s=5.0)) as sts:
            return str(sts.get_caller_identity()["Arn"])

    def stand_in(self) -> str | None:
        """HOST:PORT of the emulator in AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_<SERVICE>; None where these variables name no host outside AWS.

        Raises `InputError` where one of the variables is malformed.
        """
        named = {name: address(name) for name in os.environ if name.startswith("AWS_ENDPOINT_URL")}
        services = (named.get(f"AWS_ENDPOINT_URL{each}", "") for each in ("", "_SNS", "_SQS", "_S3", "_LAMBDA"))
        return elsewhere(services, "amazonaws.com", "amazonaws.com.cn", "api.aws")

    def advice(self, error: BaseException | str) -> str | None:
        """What a person can do about an error of AWS, or about the text of one; None for an unknown error."""
        from fsd_aws.errors import advice

        return advice(error)


PROVIDER = AwsProvider()
