"""The conformance suite: the contract of `fsd_core.driver` as test cases that any provider can run.

To test a provider, write a `Harness`, and one subclass for each group of cases, in a file that pytest collects::

    class Mine(Harness):
        name = "mine"
        def provider(self): return PROVIDER
        def settings(self, folder): return {"region": "eu-west-1"}

    class TestMessages(MessageCases):
        harness = Mine()

or, for all groups at once, ``globals().update(cases(Mine()))``. Importing this package does not import pytest; only the modules with cases
import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fsd_conformance.harness import Harness

if TYPE_CHECKING:
    from fsd_conformance.channel import ChannelCases
    from fsd_conformance.end_to_end import EndToEndCases
    from fsd_conformance.invoke import InvokeCases
    from fsd_conformance.messages import DeliveryCases, DirectMessageCases, MessageCases
    from fsd_conformance.objects import ConsistencyCases, ObjectCases
    from fsd_conformance.provision import ProvisionCases
    from fsd_conformance.table import cases, run
    from fsd_conformance.wrapped import (
        DelayedMessageCases,
        DelayedObjectCases,
        FaultyMessageCases,
        FaultyObjectCases,
        MeteredMessageCases,
        MeteredObjectCases,
        PrefixedObjectCases,
    )

_WHERE = {
    "ChannelCases": "channel",
    "ConsistencyCases": "objects",
    "DelayedMessageCases": "wrapped",
    "DelayedObjectCases": "wrapped",
    "DeliveryCases": "messages",
    "DirectMessageCases": "messages",
    "EndToEndCases": "end_to_end",
    "FaultyMessageCases": "wrapped",
    "FaultyObjectCases": "wrapped",
    "InvokeCases": "invoke",
    "MessageCases": "messages",
    "MeteredMessageCases": "wrapped",
    "MeteredObjectCases": "wrapped",
    "ObjectCases": "objects",
    "PrefixedObjectCases": "wrapped",
    "ProvisionCases": "provision",
    "cases": "table",
    "run": "table",
}

__all__ = [
    "ChannelCases",
    "ConsistencyCases",
    "DelayedMessageCases",
    "DelayedObjectCases",
    "DeliveryCases",
    "DirectMessageCases",
    "EndToEndCases",
    "FaultyMessageCases",
    "FaultyObjectCases",
    "Harness",
    "InvokeCases",
    "MessageCases",
    "MeteredMessageCases",
    "MeteredObjectCases",
    "ObjectCases",
    "PrefixedObjectCases",
    "ProvisionCases",
    "cases",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
