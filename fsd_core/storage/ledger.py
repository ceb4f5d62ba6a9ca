"""A chain of numbered objects that only grows, for the audit log of an app: a change of an entry shows in the entry after it.

Entry N (from 1) is the object ``audit/N``, N with ten digits. It is sealed JSON and holds the digest of the whole entry before it. A client
adds an entry by a conditional create of the next number. If another client was faster, it reads the entry of that client and tries the next
number.

A client finds the last entry without listing the whole log. It begins at an entry that it knows, or at the last key of the first page of a
listing, and reads the entries 1, 2, 4, 8 ... numbers further until one is missing. Then it halves the distance.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from fsd_core.common.crew import each
from fsd_core.common.fields import integer, key, matching, nullable, number, read, table
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code
from fsd_core.errors import DriverError, InputError
from fsd_core.storage.keys import AUDIT
from fsd_core.storage.store import Store

__all__ = ["Body", "Link", "Mark", "Misfit", "append", "check", "digest_of", "link", "numbered", "read_all"]

TRIES = 20  # numbers that other clients may take while this one tries
THREADS = 16
_KEY = re.compile(rf"{AUDIT}(\d{{10}})")
_DIGEST = matching("[0-9a-f]{64}", "64 hexadecimal digits")
_LOG = matching("[0-9a-f]{16}", "16 hexadecimal digits")
_AT = number(0, 1e11)

Body = tuple[str, bytes]  # the key of an entry and its bytes


@attrs.frozen(kw_only=True)
class Link:
    """One entry.

    - ``number``: from 1. ``log``: the random id of the log. ``at``: when it was written, in seconds since 1970.
    - ``before``: the SHA-256 digest of the entry before it; `None` for the first one. ``before_at``: when that one was written.
    - ``entry``: the content.
    """

    number: int = key(integer(1))
    log: str = key(_LOG)
    at: float = key(_AT)
    before: str | None = key(nullable(_DIGEST))
    before_at: float | None = key(nullable(_AT))
    entry: Mapping[str, Any] = key(table())


@attrs.frozen(kw_only=True)
class Mark:
    """An entry as its writer remembers it. ``digest``: the SHA-256 digest of its bytes. The other fields are those of `Link`."""

    log: str = key(_LOG)
    number: int = key(integer(1))
    digest: str = key(_DIGEST)
    at: float = key(_AT)


@attrs.frozen
class Misfit:
    """The first entry of a log that is wrong. ``number``: its number; `None` if the object is no entry. ``reason``: for people."""

    number: int | None
    reason: str


@attrs.frozen
class _Head:
    """What the next entry needs to know of the last one. ``number`` is 0 if the log is empty."""

    number: int
    log: str
    digest: str | None
    at: float | None


def digest_of(body: bytes) -> str:
    """The SHA-256 digest of an entry's bytes, in hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()


def link(body: bytes) -> Link:
    """Read the bytes of an entry. Raises `Damaged`, or `InputError` if a key is missing or wrong."""
    return read(Link, unseal(body, "it"), "it is damaged: ")


def append(store: Store, entry: Mapping[str, Any], known: Mark | None = None) -> tuple[Mark, bool]:
    """Write the next entry. ``known``: an entry that this client has written; the last one saves the most requests.

    Returns the new entry, and whether ``known`` still exists unchanged (true without ``known``). Raises `DriverError` if the store refuses
    a request, or if other clients took `TRIES` numbers meanwhile.
    """
    head = None
    if known is not None and (body := store.find(_key(known.number))) is not None and digest_of(body) == known.digest:
        head = _Head(known.number, known.log, known.digest, known.at)
    intact = known is None or head is not None
    head = head or _newest(store)
    for _ in range(TRIES):
        made = Link(number=head.number + 1, log=head.log, at=time.time(), before=head.digest, before_at=head.at, entry=entry)
        body = seal(attrs.asdict(made, recurse=False))
        if store.create(_key(made.number), body):
            return Mark(log=made.log, number=made.number, digest=digest_of(body), at=made.at), intact
        head = _last(store, made.number)
    raise DriverError(
        Code.THROTTLED, f"the audit log: other clients took {TRIES} numbers while this client tried to write an entry; try again"
    )


