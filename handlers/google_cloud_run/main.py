"""The entry point that Google Cloud calls through functions-framework: ``handle``, in ``main.py`` at the root of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsd_core.providers.http_invoke import NONCE
from fsd_core.worker import handle as work
from fsd_gcp import PROVIDER, invoke, messages, objects  # noqa: F401  # imported while the instance starts, opened by the worker

if TYPE_CHECKING:
    from flask import Request

__all__ = ["handle"]


def handle(request: Request) -> dict[str, int]:
    """Run one launch with the request's body as payload. A failed worker reports that to client and peers itself, so this answers 200."""
    return {"code": work(request.get_data(), PROVIDER, nonce=request.headers.get(NONCE))}
