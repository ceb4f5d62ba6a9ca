"""The memory of a worker's process: how much it took at its peak, and how the C library gives it out."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress

__all__ = ["begin", "peak_bytes"]

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # of mallopt(3)
_MAPPED_BYTES = 4 << 20  # smaller arrays come out of the heap: to map those of 2 MB each time takes a third longer than to compute them
_KEPT_BYTES = 64 << 20  # of the heap: what a micro-batch frees, the next one takes without page faults


def begin() -> None:
    """Call this at the start of a launch, before its threads start. From here on `peak_bytes` counts.

    glibc gives each thread a heap, which keeps some of what the thread freed, and after a large array is freed it puts others of that size
    into a heap too, where they leave gaps. So a worker would take up to a third more than it uses. With one heap for all threads, and
    arrays outside of it that go back to the system at once, the peak is what the worker uses, the same in every run.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _MAPPED_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
            library.mallopt(option, value)
    # Where the system does not allow this, a warm function keeps the peak of its earlier launches. proc(5): 5 resets the peak.
    with suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:
        file.write(b"5")


def peak_bytes() -> int:
    """The largest resident memory of this process since `begin`, in bytes; since its start where the system has only that."""
    with suppress(OSError, ValueError, StopIteration), open("/proc/self/status", "rb") as file:
        return 1024 * int(next(line for line in file if line.startswith(b"VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
