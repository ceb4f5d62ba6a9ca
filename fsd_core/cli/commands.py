"""All commands of ``fsd``."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from importlib.metadata import version
from typing import Any

import click

__all__ = ["root"]


class _Commands(UserDict[str, Any]):
    """Commands by name. A command is imported when it is looked up, because all of them together take half a second."""

    def __getitem__(self, name: str) -> click.Command:
        module, attribute = self.data[name].split(".")
        found: click.Command = getattr(import_module(f"fsd_core.cli.{module}"), attribute)
        return found


# The module of each command in this package, and its name there.
_COMMANDS = _Commands(
    {
        "run": "run.run",
        "plan": "plan.plan",
        "measure": "measure.measure",
        "compare": "compare.compare",
        "report": "report.report",
        "logs": "logs.logs",
        "runs": "logs.runs",
        "partition": "partition.partition",
        "model": "model.group",
        "bill": "cost.bill",
        "tariff": "cost.group",
        "demo": "demo.demo",
        "deploy": "apps.deploy",
        "destroy": "apps.destroy",
        "gc": "apps.gc",
        "clean": "apps.clean",
        "audit": "audit.audit",
        "emulators": "emulators.group",
        "conformance": "conformance.conformance",
        "provider": "provider.group",
        "doctor": "doctor.doctor",
    }
)


@click.group(
    commands=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog="Start with: fsd demo"
)
@click.version_option(version("fsd-inference"), prog_name="fsd")
def root() -> None:
    """Fully serverless distributed inference: run a large model on many short functions.

    fsd splits a model that is too large for one function over many functions, on a cloud or on this machine. Nothing keeps running between
    runs.
    """
