"""``fsd partition``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from fsd_core.cli.options import SPLIT, Command, as_flags, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.amount import counted
from fsd_core.config import Settings
from fsd_core.errors import InputError

__all__ = ["partition"]


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd partition radixnet:1024:120 --workers 8 p8.npz
  fsd run radixnet:1024:120 digits --workers 8 --partition p8.npz
  fsd partition radixnet:1024:120 --pipeline-parallel 4 --tensor-parallel 2 p4x2.npz
  fsd partition radixnet:16384:120 --workers 42 --estimate
""",
)
@click.argument("model")
@click.argument("out", required=False)
@click.option("--estimate", is_flag=True, help="Print an estimate of rows_moved, from a few layers, and write no partition.")
@with_settings("workers", "pipeline_parallel", "tensor_parallel", "partition", "seed", flags={"partition": "--method"})
def partition(screen: Screen, settings: Settings, model: str, out: str | None, estimate: bool) -> None:
    """Divide the rows of a model among workers.

    With --pipeline-parallel, first divides the layers into stages. All replicas of a run have the same partition, so the workers here are
    those of one replica.

    Writes OUT, an .npz file for fsd run --partition. It holds the number of the worker that owns each row of MODEL. An existing OUT is
    replaced only if it is a partition. The same seed gives the same partition.

    Prints how many rows the workers will send to each other: rows_moved counts a row once for each worker that receives it, over layers 2
    to L. --estimate takes a fraction of the time: it counts the rows before some layers only, and interpolates those before the other
    layers.
    """
    if estimate:
        _estimate(screen, settings, model, out)
        return
    if out is None:
        raise InputError("the argument OUT is missing: expected the path of the partition to write, or --estimate")
    from fsd_core.model import open_model
    from fsd_core.partition import ExchangePlan, parallel
    from fsd_core.partition import partition as divide

    with as_flags(*SPLIT):
        split = parallel(settings.workers, 1, settings.pipeline_parallel, settings.tensor_parallel)
    network = open_model(model)
    known = {"workers": split.workers, "parallel": split.to_json()}
    screen.known.update(known, method=settings.partition)
    start = time.monotonic()
    with screen.progress() as show, as_flags(*SPLIT):
        made = divide(
            network,
            split.workers,
            settings.partition,
            settings.seed,
            lambda done, total: show("partition", done, total, ""),
            stages=split.pipeline,
        )
    seconds = time.monotonic() - start
    figures = ExchangePlan(network, made).figures() | {"seconds": seconds}
    made.save(Path(out))
    first = [start + 1 for start in made.starts]
    screen.answer(figures | known | {"method": made.label, "first_layers": first})
    rows = [
        (name, f"{value:.3f}" if isinstance(value, float) else f"{value}") for name, value in figures.items() if not isinstance(value, list)
    ]
    if split.pipeline > 1:
        rows.append(("first layers", ", ".join(map(str, first))))
    screen.print(pairs(f"{out}: {counted(split.workers, 'worker')}, {made.label}", rows))


def _estimate(screen: Screen, settings: Settings, model: str, out: str | None) -> None:
    """``fsd partition --estimate``."""
    from fsd_core.model import open_model
    from fsd_core.partition import estimate, parallel

    if out is not None:
        raise InputError(f"--estimate writes no partition: expected no argument {out}, or no --estimate")
    if settings.partition != "hypergraph":
        raise InputError(f"--estimate --method {settings.partition}: expected hypergraph; the other methods are fast without an estimate")
    with as_flags(*SPLIT):
        split = parallel(settings.workers, 1, settings.pipeline_parallel, settings.tensor_parallel)
    if split.pipeline > 1:
        raise InputError(f"--estimate --pipeline-parallel {split.pipeline}: expected 1 stage; make the partition to count its rows")
    network = open_model(model)
    screen.known.update(workers=split.workers, parallel=split.to_json(), method="hypergraph", estimated=True)
    start = time.monotonic()
    with screen.progress() as show, as_flags(*SPLIT):
        found = estimate(network, split.workers, settings.seed, lambda done, total: show("estimate", done, total, ""))
    seconds = time.monotonic() - start
    screen.answer(found.to_json() | {"parallel": split.to_json(), "method": "hypergraph", "seconds": seconds})
    before = len(network.layers) - 1
    rows = [
        ("rows_moved", f"about {found.rows_moved}"),
        ("counted", f"before {len(found.counted)} of {counted(before, 'layer')}"),
        ("seconds", f"{seconds:.3f}"),
    ]
    screen.print(pairs(f"estimate: {counted(split.workers, 'worker')}, hypergraph", rows))
