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
from fsd_core.common.amount import amount
from fsd_core.common.home import home_folder
from fsd_core.config import Settings
from fsd_core.errors import InputError

if TYPE_CHECKING:
    from fsd_core.demo import Demo, OnnxDemo
    from fsd_core.plan.predict import Prediction

__all__ = ["demo"]

NOT_HERE = ("provider", "engine", "batch_axis", "emulator", "output", "truth", "tariff")  # keys of a run that the demo does not take


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  fsd demo
  fsd demo --radixnet --channel object
  fsd demo --onnx
""",
)
@click.option("--radixnet", is_flag=True, help="Run a RadiX-Net of 120 layers with 1024 neurons, on the same digits at 32 x 32 pixels.")
@click.option(
    "--onnx", is_flag=True, help="Run a trained ONNX model in four functions, and compare the result with that of one ONNX Runtime."
)
@with_settings("workers", "branching", "channel", "seed")
def demo(screen: Screen, settings: Settings, radixnet: bool, onnx: bool) -> None:
    """Run a small example on this machine, in a minute.

    Trains a small sparse network on handwritten digits. Then divides it among 8 workers that start each other, and compares their result
    with the result of a single process. With --onnx: downloads a trained network that finds text in images, runs it in four functions,
    compares the result with that of ONNX Runtime, and says what the same run would cost on each cloud.

    The command keeps the trained network below FSD_HOME (~/.fsd), so that the next demo starts faster.
    """
    from fsd_core.demo import run_demo, run_onnx_demo

    if radixnet and onnx:
        raise InputError("--radixnet --onnx: are two examples: expected one of them")
    own = {key: getattr(settings, key) for key in KEYS if key not in NOT_HERE} | {"settings": settings.tables.get("local", {})}
    if onnx:
        with screen.progress() as show:
            made = run_onnx_demo(home=home_folder(), progress=reporting(show), **own)
        _report_onnx(screen, made)
        made.check()
        return
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


def _report_onnx(screen: Screen, found: OnnxDemo) -> None:
    """Show the result, its comparison with ONNX Runtime on one machine, the bytes that travelled, and the cost on each cloud."""
    graph, result, differs = found.graph, found.result, found.differs
    if found.missing:
        screen.note(f"The trained network cannot be downloaded, a generated one takes its place: {found.missing}")
    largest = f"largest difference {differs['largest']:.1e} of {differs['values']} values"
    facts = [
        ("network", f"{found.source}: {len(graph.model.graph.node)} nodes"),
        ("four functions = ONNX Runtime on one", f"{'NO' if differs['differing'] else 'yes'}, {largest}"),
        ("travelled between functions", amount(result.meter["payload_bytes_sent"])),
    ]
    costs = [(each.provider, _cost(each.prediction)) for each in found.costs if each.prediction is not None]
    screen.answer(result.to_json() | {"source": found.source, "differs": differs, "costs": [each.to_json() for each in found.costs]})
    screen.print(pairs("Demo", facts), "", *result_tables(result))
    screen.print(pairs("\nThe same split on each cloud, as predicted", costs))
    words = [f"model show {graph.path} --shape x=1x3x48x160 --stages 4", "run --help"]
    screen.print("\nCommands to try next", *(f"  {_command()} {line}" for line in words))


def _cost(made: Prediction) -> str:
    return f"{made.seconds['p50']:.2f} s from a cold start, {1000 * (made.usd or 0):.3f} USD for 1,000 runs"


def _command() -> str:
    """How the user can type this command in the current folder."""
    if found := shutil.which("fsd"):
        return "fsd" if Path(found).resolve() == Path(sys.argv[0]).resolve() else found
    try:
        return str(Path(sys.argv[0]).absolute().relative_to(Path.cwd()))
    except ValueError:
        return sys.argv[0]
