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

MIN_ACCURACY = 0.94
TOLERANCE = 1e-4  # of the largest activation: sums of float32 in another order differ a little


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd demo
  fsd demo --radixnet --channel object
""",
)
@click.option("--radixnet", is_flag=True, help="Run a RadiX-Net of 120 layers with 1024 neurons, on the same digits at 32 x 32 pixels.")
@with_settings("workers", "branching", "channel", "seed")
def demo(screen: Screen, settings: Settings, radixnet: bool) -> None:
    """Run a small example on this machine, in a minute.

    Trains a small sparse network on handwritten digits. Then divides it among 8 workers that start each other, and compares their result
    with the result of a single process.

    The command keeps the trained network below FSD_HOME (~/.fsd), so that the next demo starts faster.
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
    if share < MIN_ACCURACY:
        raise CheckFailed(f"the accuracy is {share:.2%}, expected at least {MIN_ACCURACY:.0%}")


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
    """Compare the result with the serial one, and show both and the commands to try next."""
    from fsd_core.model.serial import serial

    expected, got = serial(model, inputs).toarray(), result.output.toarray()
    difference = float(np.abs(got - expected).max())
    scale = max(1.0, float(np.abs(expected).max()))
    same = difference <= TOLERANCE * scale and bool(((got != 0).any(axis=1) == (expected != 0).any(axis=1)).all())
    facts.append(("distributed = serial", f"{'yes' if same else 'NO'}, largest difference {difference:.1e}"))
    screen.answer(result.to_json() | more | {"max_difference": difference})
    screen.print(pairs("Demo", facts), "", *result_tables(result))
    words = [*onward, "run --help"]
    screen.print("\nCommands to try next", *(f"  {_command()} {line}" for line in words))
    if not same:
        raise CheckFailed(
            f"the distributed output differs from the serial output by {difference:.3g}: expected at most {TOLERANCE * scale:.3g}, "
            "and the same nonzero samples"
        )


def _command() -> str:
    """How the user can type this command in the current folder."""
    if found := shutil.which("fsd"):
        return "fsd" if Path(found).resolve() == Path(sys.argv[0]).resolve() else found
    try:
        return str(Path(sys.argv[0]).absolute().relative_to(Path.cwd()))
    except ValueError:
        return sys.argv[0]
