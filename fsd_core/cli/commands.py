"""All commands of ``fsd``. Importing this module takes long, so `main` imports it only after its signal handlers are set."""

from __future__ import annotations

from importlib.metadata import version

import click

from fsd_core.cli import (
    apps,
    audit,
    compare,
    conformance,
    cost,
    demo,
    doctor,
    emulators,
    logs,
    measure,
    model,
    partition,
    plan,
    provider,
    report,
    run,
)

__all__ = ["root"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog="Start with: fsd demo")
@click.version_option(version("fsd-inference"), prog_name="fsd")
def root() -> None:
    """Fully serverless distributed inference: run a large model on many short functions.

    fsd splits a model that is too large for one function over many functions, on a cloud or on this machine. Nothing keeps running between
    runs.
    """


for command in (
    run.run, plan.plan, measure.measure, compare.compare, report.report, logs.logs, logs.runs,
    partition.partition, model.group, cost.bill, cost.group, demo.demo, apps.deploy, apps.destroy,
    apps.gc, apps.clean, audit.audit, emulators.group, conformance.conformance, provider.group, doctor.doctor,
):  # fmt: skip
    root.add_command(command)
