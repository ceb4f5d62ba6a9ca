"""Benchmarks on an emulator: the arguments of `fsd_core.run` that say where, and a way to begin anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fsd_conformance import emulators


@contextmanager
def where(provider: str, emulator: str | None, cold: bool = False) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """``provider`` itself (None), or its emulator of this name ("": the default) for the block, one that is up or else its own.

    The function that is given back restarts its own: moto grows by the bytes that are published. With ``cold`` it is always
    its own, and functions start as in a cloud: a new process each, nothing imported before.
    """
    if emulator is None:
        yield {"provider": provider, "settings": {"cold": True} if cold else {}}, lambda: None
        return
    if cold:
        found = emulators.find(provider, emulator or None)
        with emulators.own(type("Cold", (found,), {"functions": ("--cold", "spawn")})) as own:
            yield {"provider": provider, "settings": own.settings}, own.restart
        return
    with emulators.use(provider, emulator or None, lambda text: print(text, file=sys.stderr)) as used:
        yield {"provider": provider, "settings": used.settings}, used.own.restart if used.own else lambda: None
