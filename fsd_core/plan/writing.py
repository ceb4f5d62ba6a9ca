"""Writes a plan's choice as ``fsd.toml``, the configuration file that ``fsd run`` reads."""

from __future__ import annotations

import json
from pathlib import Path

from fsd_core.common.files import check_file, write_file
from fsd_core.plan.making import Plan

__all__ = ["HEAD", "check_settings", "settings_text", "write_settings"]

HEAD = "# Written by fsd plan."


def check_settings(path: Path) -> None:
    """Raise `InputError` unless `write_settings` can write ``path``: it replaces only a file that it made."""
    check_file("write", path, HEAD)


def settings_text(plan: Plan) -> str:
    """The content of the file: the choice as keys of ``fsd run``, with the reason as a comment."""
    lines = [HEAD, f"# {' '.join(plan.reason.split())}"]
    for name, keys in plan.settings().items():
        lines += ["", f"[{name}]"] if name else [""]
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]  # texts and numbers of JSON are those of TOML
    return "\n".join(lines) + "\n"


def write_settings(plan: Plan, path: Path) -> None:
    """Write the file in one step. Raises `InputError` as `check_settings`."""
    write_file("write", path, settings_text(plan), HEAD)
