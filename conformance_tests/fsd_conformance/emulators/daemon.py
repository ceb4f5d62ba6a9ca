"""The common part of the emulators' commands: flags, the folder for files, and the end of the process."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from fsd_conformance.emulators.sandbox import Options

__all__ = ["End", "parser", "run"]


class End:
    """Waits for the end of the process: a signal, the end of standard input (if wanted), or a call of `lost`. Create the object inside the
    event loop.
    """

    def __init__(self, until_stdin_closes: bool) -> None:
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[int] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                loop.add_signal_handler(number, self._set, 0)
        if until_stdin_closes:
            loop.add_reader(0, self._read)

    def lost(self) -> None:
        """End the process, because the parent of the function processes died."""
        self._set(1)

    async def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return await self._over

    def _set(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)

    def _read(self) -> None:
        if not os.read(0, 4096):
            self._set(0)


def parser(name: str, description: str, defaults: type[Options]) -> argparse.ArgumentParser:
    """A parser with the flags that all emulators of functions share."""
    made = argparse.ArgumentParser(name, description=description)
    made.add_argument("--port", type=int, default=0, help="0: a free port")
    made.add_argument(
        "--cold",
        choices=("fork", "spawn"),
        default="fork",
        help="start a process by a fork, or with a new interpreter",
    )
    made.add_argument("--code", choices=("installed", "zip"), default="installed", help="zip: run the uploaded code; implies spawn")
    made.add_argument("--preload", default=defaults.preload, help="modules that the warm parent imports, or module:function to call")
    made.add_argument("--idle-s", type=float, default=defaults.idle_s, help="seconds after which an idle process ends")
    made.add_argument("--pending-s", type=float, default=defaults.pending_s, help="seconds that a change of a function takes")
    made.add_argument("--late", type=_late, default=(0.0, 0.0), metavar="P:SECONDS", help="deliver calls late: probability and delay")
    made.add_argument("--duplicate", type=float, default=0.0, metavar="P", help="deliver calls twice: probability")
    made.add_argument("--seed", type=int, default=0, help="the seed of --late and --duplicate")
    made.add_argument("--home", type=Path, help="folder for logs and unpacked code; default: a temporary one, removed at the end")
    made.add_argument("--until-stdin-closes", action="store_true", help="end when the standard input closes")
    return made


def run(
    made: argparse.ArgumentParser, arguments: Sequence[str] | None, serve: Callable[[dict[str, Any], int, End], Coroutine[Any, Any, int]]
) -> int:
    """Call ``serve`` with the fields of `Options` that ``made`` parses from ``arguments``, the port and the `End`. Returns the exit code of
    the process.
    """
    chosen = vars(made.parse_args(arguments))
    port, until, home = chosen.pop("port"), chosen.pop("until_stdin_closes"), chosen.pop("home")
    folder = home.absolute() if home else Path(tempfile.mkdtemp(prefix=f"fsd-{made.prog}-"))

    async def work() -> int:
        return await serve({**chosen, "home": folder, "temporary": home is None}, port, End(until))

    try:
        code = asyncio.run(work())
        if code:
            print(f"{made.prog}: the parent of the function processes died", file=sys.stderr)
        return code
    except OSError as error:
        print(f"{made.prog}: {error}", file=sys.stderr)
        return 1
    finally:
        if home is None:
            shutil.rmtree(folder, ignore_errors=True)


def _late(text: str) -> tuple[float, float]:
    probability, _, seconds = text.partition(":")
    return float(probability), float(seconds)
