"""Checks of a request against the driver's limits, before the driver sends it. All raise `Refused`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from fsd_core.driver import Code, Message, MessageLimits, ObjectLimits, Refused

__all__ = ["check_ack", "check_delete", "check_payload", "check_publish", "check_put", "check_range", "check_receive"]


def check_publish(limits: MessageLimits, messages: Sequence[Message], route: Callable[[int], Hashable]) -> None:
    """Check a publish: the number and sizes of its messages, one route, and ASCII if the service takes only text."""
    if not 1 <= len(messages) <= limits.batch_messages:
        raise Refused(Code.INVALID, f"publish of {len(messages)} messages: expected 1 to {limits.batch_messages}")
    sizes = [len(message.body) for message in messages]
    if max(sizes) > limits.message_bytes:
        raise Refused(Code.TOO_LARGE, f"message of {max(sizes)} bytes: expected at most {limits.message_bytes}")
    if len(sizes) > 1 and (total := sum(sizes) + len(sizes) * limits.overhead_bytes) > limits.batch_bytes:
        raise Refused(Code.TOO_LARGE, f"publish of {total} bytes: expected at most {limits.batch_bytes}")
    if min(sizes) == 0:
        raise Refused(Code.INVALID, "message of 0 bytes: expected at least 1")
    if len({route(message.rank) for message in messages}) > 1:
        raise Refused(Code.INVALID, "publish to ranks of several routes: expected ranks of one route")
    if limits.body == "text" and not all(message.body.isascii() for message in messages):
        raise Refused(Code.INVALID, "message with bytes that are not ASCII: expected ASCII, since this service takes text")


def check_receive(limits: MessageLimits, limit: int, wait_s: float) -> None:
    """Check a receive: its number of messages, its wait in seconds."""
    if not 1 <= limit <= limits.receive_messages or not 0 <= wait_s <= limits.wait_s:
        raise Refused(
            Code.INVALID,
            f"receive of {limit} messages in {wait_s} s: expected 1 to {limits.receive_messages} messages in 0 to {limits.wait_s} s",
        )


def check_ack(limits: MessageLimits, tokens: Sequence[object]) -> None:
    """Check an acknowledgement: its number of tokens."""
    if not 1 <= len(tokens) <= limits.batch_messages:
        raise Refused(Code.INVALID, f"ack of {len(tokens)} tokens: expected 1 to {limits.batch_messages}")


def check_put(limits: ObjectLimits, key: str, body: bytes | bytearray | memoryview) -> None:
    """Check a put: the size of its object."""
    if (size := memoryview(body).nbytes) > limits.object_bytes:
        raise Refused(Code.TOO_LARGE, f"object {key!r} of {size} bytes: expected at most {limits.object_bytes}")


def check_range(key: str, start: int | None, end: int | None) -> int:
    """Check the range of a get. Returns its first byte, 0 where ``start`` is `None`."""
    first = start or 0
    if first < 0 or (end is not None and end < first):
        raise Refused(Code.INVALID, f"range {start}..{end} of {key!r}: expected 0 <= start <= end")
    return first


def check_delete(limits: ObjectLimits, keys: Sequence[str]) -> None:
    """Check a delete: its number of keys."""
    if not 1 <= len(keys) <= limits.delete_keys:
        raise Refused(Code.INVALID, f"delete of {len(keys)} keys: expected 1 to {limits.delete_keys}")


def check_payload(max_bytes: int, payload: bytes) -> None:
    """Check a launch: the size of its payload."""
    if len(payload) > max_bytes:
        raise Refused(Code.TOO_LARGE, f"payload of {len(payload)} bytes: expected at most {max_bytes}")
