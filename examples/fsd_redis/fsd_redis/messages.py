"""Queues as Redis Streams: each queue is one stream with one consumer group, in which all receivers are one consumer.

A delivered message stays in the group's list of pending entries until its acknowledgement, with the time and the number of its deliveries.
`XAUTOCLAIM` delivers a message again that has been pending for longer than the lease. A receive that waits for new messages does not notice
the end of a lease, so each wait in Redis is short: at most an eighth of a lease.

A token is "ID COUNT", where COUNT is the number of the delivery. The script that acknowledges compares the number, so that a late
acknowledgement of an earlier delivery does not remove a message that was delivered again. Each request is one script or one command.
"""

import math
import time
from collections.abc import Sequence

from fsd_core.driver import Delivery, Message, Rejected, Resources
from fsd_core.providers.checks import check_ack, check_publish, check_receive
from fsd_redis.client import BLOCK_S, RedisDriver, name
from fsd_redis.settings import messages

_PUBLISH = """for i, queue in ipairs(KEYS) do
  if not redis.call('XADD', queue, 'NOMKSTREAM', '*', 'b', ARGV[i]) then return redis.error_reply('NOQUEUE ' .. queue) end
end"""
_AGAIN = """local limit, got, found = tonumber(ARGV[2]), {'0-0'}, {}
repeat
  got = redis.call('XAUTOCLAIM', KEYS[1], 'fsd', 'fsd', ARGV[1], got[1], 'COUNT', limit - #found)
  for _, entry in ipairs(got[2]) do
    local pending = redis.call('XPENDING', KEYS[1], 'fsd', entry[1], entry[1], 1)
    found[#found + 1] = {entry[1], pending[1][4], entry[2][2]}
  end
until got[1] == '0-0' or #found >= limit
return found"""
_ACK = """local held = {}
for _, token in ipairs(ARGV) do
  local id, count = string.match(token, '(%S+) (%d+)')
  local pending = redis.call('XPENDING', KEYS[1], 'fsd', id, id, 1)
  if pending[1] and pending[1][4] == tonumber(count) then held[#held + 1] = id end
end
if #held > 0 then
  redis.call('XACK', KEYS[1], 'fsd', unpack(held))
  redis.call('XDEL', KEYS[1], unpack(held))
end"""


def queue(app: str, slot: int, rank: object) -> str:
    """The key of a queue."""
    return name(app, "queue", slot, rank)


class RedisMessages(RedisDriver):
    """Implements `fsd_core.driver.MessageDriver` for one slot."""

    def __init__(self, resources: Resources, slot: int) -> None:
        super().__init__(resources)
        self._queues = queue(self._app, slot, "")
        self._look_s: dict[int, float] = {}  # rank -> when to look for ended leases again
        self.limits = messages(float(resources.names["lease_s"]))

    def route(self, rank: int) -> int:
        """Always 0: one script reaches every queue."""
        return 0

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send all messages by one script; none where memory is full, and those before it where a queue is missing."""
        check_publish(self.limits, messages, self.route)
        queues = [f"{self._queues}{message.rank}" for message in messages]
        self.ask("EVAL", _PUBLISH, len(queues), *queues, *[message.body for message in messages])
        return []

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return up to ``limit`` messages: new ones, or from time to time those whose leases have ended."""
        check_receive(self.limits, limit, wait_s)
        key, now = f"{self._queues}{rank}", time.monotonic()
        until, eighth = now + wait_s, self.limits.lease_s / 8
        while True:
            if now >= self._look_s.setdefault(rank, now + eighth):
                again = self.ask("EVAL", _AGAIN, 1, key, math.ceil(1000 * self.limits.lease_s), limit)
                self._look_s[rank] = now + (eighth if len(again) < limit else 0.0)
                if again:
                    return [Delivery(b"%b %d" % (entry, count), body) for entry, count, body in again]
            wait = math.ceil(1000 * min(until - now, eighth, BLOCK_S))
            block = ("BLOCK", wait) if wait > 0 else ()  # for BLOCK 0, Redis waits without an end
            if found := self.ask("XREADGROUP", "GROUP", "fsd", "fsd", "COUNT", limit, *block, "STREAMS", key, ">"):
                return [Delivery(entry + b" 1", body) for entry, (_, body) in found[0][1]]
            now = time.monotonic()
            if now >= until:
                return []

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove deliveries, by one script. A message that was delivered again is not removed."""
        check_ack(self.limits, tokens)
        self.ask("EVAL", _ACK, 1, f"{self._queues}{rank}", *tokens)
        return []
