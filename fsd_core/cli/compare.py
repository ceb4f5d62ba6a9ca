"""``fsd compare``."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.table import Table
from rich.text import Text

from fsd_core import cost, providers
from fsd_core.cli.files import check_apart, check_file, write_file
from fsd_core.cli.options import Command, check_provider, emulated, with_settings
from fsd_core.cli.screen import Screen, Show
from fsd_core.client.batches import plan_batches
from fsd_core.common.fields import choice, integer
from fsd_core.common.home import home_folder
from fsd_core.config import ANY, PATH, TABLES, Settings
from fsd_core.cost import Bill, Tariff, Usage
from fsd_core.errors import FsdError, InputError, RunFailed
from fsd_core.partition import AUTO, Parallel, find_partition, parallel
from fsd_core.protocol.runconfig import CHANNELS
from fsd_core.report.compare import CSV_START, Case, Comparison, Where, spread, take_turns
from fsd_core.report.figures import FIGURES
from fsd_core.versions import versions

if TYPE_CHECKING:
    from fsd_core import Result
    from fsd_core.model import Model

__all__ = ["compare"]

SIZES = ("data_parallel", "pipeline_parallel", "tensor_parallel")
KEYS = (*SIZES, "branching", "partition", "objective", "batch_size", "timeout", "outage", "seed", "app", "emulator")
COUNTS = "2,4,8"
CSV_MARK = ",".join(CSV_START)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd compare radixnet:1024:24 digits --providers local,aws --emulator
  fsd compare model/ input.npz --providers aws,gcp,azure --channels queue,object --report compared.html
""",
)
@click.argument("model")
@click.argument("inputs", metavar="INPUT")
@click.option("--providers", "wanted_providers", metavar="A,B,...", required=True, help="Providers to run on, for instance local,aws.")
@click.option("--channels", default="queue,object,hybrid", show_default=True, metavar="A,B,...", help="Channels to run with.")
@click.option(
    "--workers",
    metavar="N,N,...",
    help=f"Numbers of workers to run with (default: {COUNTS}, or the product of the three sizes if one is given).",
)
@click.option("--repeat", default="3", show_default=True, metavar="N", help="Number of measured runs of each combination.")
@click.option("--report", metavar="OUT.html", help="Write the comparison as one HTML page. The page loads nothing from the network.")
@click.option("--csv", "table", metavar="OUT.csv", help="Write a CSV table with a row for each combination.")
@with_settings(*KEYS)
def compare(
    screen: Screen, settings: Settings, model: str, inputs: str, wanted_providers: str, channels: str, workers: str | None, repeat: str,
    report: str | None, table: str | None,
) -> None:  # fmt: skip
    """Compare time, requests, bytes and money of MODEL on INPUT.

    Runs the same model and partition with every combination of provider, channel and number of workers. The bill of a run uses the default
    tariff of its provider. If two outputs differ, the command compares nothing (exit code 1). If a provider cannot start, the command runs
    the others, and its answer contains the reason (exit code 3).

    First, the command runs each pair of provider and number of workers once without measuring: this run makes the resources and writes the
    weights into the store. Then it runs each combination in turn, and repeats this --repeat times.
    """
    from fsd_core.model import open_model
    from fsd_core.model.inputs import open_inputs

    names = _words("--providers", wanted_providers, dict.fromkeys((*TABLES, *providers.installed())))
    chosen_channels = _words("--channels", channels, dict.fromkeys(CHANNELS))
    splits = _splits(settings, workers)
    counts = [split.workers for split in splits]
    times = integer(1).read_text(repeat, "--repeat ")
    if settings.emulator not in (None, ANY):
        raise InputError(
            f"--emulator {settings.emulator!r}: expected --emulator without a name, because each provider has its own emulators"
        )
    if settings.partition not in ("hypergraph", "random", "block") and len(counts) > 1:
        raise InputError(f"--partition {settings.partition}: expected one number in --workers: the number of workers of this partition")
    report, table = _outputs(report, table)
    network = open_model(model)
    samples = open_inputs(inputs, network.inputs)
    about: dict[str, Any] = {"command": _command(settings, model, inputs, names, chosen_channels, counts, times)}
    about |= {"model": model, "input": inputs, "samples": samples.shape[0], "neurons": network.neurons, "layers": len(network.layers)}
    about |= {key: getattr(settings, key) for key in (*SIZES, "branching", "partition", "objective", "batch_size", "seed")}
    about |= {"repeat": times, "began": time.strftime("%Y-%m-%d %H:%M:%S %z"), "model digest": network.digest} | versions(*names)
    about = {key: value for key, value in about.items() if value is not None}
    cases = [Case(name, way, count) for count in counts for way in chosen_channels for name in names]
    with screen.progress() as show, contextlib.ExitStack() as stack:
        for split in splits:  # an error here would stop all runs: it is found before anything starts
            find_partition(
                settings.partition,
                network,
                split.parts,
                settings.seed,
                home_folder(),
                lambda done, total: show("partition", done, total, ""),
                stages=split.pipeline,
                costs=plan_batches(network, samples, settings.batch_size, split)[1],
            )
        tariffs = {name: _tariff(name) for name in names}
        ready, wheres = _start(stack, settings, names, tariffs, show)
        found = Comparison(
            about,
            wheres,
            take_turns(
                cases,
                times,
                wheres,
                lambda case: _run(network, samples, ready[case.provider], case, {"model": model, "input": inputs}),
                lambda record: _bill(record, tariffs[record["provider"]]),
                lambda done, total, text: show("compare", done, total, text),
            ),
        )
    failures = found.failures()
    lines = "; ".join(text for _, text in failures)
    error = {"error": {"code": failures[0][0].name, "rank": None, "layer": None, "message": lines}} if failures else {}
    _answer(screen, found, error, report, table)
    if failures:
        raise RunFailed(failures[0][0], lines)


