"""The exchange of activations between the ranks of a run, over the drivers of any provider."""

from fsd_core.channel.channel import Aborted, Channel, ChannelConfig, RankIdentity, Superseded, describe, explain
from fsd_core.channel.frames import new_key
from fsd_core.channel.hybrid import HybridChannel
from fsd_core.channel.kept import SHELF_BYTES, Shelf, held_bytes, kept_budget
from fsd_core.channel.limits import SLOWEST_FACTOR, Patience, StallLimit
from fsd_core.channel.news import INCARNATIONS, News, NewsList
from fsd_core.channel.objects import ObjectChannel
from fsd_core.channel.queue import QueueChannel
from fsd_core.channel.slow import SlowSources

__all__ = [
    "INCARNATIONS",
    "SHELF_BYTES",
    "SLOWEST_FACTOR",
    "Aborted",
    "Channel",
    "ChannelConfig",
    "HybridChannel",
    "News",
    "NewsList",
    "ObjectChannel",
    "Patience",
    "QueueChannel",
    "RankIdentity",
    "Shelf",
    "SlowSources",
    "StallLimit",
    "Superseded",
    "describe",
    "explain",
    "held_bytes",
    "kept_budget",
    "new_key",
]
