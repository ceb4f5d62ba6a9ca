"""``fsd run``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsd_core.cli.cost import run_tariff, service_table
from fsd_core.cli.options import Command, check_provider, emulated, with_settings
from fsd_core.cli.outputs import check_output, compare, read_truth, write_output
from fsd_core.cli.screen import Screen, Show, amount, pairs
from fsd_core.client.result import left_out
from fsd_core.common.home import home_folder
from fsd_core.config import Settings
from fsd_core.cost import Usage, bill
from fsd_core.errors import CheckFailed
from fsd_core.providers.requests import reporting_to

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core import Progress, Result
    from fsd_core.model import Model

__all__ = ["distributed", "result_tables", "run"]

KEYS = (
    "provider", "channel", "workers", "data_parallel", "pipeline_parallel", "tensor_parallel", "branching", "partition", "objective",
    "batch_size", "timeout", "outage", "seed", "app", "emulator", "faults", "output", "truth", "tariff",
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
  fsd run neuron1024/ sparse-images-1024.tsv.xz --truth neuron1024-l120-categories.tsv --json
""",
)
@click.argument("model")
@click.argument("inputs", metavar="INPUT")
@with_settings(*KEYS)
def run(screen: Screen, settings: Settings, model: str, inputs: str) -> None:
    """Run MODEL on INPUT with many functions.

    \b
    MODEL  a folder that fsd model made; a Graph Challenge folder of an official
           size; or radixnet:NEURONS:LAYERS[:SEED]
    INPUT  .npz (scipy CSR, one dense array, or key x); a Graph Challenge .tsv,
           also .xz or .gz; digits (handwritten digits of scikit-learn);
           or random:SAMPLES[:DENSITY[:SEED]]

    An existing --output file is replaced only if fsd made it. The exit code is 1 if the result differs from --truth.
    """
    from fsd_core.model import open_model
    from fsd_core.model.inputs import open_inputs
    from fsd_core.model.rounding import cancelling

    check_provider(settings)
    tariff = run_tariff(settings)
    keys = ("provider", "channel", "branching", "partition")
    screen.known.update({key: getattr(settings, key) for key in keys})
    split = settings.parallel
    screen.known.update(workers=split.workers, parallel=split.to_json())
    if settings.output:
        check_output(Path(settings.output))
    network = open_model(model)
    screen.known.update(neurons=network.neurons, layers=len(network.layers))
    samples = open_inputs(inputs, network.inputs)
    screen.known["samples"] = samples.shape[0]
    expected = read_truth(Path(settings.truth), samples.shape[0]) if settings.truth else None
    with screen.progress() as show, emulated(settings, lambda text: show("emulator", 0, 0, text), start=True) as settings:
        result = distributed(network, samples, settings, show, {"model": model, "input": inputs})
    screen.known["run"] = result.run
    truth = None if expected is None else compare(expected, result.output)
    made = bill(Usage.of_run(result.to_json() | {"ranks": result.ranks}), tariff) if tariff else None
    screen.known.update(result.to_json() | {"truth": truth, "bill": made.to_json() if made else None})
    notes = [f"\nTo make a page of this run: fsd report {result.run}"]
    if result.stand_in and made:
        notes.insert(0, "On an emulator, function time and its cost are those of this machine; counts are those of the cloud.")
    if truth and (signed := cancelling(network, samples)):
        adds = f"{len(signed)} of {len(network.layers)} layers add{'s' * (len(signed) == 1)} terms of both signs"
        notes.insert(0, f"{adds}: the rounding of such sums depends on workers and partition, and may change a sample's category.")
    try:
        if settings.output:
            write_output(Path(settings.output), result.output)
    finally:
        screen.print(*result_tables(result, truth), *([service_table(made)] if made else ()), *notes)
    screen.answer(screen.known)
    if truth and (truth["missing"] or truth["extra"]):
        raise CheckFailed(
            f"--truth {settings.truth}: {truth['missing']} of {truth['expected']} expected samples are missing, {truth['extra']} are extra"
        )


