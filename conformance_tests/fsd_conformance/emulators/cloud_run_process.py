"""An instance of the local Cloud Run: ``cloud_run_process.py SOURCE TARGET`` runs functions-framework on the inherited socket.

functions-framework serves with gunicorn: a master, which imports SOURCE, and a worker that it forks.
"""

from __future__ import annotations

import importlib
import sys

__all__: list[str] = []

if __name__ == "__main__":
    source, target = sys.argv[1:]
    config = importlib.import_module("gunicorn.config")
    if hasattr(config, "ControlSocketDisable"):  # in newer versions; all masters would share one socket in the user's home
        config.ControlSocketDisable.default = True
    if read := sys.modules.get("google.auth.compute_engine._metadata"):
        importlib.reload(read)  # it read the metadata server's address from the warm parent's environment
    entry = importlib.import_module("functions_framework._cli")  # the command `functions-framework`
    entry._cli(["--source", source, "--target", target, "--host", "127.0.0.1"])
