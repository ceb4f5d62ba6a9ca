"""Your machines as a provider: Redis for messages and objects, HTTP to worker hosts for functions.

It needs a Redis that all machines see, and `fsd-redis-worker` on each machine that computes. Without the setting ``url``, it starts a
Redis and a worker host on this machine, and stops them when this process ends. Importing this package imports no SDK.
"""

from collections.abc import Mapping

from fsd_core.driver import InvokeDriver, MessageDriver, ObjectDriver, Provisioner, Resources
from fsd_core.providers.advice import advise
from fsd_core.providers.base import BaseProvider
from fsd_core.providers.outline import Outline
from fsd_redis.settings import ADVICE, PASSWORD, RESOURCES, TOKEN, outline


class RedisProvider(BaseProvider):
    """Implements `fsd_core.driver.Provider`."""

    name = "redis"
    contract = 1
    variable = RESOURCES

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner of apps. ``settings``: the table ``[redis]``, see `fsd_redis.settings`. Raises `InputError`."""
        from fsd_redis.provision import RedisProvisioner

        return RedisProvisioner(settings)

    def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
        """A driver of the queues of one slot. There is one way to them, with ``direct`` and without."""
        from fsd_redis.messages import RedisMessages

        return RedisMessages(resources, slot)

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver of the app's objects: in Redis, or in a bucket of an S3-compatible store."""
        if resources.names["bucket"]:
            from fsd_redis.bucket import BucketObjects

            return BucketObjects(resources)
        from fsd_redis.objects import RedisObjects

        return RedisObjects(resources)

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts functions on the worker hosts."""
        from fsd_redis.invoke import RedisInvoker

        return RedisInvoker(resources)

    def outline(self, settings: Mapping[str, object]) -> Outline:
        """The limits of an app. Raises `InputError` if a setting is wrong."""
        return outline(settings)

    def credentials(self) -> str:
        """Which variables hold a password and a token. Makes no request."""
        return f"by {PASSWORD} and {TOKEN}, which only servers of your own need"

    def advice(self, error: BaseException | str) -> str | None:
        """What a person can do about an error of Redis, or about the text of one."""
        return advise(ADVICE, error)


PROVIDER = RedisProvider()
