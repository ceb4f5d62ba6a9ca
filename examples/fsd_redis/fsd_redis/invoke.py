"""Functions on worker hosts: a launch is a POST to one of them, which answers when the function has ended (`fsd_redis.worker`)."""

import itertools
import os
import random
from collections.abc import Callable

from fsd_core.driver import Code, Failures, Resources
from fsd_core.providers.environment import to_environment
from fsd_core.providers.http_invoke import HttpInvoker, HttpLaunch
from fsd_redis.client import classify
from fsd_redis.settings import TOKEN, functions

APP, SECRET = "X-Fsd-App", "X-Fsd-Token"  # the headers of a launch: the app's `Resources` as JSON, and the host's token


class RedisInvoker:
    """Implements `fsd_core.driver.InvokeDriver`: the hosts take turns. Each function has its own invoker, which begins with any host."""

    service = "the worker hosts"

    def __init__(self, resources: Resources) -> None:
        names, urls = resources.names, resources.names["workers"].split(",")
        self.limits = functions(len(urls) * int(names["concurrency"]), int(names["memory_mb"]), float(names["timeout_s"]))
        headers = {APP: to_environment(resources), SECRET: os.environ.get(TOKEN, "")}
        self._hosts = [HttpInvoker(f"{url}/launch", lambda: headers, self.limits, classify) for url in urls]
        self._turn = itertools.count(random.randrange(len(urls)))

    def invoke(self, function: str, payload: bytes) -> HttpLaunch:
        """Send the payload to the next host, and return at once. A host that is full answers 429, which `HttpLaunch.poll` returns."""
        return self._hosts[next(self._turn) % len(self._hosts)].invoke(function, payload)

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """Functions of this driver that died. Makes no request."""
        return Failures([failure for host in self._hosts for failure in host.failures(take).taken])

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver."""
        return self._hosts[0].classify(error)

    def native(self) -> list[HttpInvoker]:
        """A client of each worker host."""
        return self._hosts

    def close(self) -> None:
        """Close the connections. Functions go on."""
        for host in self._hosts:
            host.close()
