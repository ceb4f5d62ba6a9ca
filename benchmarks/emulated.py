"""Benchmarks on an emulator: the arguments of `fsd_core.run` that choose it, and a function that restarts it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fsd_conformance import emulators


@contextmanager
def where(provider: str, emulator: str | None, cold: bool = False) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """Use ``provider`` itself (``emulator`` None) or its emulator of this name ("": the default) within the block.

    An emulator that runs already is used; otherwise the block starts one of its own. The second value is a function that restarts the
    block's own emulator, since the memory of moto grows with the bytes that are published. With ``cold`` the block always starts its own,
    and each function is a new process that has imported nothing, as in the cold start of a cloud.
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
