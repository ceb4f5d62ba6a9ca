"""Functions for the tests of the local Lambda: the event says what to do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

CALLS = 0


def handler(event: dict[str, Any], context: Any) -> Any:
    global CALLS
    CALLS += 1
    what = event.get("do", "echo")
    if "file" in event:
        with open(event["file"], "a") as file:
            file.write(f"{context.aws_request_id} {os.getpid()} {time.time()}\n")
    print("a function printed this")
    if what == "echo":
        return {"event": event, "pid": os.getpid(), "calls": CALLS, "left_ms": context.get_remaining_time_in_millis()}
    if what == "environment":
        return dict(os.environ)
    if what == "path":
        return {"path": sys.path, "cwd": os.getcwd(), "file": __file__, "modules": sorted(sys.modules)}
    if what == "sleep":
        time.sleep(event["seconds"])
    elif what == "grow":
        held = bytearray(event["mb"] << 20)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(600)
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(event["code"])
    elif what == "raise":
        raise RuntimeError("on purpose")
    elif what == "large":
        return "x" * event["bytes"]
    elif what == "wait":
        while not Path(event["until"]).exists():
            time.sleep(0.02)
    elif what == "thread":  # which goes on after the handler has returned
        threading.Thread(target=_tick, args=(event["ticks"],), daemon=True).start()
    elif what == "loop":
        import boto3

        client = boto3.client("lambda")
        again = json.dumps({**event, "depth": event["depth"] + 1})
        if event["depth"] < event["limit"]:
            answer = client.invoke(FunctionName=context.function_name, InvocationType=event["kind"], Payload=again)
            if "FunctionError" in answer:
                raise RuntimeError(answer["Payload"].read())
    return os.getpid()


def _tick(path: str) -> None:
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.005)
