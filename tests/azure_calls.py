"""What was asked of Azure within a block: every request of the provisioner and every launch, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from azure.core.rest import HttpRequest

from fsd_azure import api, invoke


@dataclass(frozen=True)
class Call:
    """One request. ``path`` begins after the resource group."""

    method: str
    path: str


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The Resource Manager's requests of this process within the block, as they are made; launches are "LAUNCH"."""
    calls: list[Call] = []
    launch = invoke.AzureInvoker.invoke

    def asked(method: str, url: str, **more: Any) -> HttpRequest:
        calls.append(Call(method, api._short("/" + url.partition("://")[2].partition("/")[2])))
        return HttpRequest(method, url, **more)

    def launched(self: Any, function: str, payload: bytes) -> Any:
        calls.append(Call("LAUNCH", self.native().rpartition("/")[2]))
        return launch(self, function, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "HttpRequest", asked)
        patch.setattr(invoke.AzureInvoker, "invoke", launched)
        yield calls
