"""The exchange of activations between the ranks of a run, over the drivers of any provider."""

from fsd_core.channel.channel import Aborted, Channel, ChannelConfig, RankIdentity, StallLimit, describe, explain
from fsd_core.channel.hybrid import HybridChannel
from fsd_core.channel.objects import ObjectChannel
from fsd_core.channel.queue import QueueChannel

__all__ = [
    "Aborted",
    "Channel",
    "ChannelConfig",
    "HybridChannel",
    "ObjectChannel",
    "QueueChannel",
    "RankIdentity",
    "StallLimit",
    "describe",
    "explain",
]
