"""A main.py for the tests of the local Cloud Run: the request says what to do."""

from __future__ import annotations

import json
import os
from typing import Any

from behaviour import behave

CALLS = 0

if os.environ.get("BROKEN"):
    raise RuntimeError("broken on purpose")


def handle(request: Any) -> Any:
    global CALLS
    CALLS += 1
    event = json.loads(request.get_data() or b"{}")
    what = event.get("do")
    behave(event)
    if what == "environment":
        return dict(os.environ)
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
    if what == "large":
        return "x" * event["bytes"]
    return {
        "event": event if len(str(event)) < 1 << 16 else None,
        "pid": os.getpid(),
        "calls": CALLS,
        "headers": dict(request.headers),
        "path": request.path,
        "query": request.args.to_dict(flat=False),
    }