def _splits(settings: Settings, workers: str | None) -> list[Parallel]:
    """Replicas, stages and ranks of a stage for each number of workers."""
    sizes = [getattr(settings, key) for key in SIZES]
    if workers is None:
        if any(sizes):
            return [parallel(AUTO, *sizes)]
        workers = COUNTS
    counts = [integer(1).read_text(word, "--workers ") for word in _split("--workers", workers)]
    if len(set(counts)) < len(counts):
        raise InputError(f"--workers {workers!r}: a number is given twice: expected each number once")
    return [parallel(count, *sizes) for count in counts]


def _start(
    stack: contextlib.ExitStack, settings: Settings, names: list[str], tariffs: Mapping[str, Tariff], show: Show
) -> tuple[dict[str, Settings], dict[str, Where]]:
    """The settings for each provider that can start, its emulator started; and for all providers the emulator, the tariff and the error."""
    ready: dict[str, Settings] = {}
    wheres: dict[str, Where] = {}
    for name in names:
        own = attrs.evolve(settings, provider=name, emulator=None if name == "local" else settings.emulator)
        where = wheres[name] = Where(None, tariffs[name].name)
        try:
            check_provider(own)
            where.emulator = providers.find(name).stand_in()
            ready[name] = stack.enter_context(emulated(own, lambda text: show("emulator", 0, 0, text), start=True))
            if own.emulator:
                from fsd_conformance import emulators

                running = emulators.state(name)
                where.emulator = running.name if running and running.alive() else emulators.names(name)[0]
        except (FsdError, OSError, ImportError) as error:
            where.error = " ".join(str(error).split())
    return ready, wheres


def _run(network: Model, samples: Any, settings: Settings, case: Case, note: Mapping[str, str]) -> Result:
    from fsd_core import run

    keys = [key for key in KEYS if key != "emulator"]
    same = {key: getattr(settings, key) for key in keys}
    return run(
        network,
        samples,
        provider=case.provider,
        channel=case.channel,
        workers=case.workers,
        settings=settings.table(),
        home=home_folder(),
        note=note,
        **same,
    )


