"""``fsd logs`` and ``fsd runs``: the log lines of the workers of a past run, and how past runs ended."""

from __future__ import annotations

import time

import attrs
import click

from fsd_core.cli.options import Checked, Command, with_settings
from fsd_core.cli.screen import Screen
from fsd_core.client.history import RunLog, read_log
from fsd_core.common.amount import counted
from fsd_core.common.fields import integer
from fsd_core.common.home import home_folder
from fsd_core.common.logs import Line, masked
from fsd_core.config import Settings
from fsd_core.errors import InputError

__all__ = ["logs", "runs"]


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd runs
  fsd logs 027e31da6bd78f6a
  fsd logs 027e --rank 3
  fsd logs 027e --json | jq -r '.lines[] | select(.level != "info") | .text'
""",
)
@click.argument("run")
@click.option("--rank", type=Checked(integer(0)), metavar="R", help="Only the lines of this worker.")
@with_settings()
def logs(screen: Screen, settings: Settings, run: str, rank: int | None) -> None:
    """Print the log lines of the workers of a past run.

    RUN is the id of a run, or its first characters. fsd run prints the id, and fsd runs lists the past runs. The lines are in the order of
    their times; each has the rank of its worker. The clocks of two functions may differ.

    fsd keeps the lines of a run also if it failed or was interrupted. A worker keeps at most 64 KB: the first and the last lines. With fsd
    run -vv, workers also keep debug lines, one for each request to a queue. If a cloud killed a function, its last lines may be missing
    here, because a worker saves its lines only now and then; the log of the platform has all lines.
    """
    past = read_log(run, home_folder())
    if rank is not None and rank >= past.workers:
        raise InputError(f"--rank {rank}: run {past.run} has {past.workers} workers: expected a rank from 0 to {past.workers - 1}")
    ranks = range(past.workers) if rank is None else (rank,)
    lines = sorted(((line, each) for each in ranks for line in past.lines.get(each, ())), key=lambda pair: pair[0].at)
    silent = [each for each in ranks if each not in past.lines]
    shown = {"run": past.run, "state": past.state, "error": past.error, "ranks_without_lines": silent}
    screen.answer(shown | {"lines": [{"rank": each, **attrs.asdict(line)} for line, each in lines]})
    width = len(str(past.workers - 1))
    screen.print(
        f"run {past.run}: {past.state} after {past.seconds:.1f} s, {counted(past.workers, 'worker')} on {past.provider}",
        *(_shown(line, f"{each:>{width}}") for line, each in lines),
        *([f"{_ranks(silent)} left no lines"] if silent else []),
        *_end(past, rank),
    )


def _shown(line: Line, rank: str) -> str:
    return f"{rank}  {attrs.evolve(line, text=masked(line.text))}"


def _ranks(ranks: list[int]) -> str:
    names = ", ".join(map(str, ranks[:16])) + (f" and {len(ranks) - 16} more" if len(ranks) > 16 else "")
    return f"rank{'s' * (len(ranks) > 1)} {names}"


def _end(past: RunLog, rank: int | None) -> list[str]:
    """The reason of a failed run, if it is about ``rank`` or all ranks are shown."""
    failure = past.failure
    if failure is None or (rank is not None and failure.rank not in (rank, None)):
        return []
    where = [f"rank {failure.rank}"] if failure.rank is not None else []
    where += [f"layer {failure.layer}"] if failure.layer is not None else []
    return [": ".join([f"the run failed: {failure.code}", *([", ".join(where)] if where else []), masked(failure.message)])]


@click.command("runs", cls=Command, epilog="Example: fsd runs --json")
@click.option("--accuracy", is_flag=True, help="Show the errors of the predictions of these runs: seconds, requests, bytes and USD.")
@with_settings()
def runs(screen: Screen, settings: Settings, accuracy: bool) -> None:
    """List the past runs.

    Shows for each run its id, when it began, its model, provider, seconds and cost in US dollars, and how it ended: done, failed with a
    code, or interrupted. The cost is that of the provider's tariff; a run that failed has none, because its counts are not complete.
    fsd logs RUN prints the log lines of the workers; fsd report RUN makes a page of a run that was done.
    """
    from fsd_core.report import past_runs

    home = home_folder()
    if accuracy:
        _accuracy(screen)
        return
    found = past_runs(home)
    screen.answer({"runs": [attrs.asdict(row) for row in found]})
    if not found:
        screen.print(f"no past runs in {home / 'runs'}: fsd run makes one, for instance: fsd run radixnet:1024:12 random:60")
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("run", "when", "model", "provider", "seconds", "US dollars", "state"):
        shown.add_column(name, justify="right" if name in ("seconds", "US dollars") else "left", no_wrap=name != "model")
    for row in found:
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        usd = "" if row.usd is None else f"{row.usd:.6f}"
        state = row.state if row.code is None else f"{row.state} {row.code}"
        when = "" if row.began is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.began))
        shown.add_row(*(Text(word or "") for word in (row.run, when, row.model, row.provider, seconds, usd, state)))
    screen.print(shown)


def _accuracy(screen: Screen) -> None:
    """Print the errors of the predictions of past runs."""
    from rich.table import Table

    from fsd_core.report import prediction_accuracy

    found = prediction_accuracy(home_folder())
    screen.answer({"accuracy": [attrs.asdict(row) for row in found]})
    if not found:
        screen.print("no past run has a prediction to compare with: a run that fsd can plan leaves one in its record")
        return
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title="Predicted less actual", title_justify="left")
    for name in ("part", "runs", "median", "median size", "largest"):
        shown.add_column(name, justify="left" if name == "part" else "right")
    for row in found:
        shown.add_row(row.part, str(row.runs), f"{row.median:+.0%}", f"{row.median_size:.0%}", f"{row.largest:+.0%}")
    screen.print(shown)
