"""What a driver refuses before the network: requests that are over the limits which it states. All raise `Refused`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from fsd_core.driver import Code, Message, MessageLimits, ObjectLimits, Refused

__all__ = ["check_ack", "check_delete", "check_payload", "check_publish", "check_put", "check_range", "check_receive"]


def check_publish(limits: MessageLimits, messages: Sequence[Message], route: Callable[[int], Hashable]) -> None:
    """A publish: its number of messages, their sizes each and together, one route, ASCII where the service takes text."""
    if not 1 <= len(messages) <= limits.batch_messages:
        raise Refused(Code.INVALID, f"publish of {len(messages)} messages: 1 to {limits.batch_messages}")
    sizes = [len(message.body) for message in messages]
    if max(sizes) > limits.message_bytes:
        raise Refused(Code.TOO_LARGE, f"message of {max(sizes)} bytes: at most {limits.message_bytes}")
    if len(sizes) > 1 and (total := sum(sizes) + len(sizes) * limits.overhead_bytes) > limits.batch_bytes:
        raise Refused(Code.TOO_LARGE, f"publish of {total} bytes: at most {limits.batch_bytes}")
    if min(sizes) == 0:
        raise Refused(Code.INVALID, "message of 0 bytes: at least 1")
    if len({route(message.rank) for message in messages}) > 1:
        raise Refused(Code.INVALID, "publish to ranks of several routes: one at a time")
    if limits.body == "text" and not all(message.body.isascii() for message in messages):
        raise Refused(Code.INVALID, "message with bytes that are not ASCII: this service takes text")


def check_receive(limits: MessageLimits, limit: int, wait_s: float) -> None:
    """A receive: how many it wants, how long it waits."""
    if not 1 <= limit <= limits.receive_messages or not 0 <= wait_s <= limits.wait_s:
        raise Refused(Code.INVALID, f"receive of {limit} messages in {wait_s} s: 1 to {limits.receive_messages} in 0 to {limits.wait_s}")


def check_ack(limits: MessageLimits, tokens: Sequence[object]) -> None:
    """An acknowledgement: its number of tokens."""
    if not 1 <= len(tokens) <= limits.batch_messages:
        raise Refused(Code.INVALID, f"ack of {len(tokens)} tokens: 1 to {limits.batch_messages}")


def check_put(limits: ObjectLimits, key: str, body: bytes | bytearray | memoryview) -> None:
    """A put: the object's size."""
    if (size := memoryview(body).nbytes) > limits.object_bytes:
        raise Refused(Code.TOO_LARGE, f"object {key!r} of {size} bytes: at most {limits.object_bytes}")


def check_range(key: str, start: int | None, end: int | None) -> int:
    """The range of a get; its first byte."""
    first = start or 0
    if first < 0 or (end is not None and end < first):
        raise Refused(Code.INVALID, f"range {start}..{end} of {key!r}: 0 <= start <= end")
    return first


def check_delete(limits: ObjectLimits, keys: Sequence[str]) -> None:
    """A delete: its number of keys."""
    if not 1 <= len(keys) <= limits.delete_keys:
        raise Refused(Code.INVALID, f"delete of {len(keys)} keys: 1 to {limits.delete_keys}")


def check_payload(most_bytes: int, payload: bytes) -> None:
    """A launch: the size of its payload."""
    if len(payload) > most_bytes:
        raise Refused(Code.TOO_LARGE, f"payload of {len(payload)} bytes: at most {most_bytes}")
