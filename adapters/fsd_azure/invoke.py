"""Functions: a launch is a POST to the function app's HTTP trigger, whose connection stays open until the function ends: see
`fsd_core.providers.http_invoke`.

Azure's front end closes the connection after 230 s, and the function continues to run. So the end of the connection after 230 s does not
count as a failure. The trigger asks for the function app's key: a worker finds the key in its settings, a client requests it once from the
Resource Manager.
"""

from __future__ import annotations

import os
import threading

from fsd_azure.errors import classify
from fsd_azure.limits import FUNCTIONS
from fsd_azure.variables import KEY, RESOURCES
from fsd_core.driver import Resources
from fsd_core.providers import http_invoke
from fsd_core.providers.outline import sized

__all__ = ["AzureInvoker"]

CUT_S = 230.0  # the front end closes a connection after so many seconds


class AzureInvoker(http_invoke.HttpInvoker):
    """Implements `fsd_core.driver.InvokeDriver`."""

    service = "Azure Functions"

    def __init__(self, resources: Resources) -> None:
        names = resources.names
        limits = sized(FUNCTIONS, names["concurrency"], names["memory_mb"], names["timeout_s"])
        self._names = names
        self._key_lock = threading.Lock()
        self._key = os.environ.get(KEY, "") if RESOURCES in os.environ else ""
        super().__init__([names["url"]], self._headers_of, limits, classify, cut_s=CUT_S)

    def _headers_of(self) -> dict[str, str]:
        """The headers with the key. A client requests the key the first time. Raises the SDK's errors."""
        with self._key_lock:
            if not self._key:
                from fsd_azure.api import key  # a worker has the key, and does not import this module

                self._key = key(self._names)
            return {"x-functions-key": self._key}

    def native(self) -> str:
        """The trigger's URL: there is no SDK client, only HTTP."""
        return self._names["url"]
