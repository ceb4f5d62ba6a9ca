"""``fsd compare``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fsd_core import providers
from fsd_core.cli.options import SPLIT, Command, as_flags, reporting, with_settings
from fsd_core.cli.screen import Screen
from fsd_core.common.fields import choice, integer
from fsd_core.common.home import home_folder
from fsd_core.config import ANY, PATH, Settings
from fsd_core.errors import InputError, RunFailed
from fsd_core.partition import AUTO, parallel
from fsd_core.protocol.runconfig import CHANNELS
from fsd_core.report.writing import check_comparison, write_comparison

if TYPE_CHECKING:
    from rich.table import Table

    from fsd_core.report.compare import Comparison

__all__ = ["compare"]

KEYS = (
    "data_parallel", "pipeline_parallel", "tensor_parallel", "branching", "partition", "objective", "batch_size", "timeout", "outage",
    "audit_log", "seed", "app", "emulator", "latency",
)  # fmt: skip
COUNTS = "2,4,8"


class _Compare(Command):
    """``--latency`` without a value, at the end or before another flag, means auto: each provider has its own table."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        alone = {at for at in range(end) if args[at] == "--latency" and (at + 1 == len(args) or args[at + 1].startswith("-"))}
        return super().parse_args(ctx, [f"{arg}=auto" if at in alone else arg for at, arg in enumerate(args)])


@click.command(
    cls=_Compare,
    epilog="""\b
Examples:
  fsd compare radixnet:1024:24 digits --providers local,aws --emulator
  fsd compare model/ input.npz --providers aws,gcp,azure --channels queue,object --report compared.html
  fsd compare model/ input.npz --providers aws,gcp,azure --emulator --latency auto,seed=1
""",
)
@click.argument("model")
@click.argument("inputs", metavar="INPUT")
@click.option("--providers", "wanted_providers", metavar="A,B,...", required=True, help="Providers to run on, for instance local,aws.")
@click.option("--channels", default="queue,object,hybrid", show_default=True, metavar="A,B,...", help="Channels to run with.")
@click.option(
    "--workers",
    metavar="N,N,...",
    help=f"Numbers of workers to run with (default: {COUNTS}, or the product of the three --...-parallel if one is given).",
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

    With --latency auto, or --latency without a value, the requests of each provider take as long as its own table of latencies says.
    """
    from fsd_core.report.comparing import compare as compare_runs

    names = _words("--providers", wanted_providers, providers.installed())
    chosen_channels = _words("--channels", channels, CHANNELS)
    counts = _counts(settings, workers)
    times = integer(1).read_text(repeat, "--repeat ")
    if settings.emulator not in (None, ANY):
        raise InputError(
            f"--emulator {settings.emulator!r}: expected --emulator without a name, because each provider has its own emulators"
        )
    report, table = _outputs(report, table)
    command = _command(settings, model, inputs, names, chosen_channels, counts, times)
    with screen.progress() as show, as_flags("partition", "providers", *SPLIT):
        found = compare_runs(
            model,
            inputs,
            names,
            channels=chosen_channels,
            workers=counts,
            repeat=times,
            emulator=settings.emulator is not None,
            settings=settings.tables,
            home=home_folder(),
            note={"command": command},
            progress=reporting(show),
            **{key: getattr(settings, key) for key in KEYS if key != "emulator"},
        )
    failures = found.failures()
    lines = "; ".join(text for _, text in failures)
    error = {"error": {"code": failures[0][0].name, "rank": None, "layer": None, "message": lines}} if failures else {}
    _answer(screen, found, error, report, table)
    if failures:
        raise RunFailed(failures[0][0], lines)


def _counts(settings: Settings, workers: str | None) -> list[int]:
    """The numbers of workers to run with."""
    if workers is None:
        if settings.data_parallel or settings.pipeline_parallel or settings.tensor_parallel:
            sizes = (settings.data_parallel, settings.pipeline_parallel, settings.tensor_parallel)
            return [parallel(AUTO, *sizes).workers]
        workers = COUNTS
    counts = [integer(1).read_text(word, "--workers ") for word in _split("--workers", workers)]
    if len(set(counts)) < len(counts):
        raise InputError(f"--workers {workers!r}: a number is given twice: expected each number once")
    return counts


def _answer(screen: Screen, found: Comparison, error: Mapping[str, Any], report: str | None, table: str | None) -> None:
    """Write the files first, so that the answer names files that exist."""
    write_comparison(found, report, csv=table)
    screen.answer({**found.to_json(), "report": report, "csv": table, **error})
    files = (f"{name}: {path}" for name, path in (("Page", report), ("CSV", table)) if path)
    screen.print(found.headline, "", _table(found), *found.notes(), *files)


def _table(found: Comparison) -> Table:
    from rich.table import Table
    from rich.text import Text

    from fsd_core.report.compare import COLUMNS

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="Median of each", title_justify="left", title_style="bold")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("channel", "provider", "time", "predicted") else "right")
    for row in found.rows():
        shown.add_row(*map(Text, row))
    return shown


def _outputs(report: str | None, table: str | None) -> tuple[str | None, str | None]:
    """The paths of both files. Raises `InputError` if one cannot be written."""
    report = None if report is None else str(PATH.read_text(report, "--report "))
    table = None if table is None else str(PATH.read_text(table, "--csv "))
    with as_flags("report", "csv"):
        check_comparison(report, table, "report")
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


def _words(flag: str, text: str, known: Sequence[str]) -> list[str]:
    kind = choice(*known)
    return [kind.read_text(word, f"{flag} ") for word in _split(flag, text)]
