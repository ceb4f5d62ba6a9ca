"""Functions for the tests of `fsd_local.host`, in the place of `fsd_core.worker`: the payload says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

from fsd_core.driver import WORKER, InvokeDriver, Provider
from fsd_core.worker import probe
from fsd_local import wire
from fsd_local.invoke import LocalInvoker


def handle(payload: bytes, provider: Provider, *, nonce: str, note: Callable[[int], None]) -> int:
    order = json.loads(payload)
    resources = provider.attach(order["app"])
    objects = provider.objects(resources)
    if "probe" in order:
        return probe.run(order["probe"], objects)
    what, key = order["do"], order["key"]
    print("a function printed this")
    if what == "write":
        objects.put(key, json.dumps({"pid": os.getpid(), "threads": os.environ["OPENBLAS_NUM_THREADS"], "size": len(payload)}).encode())
    elif what == "children":
        invoker = provider.invoker(resources)
        assert isinstance(invoker, LocalInvoker)
        for number in range(order["count"]):
            invoker.invoke(WORKER, json.dumps({"app": order["app"], "do": "sleep", "key": f"{key}/{number}"}).encode())
        invoker.close()
        objects.put(f"{key}/parent", str(os.getppid()).encode())
    elif what == "sleep":
        objects.put(key, f"{os.getpid()} {os.getppid()}".encode())
        time.sleep(600)
    elif what == "subprocess":
        child = subprocess.Popen(["sleep", "600"])
        objects.put(key, f"{os.getpid()} {child.pid}".encode())
        time.sleep(600)
    elif what == "leave":
        objects.put(key, str(subprocess.Popen(["sleep", "600"]).pid).encode())
    elif what == "kill":
        note(2)
        note(3)
        objects.put(f"{key}/nonce", nonce.encode())
        os.killpg(0, signal.SIGKILL)  # whatever other processes are in its group
    elif what == "impatient":  # the host answers its first request when nobody waits for that any more
        invoker = provider.invoker(resources)
        wire._ANSWER_S = 0.2
        os.kill(os.getppid(), signal.SIGSTOP)
        first = {"app": order["app"], "do": "write", "key": f"{key}/late", "fill": "x" * 250_000}  # more than the channel holds
        said = [_try(invoker, WORKER, first)]
        os.kill(os.getppid(), signal.SIGCONT)
        wire._ANSWER_S = 60.0
        inherited_channel = wire.inherited()
        assert inherited_channel is not None
        inherited_channel._connection.settimeout(60)
        said += [_try(invoker, "another", {}), _try(invoker, WORKER, {"app": order["app"], "do": "write", "key": f"{key}/next"})]
        objects.put(f"{key}/said", json.dumps(said).encode())
    elif what == "raise":
        raise RuntimeError("on purpose")
    elif what == "garbage":  # to the host, on the function's own channel
        os.write(int(os.environ["FSD_LOCAL_HOST"].partition(":")[2]), b"\xff" * 1000)
        objects.put(key, b"sent")
    return int(order.get("code", 0))


def _try(invoker: InvokeDriver, name: str, order: dict[str, object]) -> str:
    try:
        invoker.invoke(name, json.dumps(order).encode())
    except (OSError, ValueError) as error:
        return invoker.classify(error).value
    return "accepted"


def report_exit(payload: bytes, provider: Provider, reason: str, *, nonce: str, layer: int | None, said: object) -> None:
    order = json.loads(payload)
    key = order["probe"]["key"] if "probe" in order else order["key"]
    provider.objects(provider.attach(order["app"])).put(f"{key}/report", json.dumps([reason, layer, nonce]).encode())
