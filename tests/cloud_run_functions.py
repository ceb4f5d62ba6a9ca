"""A main.py for the tests of the local Cloud Run: the request says what to do."""

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

if os.environ.get("BROKEN"):
    raise RuntimeError("broken on purpose")


def handle(request: Any) -> Any:
    global CALLS
    CALLS += 1
    event = json.loads(request.get_data() or b"{}")
    what = event.get("do", "echo")
    print("a function printed this")
    if "file" in event:
        with open(event["file"], "a") as file:
            file.write(f"{os.getpid()}\n")
    if what == "environment":
        return dict(os.environ)
    if what == "modules":
        return {"path": sys.path, "file": __file__, "modules": sorted(sys.modules)}
    if what == "identity":
        import google.auth
        import google.auth.transport.requests
        from google.oauth2 import id_token

        found: tuple[Any, str | None] = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        credentials, project = found
        ask = google.auth.transport.requests.Request()
        credentials.refresh(ask)
        token = id_token.fetch_id_token(ask, event["audience"])
        return {"project": project, "email": credentials.service_account_email, "access": credentials.token, "identity": token}
    if what == "grow":
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
        if "done" in event:
            Path(event["done"]).touch()
    return {
        "event": event if len(str(event)) < 1 << 16 else None,
        "pid": os.getpid(),
        "calls": CALLS,
        "headers": dict(request.headers),
        "path": request.path,
        "query": request.args.to_dict(flat=False),
        "thread": threading.current_thread() is threading.main_thread(),
    }