def distributed(model: Model, inputs: csr_matrix, settings: Settings, show: Show, note: Mapping[str, str] | None = None) -> Result:
    """The result of `fsd_core.run` with the command's settings and progress."""
    from fsd_core import run as run_model

    with reporting_to(lambda text: show("provision", 0, 0, text)):
        return run_model(
            model,
            inputs,
            **{key: getattr(settings, key) for key in KEYS if key not in ("emulator", "output", "truth", "tariff")},
            settings=settings.table(),
            home=home_folder(),
            note=note,
            progress=reporting(show),
        )


def reporting(show: Show) -> Callable[[Progress], None]:
    """The callback that shows the progress of a run."""
    return lambda progress: show(progress.phase, progress.done, progress.total, progress.text)


def split_words(result: Result) -> str:
    """The replicas, stages and ranks of a stage of a run, and its micro-batches."""
    sizes = {"replica": "data", "stage": "pipeline"}
    words = [f"{result.parallel[size]} {word}{'s' * (result.parallel[size] > 1)} x" for word, size in sizes.items()]
    tensor, batches = result.parallel["tensor"], result.micro_batches
    return " ".join([*words, f"{tensor} worker{'s' * (tensor > 1)}, {batches} micro-batch{'es' * (batches > 1)}"])


def result_tables(result: Result, truth: Mapping[str, int] | None = None) -> Iterable[Any]:
    """The tables that show a result: the run, its times, its requests and bytes, its memory."""
    meter, seconds = result.meter, result.seconds
    answer = [
        ("samples", f"{result.samples}"),
        ("network", f"{result.layers} layers of up to {result.neurons} neurons"),
        (
            "workers",
            f"{result.workers} on {result.provider}{f', emulated at {result.stand_in}' if result.stand_in else ''}"
            + (f", {result.channel} channel, {result.partition} partition" if result.workers > 1 else ""),
        ),
        ("split", split_words(result)),
        ("nonzero samples", f"{result.output_nonzero_samples}"),
    ]
    if words := left_out(result.missing_ranks):
        answer.append(("left out", words))
    if truth:
        answer.append(("truth", f"{truth['matched']} of {truth['expected']} match, {truth['missing']} missing, {truth['extra']} extra"))
    yield pairs("Result", answer)
    notes = {
        "total": "on this machine's clock, with making resources and collecting the output",
        "compute": "slowest rank",
        "exchange": "slowest rank, waiting for others",
        "load": "slowest rank",
    }
    yield pairs("\nTime", [(phase, f"{value:8.3f} s  {notes.get(phase, '')}".rstrip()) for phase, value in seconds.items()])
    requests = sum(meter[f"{verb}_requests"] for verb in ("publish", "receive", "ack"))
    objects = sum(meter[f"object_{verb}"] for verb in ("puts", "gets", "lists"))
    yield pairs(
        "\nSent and stored",
        [
            ("activations", amount(meter["payload_bytes_sent"])),
            ("messages", f"{meter['messages_sent']} sent, {meter['messages_received']} received, {amount(meter['message_bytes_sent'])}"),
            (
                "queue requests",
                f"{requests} ({meter['publish_requests']} publish, {meter['receive_requests']} receive, {meter['ack_requests']} ack)",
            ),
            ("object requests", f"{objects} ({meter['object_puts']} put, {meter['object_gets']} get, {meter['object_lists']} list)"),
            ("object bytes", f"{amount(meter['object_bytes_written'])} written, {amount(meter['object_bytes_read'])} read"),
            ("functions", f"{meter['invocations']} invoked, {meter['retries']} retries, {meter['duplicates_dropped']} duplicates dropped"),
        ],
    )
    yield pairs(
        "\nMemory of a worker", [(name.removesuffix("_max").removesuffix("_bytes"), amount(value)) for name, value in result.memory.items()]
    )
