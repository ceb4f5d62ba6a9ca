"""An interrupted cell of a notebook: its process lives on, so the call itself has to end its workers and give the slot back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fsd_core.common import interrupt
from fsd_core.storage import slots
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_local import PROVIDER
from waiting import claims, left_by_runs, until

WORKERS = 3
# The first cell is interrupted; the second has the same one slot.
CELLS = """
import asyncio, sys, fsd_core

def cell(**options):
    here = {"home": sys.argv[1], "settings": {"root": sys.argv[1]}}
    same = {"workers": 3, "channel": "queue", "partition": "block", "timeout": 100.0}
    return fsd_core.run("radixnet:1024:24", "random:40:0.4:1", **here, **same, **options)

def cells():
    try:
        cell(faults="delay=300ms,seed=1")
    except KeyboardInterrupt as error:
        print("interrupted", *getattr(error, "__notes__", ()), flush=True)
    sys.stdin.readline()
    print(cell().output.shape, flush=True)
"""
KERNELS = {
    "plain": "cells()",
    "asyncio.run": "async def kernel(): cells()\nasyncio.run(kernel())",  # it sets its own handler of SIGINT
    "a callback of a loop": (  # as a kernel of Jupyter does it
        "loop = asyncio.new_event_loop()\nloop.call_soon(lambda: (cells(), loop.stop()))\nloop.run_forever()"
    ),
    "a handler of the loop": (
        "import signal\n"
        "async def kernel():\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: print('told', flush=True))\n"
        "    cells()\n"
        "asyncio.run(kernel())"
    ),
}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked for in /proc")
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_interrupted_cell_stops_its_workers_and_gives_its_slot_back(tmp_path: Path, kernel: str) -> None:
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("fsd", WORKERS, 1)
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 600, Meter()))
    words = [sys.executable, "-c", CELLS + KERNELS[kernel], str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            pids = [int(claim["pid"]) for claim in claims(store, WORKERS).values()]
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")])
            assert slots.holders(store) == set()
            assert left_by_runs(store) == []
            out, err = process.communicate("next\n", timeout=100)
            assert out.splitlines()[0] == "(40, 1024)", err  # a loop's own handler may be called after that
            assert process.returncode == 0, err
        finally:
            process.kill()


def test_a_handler_of_the_caller_stays() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        mine = signal.getsignal(signal.SIGINT)
        with interrupt.heard():
            signal.raise_signal(signal.SIGINT)
        assert came == [signal.SIGINT]

        async def loop() -> None:
            with pytest.raises(KeyboardInterrupt), interrupt.heard():
                signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is mine

        asyncio.new_event_loop().run_until_complete(loop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interrupt.heard():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_must_be_whole_is_not_interrupted_within_a_call() -> None:
    ended = False
    with pytest.raises(KeyboardInterrupt), interrupt.heard():  # noqa: PT012
        with interrupt.whole():
            signal.raise_signal(signal.SIGINT)
            ended = True
        raise AssertionError("the signal comes at the end of the block")
    assert ended


def test_other_threads_set_no_handler() -> None:
    found: list[object] = []

    def work() -> None:
        with interrupt.heard():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
