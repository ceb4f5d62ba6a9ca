"""The entry point that AWS Lambda calls: ``fsd_aws.handler.handler.handler``."""

from __future__ import annotations

import json
from typing import Any

from fsd_aws import PROVIDER, invoke, messages, objects  # noqa: F401  # imported at the cold start; the worker connects
from fsd_core.worker import handle

__all__ = ["handler"]


def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Run one launch with the payload ``event``. A failed worker itself informs the client and the other workers, so this function never
    raises.
    """
    return {"code": handle(json.dumps(event).encode(), PROVIDER, nonce=context.aws_request_id)}
