"""``fsd run``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsd_core.cli.cost import service_table
from fsd_core.cli.options import SPLIT, Command, as_flags, check_provider, emulated, reporting, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.client.outputs import check_output, read_expected, read_truth
from fsd_core.client.shown import tables
from fsd_core.common.amount import counted
from fsd_core.common.home import home_folder
from fsd_core.config import Settings
from fsd_core.cost import tariff_of_run
from fsd_core.errors import CheckFailed, InputError
from fsd_core.latency import Latency
from fsd_core.partition import Parallel

if TYPE_CHECKING:
    from fsd_core import Progress, Result

__all__ = ["KEYS", "result_tables", "run"]

CHECK = ("expect", "rtol", "atol")  # what this command does with the result of a run

KEYS = (
    "provider", "channel", "workers", "data_parallel", "pipeline_parallel", "tensor_parallel", "branching", "partition", "objective",
    "engine", "batch_axis", "batch_size", "timeout", "outage", "recovery", "audit_log", "seed", "app", "emulator", "faults", "latency",
    "output", "truth", "tariff",
)  # fmt: skip


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd run radixnet:1024:120 digits
  fsd run model/ input.npz --workers 16 --channel queue --output out.npz
  fsd run model/ input.npz --pipeline-parallel 8
  fsd run model/ input.npz --data-parallel 2 --pipeline-parallel 4 --batch-size 500
  fsd run radixnet:1024:12 digits --provider aws --emulator
  fsd run model.onnx input.npz --pipeline-parallel 2 --output out.npz
  fsd run neuron1024/ sparse-images-1024.tsv.xz --truth neuron1024-l120-categories.tsv --json
""",
)
@click.argument("model")
@click.argument("inputs", metavar="INPUT")
@with_settings(*KEYS, *CHECK)
def run(screen: Screen, settings: Settings, model: str, inputs: str) -> None:
    """Run MODEL on INPUT with many functions.

    \b
    MODEL  a folder that fsd model made; a Graph Challenge folder of an official
           size; an ONNX file; or radixnet:NEURONS:LAYERS[:SEED]
    INPUT  .npz (scipy CSR, one dense array, or key x) or .npy; a Graph
           Challenge .tsv, also .xz or .gz; digits (handwritten digits of
           scikit-learn); or random:SAMPLES[:DENSITY[:SEED]]. For an ONNX model:
           .npz with an array for each input by name, or .npy for one input

    An existing --output file is replaced only if fsd made it. The exit code is 1 if the result differs from --truth or --expect.
    """
    from fsd_core import run as run_model
    from fsd_core.client.opened import open_run
    from fsd_core.client.tensors import read_expected_tensors
    from fsd_core.model import Model
    from fsd_core.model.rounding import cancelling

    check_provider(settings)
    tariff = tariff_of_run(settings.provider, settings.tariff)
    keys = ("provider", "channel", "branching", "partition")
    screen.known.update({key: getattr(settings, key) for key in keys})
    screen.known["latency"] = Latency.parse(settings.latency).about() if settings.latency else None
    with as_flags(*SPLIT):
        split = settings.split
    if isinstance(split, Parallel):
        screen.known.update(workers=split.workers, parallel=split.to_json())
    elif split is not None:
        screen.known.update(workers=split)
    if settings.output:
        with as_flags("output"):
            check_output(Path(settings.output))
    with as_flags("engine", "batch_axis"):
        opened = open_run(model, inputs, settings.engine, settings.batch_axis)
    network, samples, expected, values = opened.model, opened.inputs, None, None
    if isinstance(network, Model):
        screen.known.update(neurons=network.neurons, layers=len(network.layers), samples=samples.shape[0])
    elif settings.truth:
        raise InputError(f"--truth {settings.truth}: the engine onnx computes this model: expected --expect, which takes any model")
    with as_flags("truth"):
        expected = read_truth(Path(settings.truth), samples.shape[0]) if settings.truth else None
    with as_flags("expect"):
        if settings.expect:
            path = Path(settings.expect)
            values = (
                read_expected(path, (samples.shape[0], network.outputs))
                if isinstance(network, Model)
                else read_expected_tensors(path, network)
            )
    with screen.progress() as show, emulated(settings, show, start=True) as settings, as_flags(*SPLIT, "batch_size"):
        result = run_model(
            network,
            samples,
            **{key: getattr(settings, key) for key in KEYS if key not in ("emulator", "engine", "output", "truth", "tariff")},
            engine="auto" if isinstance(network, Model) else "onnx",
            settings=settings.table(),
            home=home_folder(),
            note={"model": model, "input": inputs},
            progress=_telling(screen, reporting(show)),
        )
    screen.known["run"] = result.run
    truth = None if expected is None else result.check(expected)
    made = result.bill(tariff) if tariff else None
    screen.known.update(result.to_json() | {"truth": truth, "expect": None, "bill": made.to_json() if made else None})
    notes = [f"\nTo make a page of this run: fsd report {result.run}"]
    if result.stand_in and made:
        notes.insert(0, "On an emulator, function time and its cost are those of this machine; counts are those of the cloud.")
    if truth and isinstance(network, Model) and (signed := cancelling(network, samples)):
        adds = f"{len(signed)} of {counted(len(network.layers), 'layer')} add{'s' * (len(signed) == 1)} terms of both signs"
        notes.insert(0, f"{adds}: the rounding of such sums depends on workers and partition, and may change a sample's category.")
    off = None
    try:
        if settings.output:
            with as_flags("output"):
                result.save(settings.output)
        if values is not None:
            off = screen.known["expect"] = _compared(result, values, settings)
            words = f"{off['differing']} of {counted(off['values'], 'value')} differ, the largest difference is {off['largest']:.3g}"
            notes.insert(0, f"Compared with {settings.expect}: {words}.")
    finally:
        screen.print(*result_tables(result, truth), *([service_table(made)] if made else ()), *notes)
    screen.answer(screen.known)
    if truth and (truth["missing"] or truth["extra"]):
        raise CheckFailed(
            f"--truth {settings.truth}: {truth['missing']} of {truth['expected']} expected samples are missing, {truth['extra']} are extra"
        )
    if off and off["differing"]:
        wanted = f"expected differences of at most {settings.atol:g} + {settings.rtol:g} x the value"
        raise CheckFailed(f"--expect {settings.expect}: {words}: {wanted}")


def _compared(result: Result, values: Any, settings: Settings) -> dict[str, float]:
    try:
        return result.check_values(values, settings.rtol, settings.atol)
    except InputError as error:  # the shapes of some outputs are known only now
        raise InputError(f"--expect {settings.expect}: {error}") from error


def _telling(screen: Screen, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """A callback that shows progress. The choice of the planner is a line that stays on the screen."""
    return lambda step: screen.note(step.text) if step.phase == "plan" and step.text else show(step)


def result_tables(result: Result, truth: Mapping[str, int] | None = None) -> Iterable[Any]:
    """The tables that show a result."""
    for number, (title, rows) in enumerate(tables(result, truth)):
        yield pairs(f"\n{title}" if number else title, rows)
