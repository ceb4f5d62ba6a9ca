"""For `test_signals`: a process that reaches what HOLD names says so in the file HELD, and goes on when there is one ending in ".over".

HOLD is ``call MODULE:FUNCTION``, ``import MODULE``, ``open WORD`` or ``replace WORD`` (of a file whose path has the word). HOW: ``sleep``;
``c``, a long call of a C library that no signal ends, whose last words have time; ``finalizer``, where Python raises nothing; ``error``:
no wait, but an error of the disk that may pass, each time; ``heard``: whatever ends the wait is told in a file ending in ".heard", and
kept waiting likewise. Children are not held.
"""

from __future__ import annotations

import builtins
import errno
import functools
import hashlib
import os
import sys
import time
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

HOLD, HELD, HOW = (os.environ.pop(name, "") for name in ("HOLD", "HELD", "HOW"))
KIND, _, WHAT = HOLD.partition(" ")


class Late:
    def __del__(self) -> None:
        wait()


def hold() -> None:
    Path(HELD).touch()
    if HOW == "error":
        raise OSError(errno.EIO, "Input/output error")
    if HOW == "c":
        from fsd_core.cli import signals
        from fsd_core.common.interrupt import leave_note

        signals.SPARE_S = 60.0  # a machine that stops for a while must not cut them off
        leave_note("a thing is held: `fsd gc` removes it")
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
    elif HOW == "finalizer":
        Late()
        wait()
    elif HOW == "heard":
        try:
            wait()
        except BaseException:
            Path(HELD).with_suffix(".heard").touch()
            wait()
            raise
    else:
        wait()


def wait() -> None:
    over = Path(HELD).with_suffix(".over")
    end = time.monotonic() + 600
    while not over.exists() and time.monotonic() < end:
        time.sleep(0.02)


class Finder:
    """Holds the import of a module, or puts what holds in the place of a function once its module is there."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        module, _, function = WHAT.partition(":")
        if name != module:
            return None
        if not function:
            hold()
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        real = spec.loader.exec_module

        def execute(made: ModuleType) -> None:
            real(made)
            at: Any = made
            *owners, last = function.split(".")
            for owner in owners:
                at = getattr(at, owner)
            setattr(at, last, holding(getattr(at, last)))

        spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def holding(real: Any, at: int | None = None) -> Any:
    """The function, held before it begins; of files only where the path, argument ``at``, has the word."""

    @functools.wraps(real)
    def call(*arguments: Any, **more: Any) -> Any:
        if at is None or WHAT in str(arguments[at]):
            hold()
        return real(*arguments, **more)

    return call


if KIND in ("call", "import"):
    sys.meta_path.insert(0, Finder())
elif KIND == "open":
    builtins.open = holding(builtins.open, 0)
elif KIND == "replace":
    os.replace = holding(os.replace, 1)
