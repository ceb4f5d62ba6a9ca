"""The entry point that AWS Lambda calls: ``fsd_aws.handler.handler.handler``."""

from __future__ import annotations

import json
from typing import Any

import fsd_aws.invoke
import fsd_aws.messages
import fsd_aws.objects  # noqa: F401  # like the other two: what a worker needs is imported while the environment starts
from fsd_core.worker import handle

__all__ = ["handler"]


def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Run one launch: ``event`` is its payload. A code other than 0 has been reported to client and peers, so it raises nothing."""
    return {"code": handle(json.dumps(event).encode(), fsd_aws.PROVIDER, nonce=context.aws_request_id)}
