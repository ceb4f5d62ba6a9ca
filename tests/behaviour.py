"""What functions of tests do when they are called: the event says it. In a function's own process, which imports no more than it needs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["behave"]


def behave(event: Mapping[str, Any], *notes: object) -> None:
    """Do what ``do`` of the event says, if it is one of these; ``file`` of the event gets a line first: process, ``notes``."""
    print(event.get("say", "a function printed this"))
    if "file" in event:
        with open(event["file"], "a") as file:
            file.write(" ".join(map(str, (os.getpid(), *notes))) + "\n")
    match event.get("do"):
        case "sleep":
            time.sleep(event["seconds"])
        case "grow":
            held = bytearray(event["mb"] << 20)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(600)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(event["code"])
        case "raise":
            raise RuntimeError("on purpose")
        case "wait":
            while not Path(event["until"]).exists():
                time.sleep(0.02)
            if "done" in event:
                Path(event["done"]).touch()
