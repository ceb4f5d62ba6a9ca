"""Reads the payloads that sources left when they ended, a part at a time: as the rank gets on, not all at once."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection
from concurrent.futures import Executor

import attrs

from fsd_core.channel import Channel
from fsd_core.channel.frames import Kind
from fsd_core.channel.kept import Sent, Shelf, unpack
from fsd_core.common.sealed import Damaged
from fsd_core.driver import Code
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol import records
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.store import Store

__all__ = ["Left"]

log = logging.getLogger(__name__)

READERS = 4  # parts that are read at once: each may need 50 MB


@attrs.define
class _Source:
    """A source that has ended. Its parts are the objects on its shelf, then the rest in its record."""

    incarnation: int
    shelved: int
    part: int = 0  # the number of the next part to read
    notices: deque[Sent] = attrs.field(factory=deque)  # of the parts before: each brings a large payload, so they follow one by one
    until: int = -1  # this rank has all payloads of the source up to this step: it needs the next part once it waits in this step


class Left:
    """What the sources of one rank left. Delivers it to ``channel``, of each source one part after another.

    The next part is read when the rank waits in the last step that the parts before it hold. So the mailbox has about one part of each
    source. Each notice in a part counts as a separate part, because the channel reads a large payload for it. The threads of ``pool`` only
    read: none of them waits for the rank, because `begins` starts the next reads.
    """

    def __init__(self, store: Store, keys: RunKeys, channel: Channel, pool: Executor) -> None:
        self._store = store
        self._keys = keys
        self._channel = channel
        self._pool = pool
        self._step = -1  # the step for which the rank waits, or waited last
        self._sources: dict[int, _Source] = {}  # those that have ended, and of which not all parts are read
        self._waiting: deque[int] = deque()  # sources of which the next part is due
        self._reading: set[int] = set()  # these sources, and those of which a thread reads a part
        self._readers = 0
        self._lock = threading.Lock()
        self.read: set[int] = set()  # sources of which this rank has read everything that it needs
        channel.begins = self.begins

    def begins(self, step: int) -> None:
        """Record that the rank begins to wait in ``step``. Starts to read the parts that it needs now."""
        with self._lock:
            self._step = step
            found = list(self._sources)
        self.look(found)

    def look(self, sources: Collection[int]) -> None:
        """Start to look for the records of ``sources``, and to read the parts that the rank needs now. Makes no other request."""
        with self._lock:
            due = [source for source in sources if source not in self.read and source not in self._reading and self._is_due(source)]
            self._reading.update(due)
            self._waiting.extend(due)
            more = min(READERS - self._readers, len(due))
            self._readers += more
        for _ in range(more):
            self._pool.submit(self._read)

    def _is_due(self, source: int) -> bool:
        known = self._sources.get(source)
        return known is None or self._step >= known.until

    def _read(self) -> None:
        """Read parts until none is due, or the run has failed."""
        while True:
            with self._lock:
                if not self._waiting or self._channel.mailbox.error is not None:
                    self._readers -= 1
                    return
                source = self._waiting.popleft()
            more = self._take_part(source)
            with self._lock:
                if more and self._is_due(source):
                    self._waiting.append(source)
                else:
                    self._reading.discard(source)

    def _take_part(self, source: int) -> bool:
        """Deliver the next part of ``source``. Returns whether the source has more parts; `False` if it has not ended."""
        channel = self._channel
        try:
            known = self._sources.get(source)
            if known is None or not known.notices:
                body = self._part(source)
                if body is None:
                    return False
                known = self._sources[source]
                known.part += 1
                for sent in unpack(body, channel.me.rank):
                    if sent.kind is Kind.NOTICE:
                        known.notices.append(sent)
                    else:
                        channel.take(source, known.incarnation, sent)
                del body
            if known.notices:
                channel.take(source, known.incarnation, known.notices.popleft())
        except (FsdError, Damaged, KeyError) as error:
            why = f"the payloads that rank {source} left cannot be read: {error}"
            channel.receiving_failed(RunFailed(Code.INVALID, why, rank=channel.me.rank))
            return False
        except Exception as error:  # of any class: otherwise the main thread would wait for this thread
            channel.receiving_failed(error)
            return False
        until = channel.mailbox.complete_until(source)
        if until is not None and (known.notices or known.part <= known.shelved):
            known.until = until
            return True
        log.info("read what rank %d left: %d of %d objects, and its record", source, min(known.part, known.shelved), known.shelved)
        with self._lock:
            self.read.add(source)
            del self._sources[source]
        return False

    def _part(self, source: int) -> bytes | None:
        """The next part of ``source``; `None` if the source has not ended.

        The record is read first, because it has the number of objects. If there are any, it is read again at the end.
        """
        known = self._sources.get(source)
        if known is None or known.part == known.shelved:
            data = self._store.find(self._keys.record(source))
            if data is None:
                return None
            record, rest = records.kept(data)
            if known is None or known.incarnation != record["incarnation"]:  # two functions of a slow rank may both have ended
                known = _Source(record["incarnation"], record["shelved"])
                with self._lock:
                    self._sources[source] = known
            if known.part == known.shelved:
                return rest
            del data, rest
        return Shelf(self._store, self._keys, source, known.incarnation).get(known.part)
