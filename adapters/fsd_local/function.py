"""Being a function: what a process does once the host forked it, or started it (``cold``): ``python -m fsd_local.function ORDER``."""

from __future__ import annotations

import importlib
import json
import os
import signal
import struct
import sys
import threading
import traceback
from contextlib import suppress

import attrs

from fsd_core.errors import FsdError, RunFailed
from fsd_local import PROVIDER
from fsd_local.errors import classify
from fsd_local.wire import inherited

__all__ = ["UNCLAIMED", "Order", "layer_of", "run"]

UNCLAIMED = 3  # the exit code of a helper whose function had not claimed its rank

_LAYER = struct.Struct(">I")


@attrs.frozen
class Order:
    """What a process is to be: a function, or with ``report`` the helper that tells why one ended."""

    functions: str  # the module of `handle` and `report_exit`
    number: int  # counts the host's launches
    nonce: str  # what this invocation of `handle` claims its rank with
    life: int  # descriptor: at its end once the host is gone
    notes: int  # descriptor: a file of all functions' layers, by number
    report: str | None = None
    layer: int | None = None  # with ``report``: where the function was


def layer_of(order: Order) -> int | None:
    """The layer (1-based) that the function noted last."""
    noted = os.pread(order.notes, _LAYER.size, order.number * _LAYER.size)
    return (_LAYER.unpack(noted)[0] or None) if len(noted) == _LAYER.size else None


def run(order: Order, payload: bytes) -> None:
    """Do what the order says, in a process that ends with it: never returns."""

    def end_with_host() -> None:
        os.read(order.life, 1)  # nobody writes: this returns when the host is gone
        os.killpg(0, signal.SIGKILL)  # with what this function started

    def note(layer: int) -> None:
        os.pwrite(order.notes, _LAYER.pack(layer), order.number * _LAYER.size)

    threading.Thread(target=end_with_host, daemon=True).start()
    code = os.EX_SOFTWARE  # not Python's 1, which means "failed and already reported"
    try:
        module = importlib.import_module(order.functions)
        if order.report is None:
            code = int(module.handle(payload, PROVIDER, nonce=order.nonce, note=note))
        else:
            told = module.report_exit(payload, PROVIDER, order.report, nonce=order.nonce, layer=order.layer)
            code = UNCLAIMED if told is False else 0
    except BaseException as error:
        with suppress(OSError):  # of the host, with which this process ends
            _tell(error)
        with suppress(OSError):  # standard error may be a file on the disk that is full
            if isinstance(error, FsdError):
                print(f"fsd worker: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _tell(error: BaseException) -> None:
    """Say to the host why this process ends: it can tell the client where nothing else can, for instance of a full disk."""
    code = error.code if isinstance(error, RunFailed) else classify(error)
    channel = inherited()
    if channel is not None:
        channel.tell(code.value, error.message if isinstance(error, RunFailed) else f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run(Order(**json.loads(sys.argv[1])), sys.stdin.buffer.read())
