"""Runs in the process of a function, which the host forked or, with ``cold``, started as a new interpreter: ``python -m fsd_local.function
ORDER``.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import struct
import sys
import threading
import traceback
from contextlib import suppress

import attrs

from fsd_core.common.logfile import LogFile, read
from fsd_core.errors import FsdError, RunFailed
from fsd_local import PROVIDER
from fsd_local.errors import classify
from fsd_local.wire import inherited

__all__ = ["UNCLAIMED", "Order", "layer_of", "run"]

UNCLAIMED = 3  # the exit code of a reporter whose function had not claimed its rank

_LAYER = struct.Struct(">I")


@attrs.frozen
class Order:
    """The task of a process: to run a function or, with ``report``, to report to the run why a function ended."""

    functions: str  # the module of `handle` and `report_exit`
    number: int  # the number of the launch, which the host counts
    nonce: str  # `handle` claims its rank with this text
    life: int  # descriptor of a pipe that ends when the host ends
    notes: int  # descriptor of a file with the current layer of each function, by ``number``
    said: int  # descriptor of a file with the lines that the function logs
    report: str | None = None
    layer: int | None = None  # with ``report``: the function's last layer


def layer_of(order: Order) -> int | None:
    """The number of the last layer (from 1) that the function wrote into the file of notes; None if it wrote none."""
    noted = os.pread(order.notes, _LAYER.size, order.number * _LAYER.size)
    return (_LAYER.unpack(noted)[0] or None) if len(noted) == _LAYER.size else None


def run(order: Order, payload: bytes) -> None:
    """Execute the order, then end this process: this function never returns. ``payload``: the launch's payload."""

    def end_with_host() -> None:
        os.read(order.life, 1)  # no process writes to this pipe: the read returns when the host ends
        os.killpg(0, signal.SIGKILL)  # kills also the processes that this function started

    def note(layer: int) -> None:
        os.pwrite(order.notes, _LAYER.pack(layer), order.number * _LAYER.size)

    threading.Thread(target=end_with_host, daemon=True).start()
    code = os.EX_SOFTWARE  # not Python's 1, which means "failed and already reported"
    try:
        module = importlib.import_module(order.functions)
        if order.report is None:
            logging.getLogger().addHandler(LogFile(order.said))
            code = int(module.handle(payload, PROVIDER, nonce=order.nonce, note=note))
        else:
            said = read(order.said)
            reported = module.report_exit(payload, PROVIDER, order.report, nonce=order.nonce, layer=order.layer, said=said)
            code = UNCLAIMED if reported is False else 0
    except BaseException as error:
        with suppress(OSError):  # the host is gone, and this process ends too
            _send_reason(error)
        with suppress(OSError):  # standard error may be a file on a full disk
            if isinstance(error, FsdError):
                print(f"fsd worker: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _send_reason(error: BaseException) -> None:
    """Send the host the reason why this process ends. The host can pass it to the client even where the disk is full."""
    code = error.code if isinstance(error, RunFailed) else classify(error)
    channel = inherited()
    if channel is not None:
        channel.send_reason(code.value, error.message if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run(Order(**json.loads(sys.argv[1])), sys.stdin.buffer.read())
