"""The memory of a worker's process: the largest amount that it used, and how the C library allocates it."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress

__all__ = ["begin", "give_back", "peak_bytes"]

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # of mallopt(3)
_MAPPED_BYTES = 4 << 20  # smaller arrays stay in the heap: a mapping for each array of 2 MB makes computing a third slower
_KEPT_BYTES = 64 << 20  # free bytes that the heap keeps: the next micro-batch uses them again without page faults


def begin() -> None:
    """Call this at the start of a launch, before its threads start. `peak_bytes` counts from this call on.

    By default, glibc gives each thread a heap, which keeps some of the memory that the thread frees. After a large array is freed, glibc
    also puts later arrays of that size into a heap, where they leave gaps. So a worker would take up to a third more memory than it uses.
    This function sets one heap for all threads, and large arrays outside of it, whose memory goes back to the system at once. Then the peak
    is what the worker uses, and the same in every run.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _MAPPED_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
            library.mallopt(option, value)
    # If the system does not allow this, a warm function keeps the peak of its earlier launches. proc(5): 5 resets the peak.
    with suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:
        file.write(b"5")


def give_back() -> None:
    """Return the free memory of the heap to the system, before an array that is too large for the heap's gaps. Takes a few milliseconds."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes() -> int:
    """The largest resident memory of this process since `begin`, in bytes. Some systems count only from the start of the process."""
    with suppress(OSError, ValueError, StopIteration), open("/proc/self/status", "rb") as file:
        return 1024 * int(next(line for line in file if line.startswith(b"VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
