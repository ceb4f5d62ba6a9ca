"""The local provider against the suite: plain, metered, prefixed, under faults, under latencies."""

from fsd_conformance import (
    ChannelCases,
    DelayedMessageCases,
    DelayedObjectCases,
    DirectMessageCases,
    EndToEndCases,
    FaultyMessageCases,
    FaultyObjectCases,
    InvokeCases,
    MessageCases,
    MeteredMessageCases,
    MeteredObjectCases,
    ObjectCases,
    PrefixedObjectCases,
    ProvisionCases,
)
from fsd_conformance.local import LocalHarness

LOCAL = LocalHarness()


class TestMessages(MessageCases):
    harness = LOCAL


class TestDirectMessages(DirectMessageCases):
    harness = LOCAL


class TestObjects(ObjectCases):
    harness = LOCAL


class TestInvoke(InvokeCases):
    harness = LOCAL


class TestProvision(ProvisionCases):
    harness = LOCAL


class TestChannel(ChannelCases):
    harness = LOCAL


class TestEndToEnd(EndToEndCases):
    harness = LOCAL


class TestMeteredMessages(MeteredMessageCases):
    harness = LOCAL


class TestMeteredObjects(MeteredObjectCases):
    harness = LOCAL


class TestPrefixedObjects(PrefixedObjectCases):
    harness = LOCAL


class TestFaultyMessages(FaultyMessageCases):
    harness = LOCAL


class TestFaultyObjects(FaultyObjectCases):
    harness = LOCAL


class TestDelayedMessages(DelayedMessageCases):
    harness = LOCAL


class TestDelayedObjects(DelayedObjectCases):
    harness = LOCAL
