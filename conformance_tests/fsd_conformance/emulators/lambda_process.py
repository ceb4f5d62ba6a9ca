"""A process of the local Lambda: ``lambda_process.py HANDLER SHIPPED`` runs the real runtime client.

If the handler's module cannot be imported, it is imported from the package SHIPPED, if given. `awslambdaric` is imported here, after any
fork: its native client reads the Runtime API's address at import.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import suppress

__all__ = ["warm"]


def warm() -> None:
    """Import the modules that boto3 imports with its first client."""
    with suppress(ImportError):
        session = importlib.import_module("boto3.session").Session("x", "x", region_name="us-east-1")
        session.client("sqs").close()


if __name__ == "__main__":
    handler, shipped = sys.argv[1:]
    module = handler.rpartition(".")[0].replace("/", ".")
    with suppress(ImportError, ValueError):
        if shipped and not importlib.util.find_spec(module.partition(".")[0]) and importlib.util.find_spec(f"{shipped}.{module}"):
            handler = f"{shipped}.{handler}"
    entry = importlib.import_module("awslambdaric.__main__")
    sys.argv = ["awslambdaric", handler]
    entry.main(sys.argv)
