"""What ``fsd measure`` sends to a function that measures: the task in the launch's payload, and the messages of probes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import attrs

from fsd_core.common.fields import integer, key, matching, number
from fsd_core.storage.keys import RunKeys

__all__ = ["LARGE_BYTES", "PROBE", "SMALL_BYTES", "STREAM_BYTES", "Task", "filler", "note", "noted"]

PROBE = b"fsd-probe-"  # how the message of a probe begins: a worker that receives one drops it, because it is not a frame
SMALL_BYTES, LARGE_BYTES = 1000, 1_000_000  # of objects; messages have SMALL_BYTES
STREAM_BYTES = 4_000_000  # of an object of the bandwidth measurement


@attrs.frozen(kw_only=True)
class Task:
    """What a function measures. The counts are upper limits: the function ends sooner if it reaches its time limit."""

    name: str = key(matching(r"[a-z0-9-]{1,40}", "1 to 40 lower-case letters, digits or hyphens"))  # of its answer
    run: str = key(matching(r"[0-9a-f]{16}", "16 hexadecimal digits"))
    slot: int = key(integer(0))
    epoch: int = key(integer(1))
    limit_s: float = key(number(0, 900, "seconds"))  # the function ends after this time at the latest
    hold_s: float = key(number(0, 60, "seconds"), default=0.0)  # the function does not end before this time
    clocks: int = key(integer(0, 1000), default=0)  # messages from the client and back
    messages: int = key(integer(0, 10_000), default=0)  # single ones, by each way of publishing
    bursts: int = key(integer(0, 1000), default=0)  # of two full publishes
    objects: int = key(integer(0, 10_000), default=0)  # rounds of puts, gets and lists
    connections: int = key(integer(0, 100), default=0)  # new ones
    streams: int = key(integer(0, 1000), default=0)  # objects of `STREAM_BYTES` for the bandwidth
    kernel_s: float = key(number(0, 60, "seconds"), default=0.0)

    @property
    def keys(self) -> RunKeys:
        """The keys of its run, below which it writes everything."""
        return RunKeys(self.run)

    @property
    def claim(self) -> str:
        """The key of the claim: if several functions have this task, the one that creates the claim measures."""
        return f"{self.keys.prefix}measured/{self.name}-claim"

    @property
    def answer(self) -> str:
        """The key of the answer."""
        return f"{self.keys.prefix}measured/{self.name}"

    def payload(self, app: str, deadline: float) -> bytes:
        """The payload of a launch. ``deadline``: seconds since 1970, after which a report of its failure may be removed."""
        return json.dumps({"app": app, "run": self.run, "deadline": deadline, "measure": attrs.asdict(self)}).encode()


def filler(name: str, size: int) -> bytes:
    """A message of ``size`` bytes for a probe: ``name``, then random digits, all in ASCII."""
    return (PROBE + f"{name} ".encode() + os.urandom(size).hex().encode())[:size]


def note(fields: Mapping[str, Any]) -> bytes:
    """A message that holds these fields."""
    return PROBE + json.dumps(fields).encode()


def noted(body: bytes) -> dict[str, Any]:
    """The fields of a message that `note` made; an empty dictionary for any other message."""
    with suppress(ValueError, RecursionError):
        found = json.loads(body.removeprefix(PROBE))
        if isinstance(found, dict):
            return found
    return {}
