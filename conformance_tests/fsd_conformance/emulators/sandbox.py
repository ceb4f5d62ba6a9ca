"""The flags of an emulator of functions, and the environment of every function's process: variables and unpacked code."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

__all__ = ["ONE_THREAD", "Options", "passed", "unpack"]

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
_PASSED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SSL_CERT_FILE", "NO_PROXY", "no_proxy")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags that all emulators of functions share.

    ``home``: a folder for logs and unpacked code, which is removed at the end if ``temporary``; ``cold``: "fork" or "spawn"; ``code``:
    "installed" or "zip"; ``late``: the probability of a late launch, and its delay in seconds.
    """

    home: Path
    temporary: bool = False
    cold: str = "fork"
    code: str = "installed"
    preload: str = ""
    idle_s: float = 300.0
    pending_s: float = 0.2
    late: tuple[float, float] = (0.0, 0.0)
    duplicate: float = 0.0
    seed: int = 0


def passed(options: Options) -> dict[str, str]:
    """The variables of the emulator that every function gets; they limit linear algebra to one thread."""
    names = (*_PASSED, "PYTHONPATH") if options.code == "installed" else _PASSED
    return {**ONE_THREAD, **{name: os.environ[name] for name in names if name in os.environ}}


def unpack(home: Path, digest: str, code: bytes) -> Path:
    """Unpack a deployment package once, and return its folder. Raises `zipfile.BadZipFile`, `OSError`."""
    task = home / "code" / digest.replace("/", "_")
    if not task.exists():
        half = task.with_name(uuid4().hex)
        with zipfile.ZipFile(io.BytesIO(code)) as package:
            package.extractall(half)
        with suppress(OSError):  # another thread or process was faster
            half.rename(task)
        shutil.rmtree(half, ignore_errors=True)
    return task
