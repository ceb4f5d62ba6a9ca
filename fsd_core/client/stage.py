"""Stages the shards and inputs of a run in the object store once: their keys are hashes of the content from which they are made.

The client writes a manifest after all the objects that it covers. So if a manifest exists, the client builds and uploads nothing. If
objects are missing or damaged although a manifest exists, the client removes the manifest (`forget`) and stages again. While one client
writes an object again, a run that reads it gets the same bytes, because equal content has equal bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fsd_core.client.work import Pieces
from fsd_core.common.crew import begin
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.storage import keys
from fsd_core.storage.store import Store

__all__ = ["Content", "forget"]

UPLOADS = 8  # at a time, so that not all objects are in memory at once
UPLOAD_BYTES = 1 << 30  # of all uploads at a time, without the object that is built next
Progress = Callable[[int, int], None]  # called with the number of objects staged and of all objects


class Content:
    """The shards or the inputs of a run. ``names`` are the keys of their objects.

    The constructor starts a request that checks whether the objects are already staged; `stage` waits for the answer. ``again``: `stage`
    uploads the objects even if they are already staged.
    """

    def __init__(self, store: Store, pieces: Pieces, pool: ThreadPoolExecutor, *, again: bool = False) -> None:
        self.names = [f"{keys.content(pieces.digest)}{number}" for number in range(pieces.count)]
        self._store = store
        self._build = pieces.build
        self._pool = pool
        self._found = None if again or not pieces.count else begin(self._manifest)

    def stage(self, progress: Progress) -> None:
        """Upload the objects, unless a manifest covers them."""
        count = len(self.names)
        if not count:
            return
        if self._found is None:  # again
            forget(self._store, self.names[0])
        if _covers(self._manifest() if self._found is None else self._found.result(), count):
            progress(count, count)
            return
        uploads: deque[tuple[Future[None], int]] = deque()
        for number, name in enumerate(self.names):
            while len(uploads) > UPLOADS or sum(size for _, size in uploads) > UPLOAD_BYTES:
                uploads.popleft()[0].result()
            body = self._build(number)
            uploads.append((self._pool.submit(self._store.put, name, body), len(body)))
            del body
            progress(number + 1, count)
        for upload, _ in uploads:
            upload.result()
        self._store.put(keys.manifest(self.names[0]), seal({"objects": count}))

    def _manifest(self) -> bytes | None:
        return self._store.find(keys.manifest(self.names[0]))


def forget(store: Store, key: str) -> None:
    """Remove the manifest that covers ``key``, so that its content is staged again. Thread-safe, and harmless to runs of other clients."""
    store.delete([keys.manifest(key)])


def _covers(manifest: bytes | None, count: int) -> bool:
    """Whether a manifest covers ``count`` objects; a damaged one covers none."""
    try:
        return manifest is not None and unseal(manifest, "the manifest") == {"objects": count}
    except Damaged:
        return False
