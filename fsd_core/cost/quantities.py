"""The quantities that a price can count, each computed from a usage, and the rule by which a platform bills function time."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from fsd_core.common.fields import Kind, boolean, choice, key, listed, number, text
from fsd_core.cost.usage import Usage

__all__ = ["AMOUNT", "CONFIDENCE", "DATED", "NEEDED", "POSITIVE", "QUANTITIES", "FunctionRule"]


LEAST = 1e-9  # lower bound of numbers that are divisors
AMOUNT, POSITIVE = number(), number(LEAST)
CONFIDENCE = choice("high", "medium", "low")
DATED = Kind(
    "a date, or a text that is not empty",
    lambda value: isinstance(value, datetime.date) or (isinstance(value, str) and value != ""),
    lambda value: value.isoformat() if isinstance(value, datetime.date) else value,
)


def _are_sizes(value: Any) -> bool:
    return listed(POSITIVE).holds(value) and value == sorted(value)


def _are_vcpus(value: Any) -> bool:
    return isinstance(value, list) and all(listed(AMOUNT).holds(pair) and len(pair) == 2 for pair in value) and value == sorted(value)


@attrs.frozen(kw_only=True)
class FunctionRule:
    """How a platform bills the time of its functions: a tariff's table ``[function]``."""

    step_ms: float = key(POSITIVE)  # a function's time is rounded up to a multiple of this
    min_ms: float = key(AMOUNT)  # a function's time is billed as at least this
    init: bool = key(boolean())  # whether the initialisation before a launch is billed
    sizes_mb: tuple[float, ...] = key(  # the sizes that a function may have; empty: any size
        Kind("a list of numbers above 0, ascending", _are_sizes, tuple), default=()
    )
    vcpus: tuple[tuple[float, float], ...] = key(  # (up to this many MB, this many vCPUs)
        Kind("a list of pairs of numbers, [MB, vCPUs], ascending", _are_vcpus, lambda value: tuple(map(tuple, value))), default=()
    )
    source: str = key(text())
    as_of: str = key(DATED)
    confidence: str = key(CONFIDENCE)

    def seconds(self, usage: Usage) -> float:
        """The billed seconds of all launches. A launch of unknown time, for instance a repeated one, is billed for ``min_ms``."""
        known = sum(max(self._up(time + (init if self.init else 0.0)), self.min_ms / 1000) for time, init in usage.functions)
        others = max(0.0, usage["invocations"] - len(usage.functions)) * self.min_ms / 1000
        return known + max(self._up(usage.more_seconds), others)

    def _up(self, seconds: float) -> float:
        steps = math.ceil(round(seconds * 1000 / self.step_ms, 6))  # a float's rounding error alone starts no step
        return steps * self.step_ms / 1000

    def memory_mb(self, wanted: float) -> float:
        """The smallest size of at least ``wanted`` MB, or ``wanted`` itself if no size is large enough."""
        return min((size for size in self.sizes_mb if size >= wanted), default=wanted)

    def vcpu(self, memory_mb: float) -> float:
        """The vCPUs of a function with this memory. Memory above the last entry of ``vcpus`` gets the vCPUs of the last entry."""
        return next((count for limit, count in self.vcpus if memory_mb <= limit), self.vcpus[-1][1] if self.vcpus else 0.0)


def _publish_units(usage: Usage) -> float:
    return max(usage["publish_units"], usage["publish_requests"])


def _topic_units(usage: Usage) -> float:
    return max(0.0, _publish_units(usage) - usage["direct_units"])


def _topic_bytes(usage: Usage) -> float:
    return max(0.0, usage["message_bytes_sent"] - usage["direct_bytes_sent"])


def _receive_units(usage: Usage) -> float:
    return max(usage["receive_units"], usage["receive_requests"])


def _published_messages(usage: Usage) -> float:
    return max(usage["messages_sent"], usage["message_units_sent"], _publish_units(usage))


def _delivered_messages(usage: Usage) -> float:
    return max(usage["messages_received"], usage["message_units_received"], _receive_units(usage))


def _mb_seconds(usage: Usage, rule: FunctionRule) -> float:
    return 0.0 if usage.memory_mb is None else rule.seconds(usage) * rule.memory_mb(usage.memory_mb)


def _vcpu_seconds(usage: Usage, rule: FunctionRule) -> float:
    return 0.0 if usage.memory_mb is None else rule.seconds(usage) * rule.vcpu(rule.memory_mb(usage.memory_mb))


# Functions of a usage, the platform's rule, and the smallest number of bytes that a request is billed as. On every service, a request is at
# least one unit, and a unit is at least one message: so a quantity is the largest of these counts.
QUANTITIES: Mapping[str, Callable[[Usage, FunctionRule, float], float]] = {
    "publish_units": lambda usage, rule, min_bytes: _publish_units(usage),
    "topic_units": lambda usage, rule, min_bytes: _topic_units(usage),  # of publish_units, those through a topic
    "direct_units": lambda usage, rule, min_bytes: usage["direct_units"],  # and those straight to a queue
    "published_messages": lambda usage, rule, min_bytes: _published_messages(usage),
    "published_bytes": lambda usage, rule, min_bytes: max(usage["message_bytes_sent"], min_bytes * _publish_units(usage)),
    "topic_bytes": lambda usage, rule, min_bytes: max(_topic_bytes(usage), min_bytes * _topic_units(usage)),
    "receive_units": lambda usage, rule, min_bytes: _receive_units(usage),
    "delivered_messages": lambda usage, rule, min_bytes: _delivered_messages(usage),
    "delivered_bytes": lambda usage, rule, min_bytes: max(usage["message_bytes_sent"], min_bytes * _receive_units(usage)),
    "ack_requests": lambda usage, rule, min_bytes: usage["ack_requests"],
    "settled_messages": lambda usage, rule, min_bytes: max(usage["messages_received"], usage["ack_requests"]),
    "object_puts": lambda usage, rule, min_bytes: usage["object_puts"],
    "object_gets": lambda usage, rule, min_bytes: usage["object_gets"],
    "object_lists": lambda usage, rule, min_bytes: usage["object_lists"],
    "stored_byte_seconds": lambda usage, rule, min_bytes: usage["stored_byte_seconds"],
    "invocations": lambda usage, rule, min_bytes: usage["invocations"],
    "function_mb_seconds": lambda usage, rule, min_bytes: _mb_seconds(usage, rule),
    "function_vcpu_seconds": lambda usage, rule, min_bytes: _vcpu_seconds(usage, rule),
}

# A tariff has a price for at least one quantity of each row; usd = 0 if the quantity costs nothing.
NEEDED = (
    ("publish_units", "topic_units", "published_messages", "published_bytes"),
    ("receive_units", "delivered_messages", "delivered_bytes"),
    ("ack_requests", "settled_messages"),
    ("object_puts",),
    ("object_gets",),
    ("object_lists",),
    ("invocations",),
    ("function_mb_seconds",),
)
