"""The entry point that Google Cloud calls, by way of functions-framework: ``handle``, in ``main.py`` at the root of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsd_core.providers.http_invoke import NONCE
from fsd_core.worker import handle as work
from fsd_gcp import PROVIDER, invoke, messages, objects  # noqa: F401  # imported while the instance starts, opened by the worker

if TYPE_CHECKING:
    from flask import Request

__all__ = ["handle"]


def handle(request: Request) -> dict[str, int]:
    """Run one launch: the body is its payload. A code other than 0 has been reported to client and peers, so it is no error here."""
    return {"code": work(request.get_data(), PROVIDER, nonce=request.headers.get(NONCE))}
