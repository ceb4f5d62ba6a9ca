"""What a price may count, and how each follows from a usage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fsd_core.cost.usage import Usage

__all__ = ["NEEDED", "QUANTITIES", "FunctionRule"]


@dataclass(frozen=True, slots=True)
class FunctionRule:
    """How a platform bills the time of its functions."""

    step_ms: float  # a function's time is rounded up to a multiple of this
    least_ms: float  # and is at least this
    init: bool  # whether initialisation before a launch is billed
    sizes_mb: tuple[float, ...] = ()  # ascending; a function has the smallest that holds it. Empty: any size
    vcpus: tuple[tuple[float, float], ...] = ()  # (up to this many MB, so many vCPUs), ascending
    source: str = ""
    as_of: str = ""
    confidence: str = "high"

    def seconds(self, usage: Usage) -> float:
        """Billed seconds. Launches of which no time is known, the late and the double ones too, take the least; so do sums at least."""
        known = sum(max(self._up(time + (init if self.init else 0.0)), self.least_ms / 1000) for time, init in usage.functions)
        others = max(0.0, usage["invocations"] - len(usage.functions)) * self.least_ms / 1000
        return known + max(self._up(usage.more_seconds), others)

    def _up(self, seconds: float) -> float:
        steps = math.ceil(round(seconds * 1000 / self.step_ms, 6))  # what is above by a float's error alone is not above
        return steps * self.step_ms / 1000

    def memory_mb(self, wanted: float) -> float:
        """The size that a function of ``wanted`` MB gets; ``wanted`` itself where none is large enough."""
        return min((size for size in self.sizes_mb if size >= wanted), default=wanted)

    def vcpu(self, memory_mb: float) -> float:
        """The vCPUs of a function of this memory; those of the largest size known above that."""
        return next((count for most, count in self.vcpus if memory_mb <= most), self.vcpus[-1][1] if self.vcpus else 0.0)


def _publish_units(usage: Usage) -> float:
    return max(usage["publish_units"], usage["publish_requests"])


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


# Of a usage, the platform's rule, and the least number of bytes that a request counts. Whatever the messages were packed for, a unit
# is at least one request, and a message at least one operation: so each is the larger of what was counted and what that implies.
QUANTITIES: Mapping[str, Callable[[Usage, FunctionRule, float], float]] = {
    "publish_units": lambda usage, rule, least: _publish_units(usage),
    "published_messages": lambda usage, rule, least: _published_messages(usage),
    "published_bytes": lambda usage, rule, least: max(usage["message_bytes_sent"], least * _publish_units(usage)),
    "receive_units": lambda usage, rule, least: _receive_units(usage),
    "delivered_messages": lambda usage, rule, least: _delivered_messages(usage),
    "delivered_bytes": lambda usage, rule, least: max(usage["message_bytes_sent"], least * _receive_units(usage)),
    "ack_requests": lambda usage, rule, least: usage["ack_requests"],
    "settled_messages": lambda usage, rule, least: max(usage["messages_received"], usage["ack_requests"]),
    "object_puts": lambda usage, rule, least: usage["object_puts"],
    "object_gets": lambda usage, rule, least: usage["object_gets"],
    "object_lists": lambda usage, rule, least: usage["object_lists"],
    "stored_byte_seconds": lambda usage, rule, least: usage["stored_byte_seconds"],
    "invocations": lambda usage, rule, least: usage["invocations"],
    "function_mb_seconds": lambda usage, rule, least: _mb_seconds(usage, rule),
    "function_vcpu_seconds": lambda usage, rule, least: _vcpu_seconds(usage, rule),
}

# A tariff that has a price for none of a row has forgotten one: what is free says so with usd = 0.
NEEDED = (
    ("publish_units", "published_messages", "published_bytes"),
    ("receive_units", "delivered_messages", "delivered_bytes"),
    ("ack_requests", "settled_messages"),
    ("object_puts",),
    ("object_gets",),
    ("object_lists",),
    ("invocations",),
    ("function_mb_seconds",),
)
