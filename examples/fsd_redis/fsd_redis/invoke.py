"""Functions on worker hosts: a launch is a POST to one of them, which answers when the function has ended (`fsd_redis.worker`)."""

import os

from fsd_core.driver import Resources
from fsd_core.providers.environment import to_environment
from fsd_core.providers.http_invoke import HttpInvoker
from fsd_core.providers.outline import sized
from fsd_redis.client import classify
from fsd_redis.settings import FUNCTIONS, TOKEN

APP, SECRET = "X-Fsd-App", "X-Fsd-Token"  # the headers of a launch: the app's `Resources` as JSON, and the host's token


class RedisInvoker(HttpInvoker):
    """Implements `fsd_core.driver.InvokeDriver`: the hosts take turns. A host that is full answers 429, which `HttpLaunch.poll` returns."""

    service = "the worker hosts"

    def __init__(self, resources: Resources) -> None:
        names, self._hosts = resources.names, resources.names["workers"].split(",")
        limits = sized(FUNCTIONS, len(self._hosts) * int(names["concurrency"]), names["memory_mb"], names["timeout_s"])
        headers = {APP: to_environment(resources), SECRET: os.environ.get(TOKEN, "")}
        super().__init__([f"{url}/launch" for url in self._hosts], lambda: headers, limits, classify)

    def native(self) -> list[str]:
        """The addresses of the hosts: there is no SDK, only HTTP."""
        return self._hosts
