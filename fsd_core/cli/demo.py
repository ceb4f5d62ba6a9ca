"""``fsd demo``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
import numpy as np

from fsd_core.cli.options import Command, with_settings
from fsd_core.cli.run import distributed, result_tables
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.home import home_folder
from fsd_core.config import Settings
from fsd_core.errors import CheckFailed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core import Result
    from fsd_core.model import Model

__all__ = ["demo"]

LEAST_ACCURACY = 0.94
TOLERANCE = 1e-4  # of a probability, and of an activation relative to the clip of 32: the order of a sum differs


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd demo
  fsd demo --radixnet --channel object
""",
)
@click.option("--radixnet", is_flag=True, help="A RadiX-Net of 120 layers of 1024 neurons instead, on the same digits at 32 x 32 pixels.")
@with_settings("workers", "branching", "channel", "seed")
def demo(screen: Screen, settings: Settings, radixnet: bool) -> None:
    """Show it all on this machine, in a minute.

    Train a small sparse network on real handwritten digits, then run it split among 8 workers that start each other.

    Nothing is needed but this machine. The trained network is kept below FSD_HOME (~/.fsd), so that a second demo is quick.
    """
    settings = attrs.evolve(settings, provider="local", emulator=None)
    if radixnet:
        _radixnet(screen, settings)
    else:
        _digits(screen, settings)


def _digits(screen: Screen, settings: Settings) -> None:
    from scipy.sparse import csr_matrix

    from fsd_core.cli.outputs import write_output
    from fsd_core.demo import accuracy, digits, network

    data = digits()
    with screen.progress() as show:
        model, folder = network(home_folder(), lambda done, total: show("train", done, total, "epochs"))
        inputs = csr_matrix(data.held)
        result = distributed(model, inputs, settings, show)
    share = accuracy(result.output, data.held_labels)
    density = model.nonzeros / sum(layer.inputs * layer.outputs for layer in model.layers)
    facts = [
        ("network", f"{len(model.layers)} layers, {model.nonzeros} weights: {density:.1%} of a dense network's"),
        ("accuracy", f"{share:.2%} of {len(data.held)} digits that training never saw"),
    ]
    images = folder.with_suffix(".npz")
    write_output(images, inputs)
    _report(
        screen, model, inputs, result, {"accuracy": share, "density": density}, facts,
        [f"run {folder} {images} --workers 4 --channel object", "demo --radixnet"],
    )  # fmt: skip
    if share < LEAST_ACCURACY:
        raise CheckFailed(f"the accuracy is {share:.2%}, at least {LEAST_ACCURACY:.0%} was expected")


def _radixnet(screen: Screen, settings: Settings) -> None:
    from fsd_core.model import radixnet
    from fsd_core.model.inputs import open_inputs

    model = radixnet(1024, 120, settings.seed)
    inputs = open_inputs("digits", model.inputs)
    with screen.progress() as show:
        result = distributed(model, inputs, settings, show)
    facts = [("network", f"{len(model.layers)} layers, {model.nonzeros} weights")]
    again = "radixnet:1024:120" + (f":{settings.seed}" if settings.seed else "")
    _report(screen, model, inputs, result, {}, facts, [f"run {again} digits --workers 16", f"partition {again} --workers 16 p16.npz"])


def _report(
    screen: Screen,
    model: Model,
    inputs: csr_matrix,
    result: Result,
    more: dict[str, float],
    facts: list[tuple[str, str]],
    onward: list[str],
) -> None:
    """Compare with the serial answer, and show everything."""
    from fsd_core.model.serial import serial

    expected, got = serial(model, inputs).toarray(), result.output.toarray()
    difference = float(np.abs(got - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    same = difference <= TOLERANCE * scale and bool(((got != 0).any(axis=1) == (expected != 0).any(axis=1)).all())
    facts.append(("distributed = serial", f"{'yes' if same else 'NO'}, largest difference {difference:.1e}"))
    screen.answer(result.to_json() | more | {"max_difference": difference})
    screen.print(pairs("Demo", facts), "", *result_tables(result))
    words = [*onward, "run --help"]
    screen.print("\nWhere to go next", *(f"  {_command()} {line}" for line in words))
    if not same:
        raise CheckFailed(f"the distributed output differs from the serial one by {difference:.3g}")


def _command() -> str:
    """How this command can be typed from here."""
    if found := shutil.which("fsd"):
        return "fsd" if Path(found).resolve() == Path(sys.argv[0]).resolve() else found
    try:
        return str(Path(sys.argv[0]).absolute().relative_to(Path.cwd()))
    except ValueError:
        return sys.argv[0]
