"""Functions for the tests of the local Lambda: the event says what to do."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from behaviour import behave

CALLS = 0


def handler(event: dict[str, Any], context: Any) -> Any:
    global CALLS
    CALLS += 1
    what = event.get("do")
    behave(event, context.aws_request_id, time.time())
    if what == "environment":
        return dict(os.environ)
    if what == "path":
        return {"path": sys.path, "cwd": os.getcwd(), "file": __file__, "modules": sorted(sys.modules)}
    if what == "thread":  # which goes on after the handler has returned
        threading.Thread(target=_tick, args=(event["ticks"],), daemon=True).start()
    elif what == "loop":
        import boto3

        client = boto3.client("lambda")
        again = json.dumps({**event, "depth": event["depth"] + 1})
        if event["depth"] < event["limit"]:
            answer = client.invoke(FunctionName=context.function_name, InvocationType=event["kind"], Payload=again)
            if "FunctionError" in answer:
                raise RuntimeError(answer["Payload"].read())
    kept = {name: value for name, value in event.items() if name != "x"}  # which fills an event up to a size
    return {"event": kept, "pid": os.getpid(), "calls": CALLS, "left_ms": context.get_remaining_time_in_millis()}


def _tick(path: str) -> None:
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.005)
