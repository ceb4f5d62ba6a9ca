"""The entry point that AWS Lambda calls: ``fsd_aws.handler.handler.handler``."""

from __future__ import annotations

import json
from typing import Any

from fsd_aws import PROVIDER, invoke, messages, objects  # noqa: F401  # imported while the environment starts, opened by the worker
from fsd_core.worker import handle

__all__ = ["handler"]


def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Run one launch: ``event`` is its payload. A code other than 0 has been reported to client and peers, so it raises nothing."""
    return {"code": handle(json.dumps(event).encode(), PROVIDER, nonce=context.aws_request_id)}
