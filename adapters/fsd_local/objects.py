"""An object store in a folder: each object is one file, and no reader ever sees a part of an object.

A put writes the body to ``tmp``, then renames it to its place, or with ``if_absent`` links it there: of several links the file system lets
exactly one succeed. Files are not synced: objects survive the death of any process, but not a loss of power.

On a file system without hard links (exFAT, many FUSE and SMB mounts) an app has a file ``lock`` beside ``objects``. A put locks it, checks
whether the object exists, renames, and unlocks. The kernel releases the lock when its owner ends for any reason. The lock works only
between processes of one machine; all users of the folder run on this machine.

Names: each segment of a key becomes a directory ``segment,``, the last one a file ``segment=``, so that "a" and "a/b" can both be objects.
Characters outside [a-z0-9_.-] are escaped as %xx; so are capitals, since some file systems do not tell "A" from "a". A segment of 64
characters or more becomes directories ``piece+`` of 64 characters each, which keeps every name under 255 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from fsd_core.driver import Code, Page, Refused, Rejected
from fsd_core.providers.checks import check_delete, check_put, check_range
from fsd_local.errors import classify, naming
from fsd_local.limits import OBJECTS

__all__ = ["LOCK", "LocalObjects"]

LOCK = "lock"  # exists where the file system has no hard links: see `fsd_local.provision`

_UNSAFE = re.compile(r"[^a-z0-9_.-]")
_PIECE = 64
_RETRIES = 100  # attempts of a put, whose directory a delete may remove at the same time


def _path(segments: Sequence[str], last: str) -> str:
    """The relative path of ``segments``: all are directories except the last one, whose name ends in ``last``."""
    names = []
    for number, segment in enumerate(segments, 1):
        while len(segment) >= _PIECE:
            names.append(_UNSAFE.sub(_escape, segment[:_PIECE]) + "+")
            segment = segment[_PIECE:]
        names.append(_UNSAFE.sub(_escape, segment) + (last if number == len(segments) else ","))
    return "/".join(names)


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02x}"


class LocalObjects:
    """Implements `fsd_core.driver.ObjectDriver` over ``root``, the app's folder as `LocalProvisioner.ensure` made it."""

    service = "the local object store"

    def __init__(self, root: str) -> None:
        self.limits = OBJECTS
        self._store = os.path.join(root, "objects")
        self._tmp = os.path.join(root, "tmp")
        lock = os.path.join(root, LOCK)
        self._lock = lock if os.path.exists(lock) else None

    def _file(self, key: str) -> str:
        segments = key.split("/")
        if len(key) > 512 or not key.isascii() or not key.isprintable() or not all(s and s not in (".", "..") for s in segments):
            raise Refused(
                Code.INVALID, f"key {key[:80]!r}: expected 1 to 512 printable ASCII characters, no segment that is empty, '.' or '..'"
            )
        return f"{self._store}/{_path(segments, '=')}"

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Write the object. With ``if_absent``, raises `FileExistsError` unless this call created it.

        Raises `FileNotFoundError` where the app is gone.
        """
        check_put(self.limits, key, body)
        path, temp = self._file(key), f"{self._tmp}/{os.urandom(12).hex()}"
        try:
            with naming(temp), open(temp, "xb") as file:
                file.write(body)
            for attempt in itertools.count(1):
                try:
                    self._place(temp, path, if_absent)
                    return
                except FileNotFoundError:
                    if attempt == _RETRIES or not os.path.isdir(self._store):
                        raise
                with contextlib.suppress(FileNotFoundError):  # a delete removed a parent again: next attempt
                    self._make(os.path.dirname(path))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp)

    def _place(self, temp: str, path: str, if_absent: bool) -> None:
        """Put the file in place in one step, as readers see it."""
        place = os.link if if_absent else os.replace
        if self._lock is None:
            place(temp, path)
            return
        with open(self._lock, "rb", buffering=0) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if if_absent and os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            os.replace(temp, path)

    def _make(self, folder: str) -> None:
        """Like makedirs, but does not make the store itself: a destroyed app must stay destroyed."""
        if folder == self._store:
            return
        try:
            os.mkdir(folder)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make(os.path.dirname(folder))
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)

    def written(self, key: str) -> float:
        """When the object was written, in seconds since 1970. Raises `FileNotFoundError` where it does not exist."""
        return os.stat(self._file(key)).st_mtime

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes [start, end) of the object. Raises `FileNotFoundError` where the object does not exist."""
        first = check_range(key, start, end)
        with open(self._file(key), "rb", buffering=0) as file:
            last = os.fstat(file.fileno()).st_size
            last = last if end is None else min(last, end)
            parts = []
            while first < last:  # one read returns at most 2 GiB
                part = os.pread(file.fileno(), min(last - first, 1 << 30), first)
                if not part:
                    raise OSError(errno.EIO, f"object {key!r} ends at {first} of {last} bytes")  # no put shortens a file
                parts.append(part)
                first += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def list(self, prefix: str, page: str | None = None) -> Page:
        """Up to ``page_keys`` keys that start with ``prefix``, after ``page`` (the last key of the page before)."""
        os.stat(self._store)  # a missing app is an error, a missing prefix an empty page
        whole = prefix.split("/")[:-1]
        folder = f"{self._store}/{_path(whole, ',')}" if whole else self._store
        found = self._walk(folder, "".join(s + "/" for s in whole), prefix, page or "")
        keys = list(itertools.islice(found, self.limits.page_keys + 1))
        more = len(keys) > self.limits.page_keys
        return Page(keys[: self.limits.page_keys], keys[self.limits.page_keys - 1] if more else None)

    def _walk(self, folder: str, above: str, prefix: str, after: str) -> Iterator[str]:
        """The keys below ``folder`` in order; all start with ``above``. A directory sorts by its prefix."""
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return
        for key, name in sorted((above + unquote(name[:-1]) + "/" * (name[-1] == ","), name) for name in names):
            if name[-1] == "=":
                if key > after and key.startswith(prefix):
                    yield key
            elif (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key)):
                yield from self._walk(f"{folder}/{name}", key, prefix, after)

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove the objects and directories that become empty. Returns one `Rejected` for each object that could not be removed."""
        check_delete(self.limits, keys)
        rejected = []
        for index, path in enumerate([self._file(key) for key in keys]):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                rejected.append(Rejected(index, classify(error), str(error)))
                continue
            with contextlib.suppress(OSError):  # stops at the first directory that is not empty
                while (path := os.path.dirname(path)) != self._store:
                    os.rmdir(path)
        return rejected

    def classify(self, error: BaseException) -> Code:
        """The `Code` of an error of this driver: see `fsd_local.errors.classify`."""
        return classify(error)

    def native(self) -> Path:
        """The folder of the objects."""
        return Path(self._store)

    def close(self) -> None:
        """Does nothing: the driver holds no descriptors."""
