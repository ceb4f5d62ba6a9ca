"""``fsd model import``, ``radixnet`` and ``show``."""

from __future__ import annotations

import math
from typing import Any

import click

from fsd_core.cli.options import Checked, Group, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.amount import amount
from fsd_core.common.fields import choice, integer, number
from fsd_core.config import Settings

__all__ = ["group"]


@click.group(name="model", cls=Group, no_args_is_help=False)
def group() -> None:
    """Make, import and show models."""


@group.command(
    name="import",
    epilog="""\b
Examples:
  fsd model import neuron512/ model/ --bias -0.2 --rule challenge --clip 32
  fsd model import weights.npz model/ --activation tanh
""",
)
@click.argument("source")
@click.argument("out")
@click.option(
    "--bias", type=Checked(number(-math.inf, huge=True)), metavar="B", help="Bias of every neuron (default: the biases of SOURCE, else 0)."
)
@click.option("--rule", type=Checked(choice("plain", "challenge")), default="plain", metavar="plain|challenge",
              help="plain adds the bias to every sum, challenge only to sums that are not zero.  [default: plain]")  # fmt: skip
@click.option("--activation", type=Checked(choice("identity", "relu", "sigmoid", "tanh", "softmax")), default="relu",
              metavar="NAME", help="Activation of every layer: identity, relu, sigmoid, tanh or softmax.  [default: relu]")  # fmt: skip
@click.option("--clip", type=Checked(number(0, above=True, huge=True)), metavar="C", help="Upper limit of the activations of relu.")
@with_settings()
def import_command(
    screen: Screen, settings: Settings, source: str, out: str, bias: float | None, rule: str, activation: str, clip: float | None
) -> None:
    """Import a model from other files.

    SOURCE is a folder with files n{N}-l{k}.tsv in the format of the Graph Challenge, for any N, or an .npz with weights_1, weights_2, ...
    OUT is the new model folder. An existing OUT is replaced only if it is a model folder that fsd made.
    """
    from fsd_core.model import describe, import_model, save

    network = import_model(source, bias, rule, activation, clip)
    save(network, out)
    _show(screen, describe(network), out)


@group.command(epilog="Example: fsd model radixnet --neurons 1024 --layers 120 model/")
@click.argument("out")
@click.option("--neurons", type=Checked(integer(1)), required=True, metavar="N", help="Number of neurons of every layer.")
@click.option("--layers", type=Checked(integer(1)), required=True, metavar="L", help="Number of layers.")
@click.option("--weights", type=Checked(choice("official", "normal")), default="official", metavar="official|normal",
              help="official: each weight is 1/16; normal: random weights.  [default: official]")  # fmt: skip
@with_settings("seed")
def radixnet(screen: Screen, settings: Settings, out: str, neurons: int, layers: int, weights: str) -> None:
    """Make a RadiX-Net, the network of the Graph Challenge.

    OUT is the new model folder. An existing OUT is replaced only if it is a model folder that fsd made.
    """
    from fsd_core.model import describe, radixnet, save

    network = radixnet(neurons, layers, settings.seed, weights)
    save(network, out)
    _show(screen, describe(network), out)


@group.command(epilog="Example: fsd model show radixnet:1024:120")
@click.argument("model")
@with_settings()
def show(screen: Screen, settings: Settings, model: str) -> None:
    """Show the sizes, nonzeros, activations and digest of a model.

    MODEL is a model folder, a folder of the Graph Challenge, or radixnet:NEURONS:LAYERS[:SEED].
    """
    from fsd_core.model import describe, open_model

    _show(screen, describe(open_model(model)), model)


def _show(screen: Screen, facts: dict[str, Any], where: str) -> None:
    screen.answer(facts)
    rows = [(key, f"{facts[key]}") for key in ("name", "layers", "inputs", "outputs", "neurons", "nonzeros", "digest")]
    rows.insert(-1, ("size", amount(facts["bytes"])))
    for part in facts["groups"]:
        span = f"layer {part['first']}" + (f" to {part['last']}" if part["last"] > part["first"] else "")
        clip = "" if part["clip"] is None else f", clip {part['clip']:g}"
        low, high = part["bias"]
        bias = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        size = f"{part['kind']} {part['outputs']} x {part['inputs']}, {part['nonzeros']} nonzeros"
        text = f"{size}, {part['activation']}{clip}, bias {bias}, {part['rule']}"
        rows.append((span, text))
    screen.print(pairs(where, rows))