def _tariff(provider: str) -> Tariff:
    name = cost.default_tariff(provider)
    if name is None:
        raise InputError(
            f"--providers {provider}: fsd has no tariff for this provider: expected providers with a tariff (see: fsd tariff list)"
        )
    return cost.load(name)


def _bill(record: Mapping[str, Any], tariff: Tariff) -> Bill:
    return cost.bill(Usage.of_run(record), tariff)


def _answer(screen: Screen, found: Comparison, error: Mapping[str, Any], report: str | None, table: str | None) -> None:
    """Write the files first, so that the answer names files that exist."""
    if report is not None:
        from fsd_core.report import comparison_page
        from fsd_core.report.page import MARK

        write_file("--report", Path(report), comparison_page(found), MARK)
    if table is not None:
        write_file("--csv", Path(table), found.to_csv(), CSV_MARK)
    screen.answer({**found.to_json(), "report": report, "csv": table, **error})
    doubted = sorted({f"{price.service} {price.sku}" for cell in found.cells for run in cell.runs for price in run.bill.doubted})
    notes = [f"* with a price of low confidence: {', '.join(doubted)}"] if doubted else []
    notes += [text for _, text in found.failures()] + found.left_out()
    screen.print(_table(found), *notes, *(f"{name}: {path}" for name, path in (("Page", report), ("CSV", table)) if path))


def _table(found: Comparison) -> Table:
    """A row for each case: the median of each figure; for the time also the lowest and the highest."""
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="Median of each", title_justify="left", title_style="bold")
    for name in ("workers", "channel", "provider", "time", "requests", "MB", "USD for 1000"):
        rows.add_column(name, justify="left" if name in ("channel", "provider", "time") else "right")
    for cell in found.cells:
        head = [str(cell.case.workers), cell.case.channel, cell.case.provider]
        if found.why(cell):
            rows.add_row(*head, Text("failed, see below" if cell.error else "cannot start"))
            continue
        seconds, requests, sizes, usd = (spread(figure, cell) for figure in FIGURES)
        span = f"{seconds[0]:.2f} s" + (f" ({seconds[1]:.2f} to {seconds[2]:.2f})" if len(cell.runs) > 1 else "")
        mark = "*" if cell.runs[0].bill.doubted else ""
        rows.add_row(*head, span, f"{requests[0]:.0f}", f"{sizes[0] / 1e6:.2f}", f"{usd[0]:.4f}{mark}")
    return rows


def _outputs(report: str | None, table: str | None) -> tuple[str | None, str | None]:
    """The paths of both files. Raises `InputError` if one cannot be written."""
    if report is not None:
        from fsd_core.report import check_page
        from fsd_core.report.page import MARK

        check_page()
        report = str(PATH.read_text(report, "--report "))
        check_file("--report", Path(report), MARK)
    if table is not None:
        table = str(PATH.read_text(table, "--csv "))
        check_file("--csv", Path(table), CSV_MARK)
    check_apart(report=report, csv=table)
    return report, table


def _command(
    settings: Settings, model: str, inputs: str, names: list[str], chosen_channels: list[str], counts: list[int], times: int
) -> str:
    """The command line that repeats this comparison."""
    words = ["fsd", "compare", model, inputs, "--providers", ",".join(names), "--channels", ",".join(chosen_channels)]
    words += ["--workers", ",".join(map(str, counts)), "--repeat", str(times)]
    words += [word for key in KEYS if key != "emulator" and (value := getattr(settings, key)) != getattr(Settings(), key)
        for word in (f"--{key.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value))]  # fmt: skip
    return shlex.join(words + (["--emulator"] if settings.emulator else []))


def _split(flag: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise InputError(f"{flag} {text!r}: {twice!r} is given twice: expected each name once")
    return words


def _words(flag: str, text: str, known: Mapping[str, None]) -> list[str]:
    kind = choice(*known)
    return [kind.read_text(word, f"{flag} ") for word in _split(flag, text)]
