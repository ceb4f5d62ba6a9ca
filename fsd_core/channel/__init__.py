"""The exchange of activations between the ranks of a run, over the drivers of any provider."""

from fsd_core.channel.channel import Aborted, Channel, ChannelConfig, RankIdentity, StallLimit, Superseded, describe, explain
from fsd_core.channel.frames import new_key
from fsd_core.channel.hybrid import HybridChannel
from fsd_core.channel.kept import kept_budget
from fsd_core.channel.news import INCARNATIONS, News, NewsList
from fsd_core.channel.objects import ObjectChannel
from fsd_core.channel.queue import QueueChannel

__all__ = [
    "INCARNATIONS",
    "Aborted",
    "Channel",
    "ChannelConfig",
    "HybridChannel",
    "News",
    "NewsList",
    "ObjectChannel",
    "QueueChannel",
    "RankIdentity",
    "StallLimit",
    "Superseded",
    "describe",
    "explain",
    "kept_budget",
    "new_key",
]
