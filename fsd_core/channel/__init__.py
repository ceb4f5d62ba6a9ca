"""Exchange between the ranks of a run, over any driver."""

from fsd_core.channel.channel import Aborted, Channel, ChannelConfig, Patience, RankIdentity, describe, explain
from fsd_core.channel.hybrid import HybridChannel
from fsd_core.channel.objects import ObjectChannel
from fsd_core.channel.queue import QueueChannel

__all__ = [
    "Aborted",
    "Channel",
    "ChannelConfig",
    "HybridChannel",
    "ObjectChannel",
    "Patience",
    "QueueChannel",
    "RankIdentity",
    "describe",
    "explain",
]
