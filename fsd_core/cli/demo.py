"""``fsd demo``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fsd_core.cli.options import Command, reporting, with_settings
from fsd_core.cli.run import KEYS, result_tables
from fsd_core.cli.screen import Screen, pairs
from fsd_core.client.outputs import write_output
from fsd_core.common.home import home_folder
from fsd_core.config import Settings

if TYPE_CHECKING:
    from fsd_core.demo import Demo

__all__ = ["demo"]

NOT_HERE = ("provider", "engine", "batch_axis", "emulator", "output", "truth", "tariff")  # keys of a run that the demo does not take


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
    from fsd_core.demo import run_demo

    own = {key: getattr(settings, key) for key in KEYS if key not in NOT_HERE} | {"settings": settings.tables.get("local", {})}
    with screen.progress() as show:
        found = run_demo(radixnet=radixnet, home=home_folder(), progress=reporting(show), **own)
    _report(screen, found, settings.seed)
    found.check()


def _report(screen: Screen, found: Demo, seed: int) -> None:
    """Show the result, how it compares with the serial one, and the commands to try next."""
    model, layers = found.model, len(found.model.layers)
    more: dict[str, float] = {}
    if found.accuracy is None or found.folder is None:
        facts = [("network", f"{layers} layers, {model.nonzeros} weights")]
        again = "radixnet:1024:120" + (f":{seed}" if seed else "")
        words = [f"run {again} digits --workers 16", f"partition {again} --workers 16 p16.npz"]
    else:
        density = model.nonzeros / sum(layer.inputs * layer.outputs for layer in model.layers)
        more = {"accuracy": found.accuracy, "density": density}
        facts = [
            ("network", f"{layers} layers, {model.nonzeros} weights: {density:.1%} of a dense network's"),
            ("accuracy", f"{found.accuracy:.2%} of {found.inputs.shape[0]} digits that were not used in training"),
        ]
        images = found.folder.with_suffix(".npz")
        write_output(images, found.inputs)
        words = [f"run {found.folder} {images} --workers 4 --channel object", "demo --radixnet"]
    facts.append(("distributed = serial", f"{'yes' if found.same else 'NO'}, largest difference {found.max_difference:.1e}"))
    screen.answer(found.result.to_json() | more | {"max_difference": found.max_difference})
    screen.print(pairs("Demo", facts), "", *result_tables(found.result))
    screen.print("\nCommands to try next", *(f"  {_command()} {line}" for line in [*words, "run --help"]))


def _command() -> str:
    """How the user can type this command in the current folder."""
    if found := shutil.which("fsd"):
        return "fsd" if Path(found).resolve() == Path(sys.argv[0]).resolve() else found
    try:
        return str(Path(sys.argv[0]).absolute().relative_to(Path.cwd()))
    except ValueError:
        return sys.argv[0]