def _key(number: int) -> str:
    return f"{AUDIT}{number:010d}"


def _newest(store: Store) -> _Head:
    """The last entry, by one listing of at most one page. The oldest entries may be gone, because they are kept for a limited time."""
    page = store.retry.call(store.driver, f"list {AUDIT}", lambda: store.driver.list(AUDIT))
    numbers = [int(found[1]) for found in map(_KEY.fullmatch, page.keys) if found]
    return _last(store, numbers[-1]) if numbers else _Head(0, os.urandom(8).hex(), None, None)


def _last(store: Store, number: int) -> _Head:
    """The last entry, from entry ``number`` on, which exists."""
    body, step = store.find(_key(number)), 1
    while (further := store.find(_key(number + step))) is not None:
        number, body, step = number + step, further, 2 * step
    while step > 1:
        step //= 2
        if (further := store.find(_key(number + step))) is not None:
            number, body = number + step, further
    try:
        found = link(body or b"")
    except (Damaged, InputError):  # `check` names this entry; the log goes on behind it
        return _Head(number, os.urandom(8).hex(), digest_of(body or b""), None)
    return _Head(number, found.log, digest_of(body or b""), found.at)


def read_all(store: Store, last: int | None = None) -> list[Body]:
    """All entries, or the last ``last`` entries, ascending by their keys. Raises `DriverError`."""
    keys = list(store.keys(AUDIT))
    keys = keys if last is None else keys[-last:]
    bodies = each(store.find, keys, THREADS)
    return [(name, body) for name, body in zip(keys, bodies, strict=True) if body is not None]


def check(found: Sequence[Body], marks: Collection[Mark] = (), kept_s: float = math.inf, *, first: bool = True) -> Misfit | None:
    """Find the first wrong entry of a log; `None` if all entries are right.

    ``marks``: entries that this client has written. ``kept_s``: entries may be missing if they are older than this, in seconds. Without
    ``first``, entries before the first of ``found`` may be missing too.
    """
    since = time.time() - kept_s
    mine: dict[int, Mark] = {}
    for mark in marks:
        if mark.at >= since:
            mine.setdefault(mark.number, mark)  # a later mark with this number belongs to a new log
    last: Link | None = None
    digest = ""
    for name, body in found:
        matched = _KEY.fullmatch(name)
        if matched is None:
            return Misfit(None, f"{name}: is no entry of the log: expected {AUDIT} and ten digits")
        place = int(matched[1])
        expected = last.number + 1 if last else 1 if first else place
        try:
            this = link(body)
        except (Damaged, InputError) as error:
            return Misfit(place, str(error)) if place == expected else _missing(expected, place)
        if place != expected and (this.before_at is None or this.before_at >= since):
            return _missing(expected, place)
        if this.number != place:
            return Misfit(place, f"it is the entry that was written as number {this.number}")
        if last and place == expected and this.before != digest:
            return Misfit(last.number, f"it was changed after entry {place} was written, which holds its digest")
        if last and this.log != last.log:
            return Misfit(place, "it belongs to another log than the entry before it")
        digest = digest_of(body)
        wrote = mine.pop(place, None)
        if wrote and wrote.digest != digest:
            return Misfit(place, f"it is not the entry that this client wrote on {_day(wrote.at)}")
        last = this
    if mine:
        lowest = min(mine)
        ends = f"the log ends with entry {last.number}" if last else "the log is empty"
        return Misfit(lowest, f"it is missing: this client wrote it on {_day(mine[lowest].at)}, and {ends}")
    return None


def _missing(first: int, after: int) -> Misfit:
    more = f", and so are those up to {after - 1}" if after - first > 1 else ""
    return Misfit(first, f"it is missing{more}: entry {after} is there")


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def numbered(bodies: Iterable[bytes]) -> list[Body]:
    """Entries that were saved in a file, one after another, under the keys that they had. A damaged one gets the number after the last."""
    found: list[Body] = []
    place = 0
    for body in bodies:
        try:
            place = link(body).number
        except (Damaged, InputError):
            place += 1
        found.append((_key(place), body))
    return found
