"""How payloads become messages, publishes and acks within a service's limits. `QueueChannel` and predictions share these rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from fsd_core.channel.frames import HEADER_BYTES, fill
from fsd_core.driver import MessageLimits

__all__ = [
    "COPY_BYTES",
    "RECEIVES",
    "RECEIVE_MESSAGES",
    "ack_messages",
    "batched",
    "body_bytes",
    "copies",
    "linger_s",
    "open_receiver",
    "open_receives",
    "piece_bytes",
    "piece_sizes",
]

COPY_BYTES = 64 << 10  # the transfer of a larger batch takes longer than a second copy gains
LINGER_SHARE = 0.35
MAX_LINGER_S = 0.05
RECEIVES = 6
RECEIVE_MESSAGES = 10  # the largest number of messages that each of several receives returns


def piece_bytes(limits: MessageLimits) -> int:
    """The largest part of a payload that one message carries, in bytes. A text service carries three bytes in four characters."""
    room = limits.message_bytes * 3 // 4 // 3 * 3 if limits.body == "text" else limits.message_bytes
    return room - HEADER_BYTES


def piece_sizes(payload: int, limits: MessageLimits) -> list[int]:
    """The sizes of the pieces into which `split` cuts a payload of ``payload`` bytes, in bytes."""
    size = piece_bytes(limits)
    whole, rest = divmod(payload, size)
    return [size] * whole + ([rest] if rest or not whole else [])


def body_bytes(piece: int, limits: MessageLimits) -> int:
    """The size of the body of a message that carries a piece of ``piece`` bytes, in bytes."""
    size = HEADER_BYTES + piece
    return (size + 2) // 3 * 4 if limits.body == "text" else size


def batched(entries: Sequence[tuple[int, int]], route: Callable[[int], Hashable], limits: MessageLimits) -> Iterator[list[int]]:
    """Group messages into publishes: all messages of a publish have the same route, and each publish is within the limits.

    ``entries``: of each message the target rank and the size of the body in bytes. Yields for each publish the indices of its messages.
    """
    if len(entries) == 1:
        yield [0]
        return
    routes: dict[Hashable, list[int]] = defaultdict(list)
    for number, (target, _) in enumerate(entries):
        routes[route(target)].append(number)
    for group in routes.values():
        sizes = [entries[number][1] + limits.overhead_bytes for number in group]
        for batch in fill(sizes, limits.batch_messages, limits.batch_bytes):
            yield [group[index] for index in batch]


def ack_messages(limits: MessageLimits) -> int:
    """How many deliveries a channel collects before it acknowledges them, unless their leases or bytes require it earlier."""
    return min(limits.batch_messages, (limits.outstanding_messages or 2 * limits.batch_messages) // 2)


def copies(size: int, limits: MessageLimits) -> int:
    """How many times an eager channel sends a batch. ``size``: the bytes of all its bodies together."""
    return 2 if size <= COPY_BYTES and limits.side_by_side else 1


def linger_s(waited_s: Any) -> Any:
    """The pause between two receives of a step, if the last step waited ``waited_s``. Both in seconds, a number or an array."""
    return np.minimum(MAX_LINGER_S, LINGER_SHARE * waited_s)


def open_receives(limits: MessageLimits, eager: bool) -> int:
    """How many receives of a rank may be open at once: one if the service pushes messages, because a receive then makes no request."""
    return RECEIVES if eager and limits.outstanding_messages is None else 1


def open_receiver(limits: MessageLimits, eager: bool) -> bool:
    """Whether a channel receives all the time. If a service pushes messages it has to, because their leases begin with the push."""
    return eager or limits.outstanding_messages is not None
