"""``fsd model import``, ``radixnet`` and ``show``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click

from fsd_core.cli.onnx_table import show_graph
from fsd_core.cli.options import Checked, Group, with_settings
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.amount import amount, counted
from fsd_core.common.fields import choice, integer, matching, number
from fsd_core.common.home import expanded
from fsd_core.config import Settings
from fsd_core.errors import InputError

__all__ = ["group"]

SHAPE = matching(r"(?s).+=[1-9][0-9]{0,9}(x[1-9][0-9]{0,9})*", "NAME=1x3x224x224: the name of an input and its sizes")


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the flags ``--shape``, by input. Raises `InputError` if an input has two."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        shape = tuple(map(int, sizes.split("x")))
        if found.setdefault(name, shape) != shape:
            raise InputError(f"--shape {text}: input {name!r} has another --shape before: expected one for each input")
    return found


def _of_onnx(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of ONNX models."""
    shape = click.option(
        "--shape", "shapes", multiple=True, type=Checked(SHAPE), metavar="NAME=1x3x224x224",
        help="ONNX: the sizes of the input NAME, if the file leaves them free. The first axis stays free for samples.",
    )  # fmt: skip
    axis = click.option(
        "--batch-axis", type=Checked(choice("auto", "0", "none")), default="auto", metavar="auto|0|none",
        help="ONNX: none if the first axis of the inputs is not for samples; 0 to refuse such a model.  [default: auto]",
    )  # fmt: skip
    return shape(axis(command))


@click.group(name="model", cls=Group, no_args_is_help=False)
def group() -> None:
    """Make, import and show models."""


@group.command(
    name="import",
    epilog="""\b
Examples:
  fsd model import neuron512/ model/ --bias -0.2 --rule challenge --clip 32
  fsd model import weights.npz model/ --activation tanh
  fsd model import resnet.onnx model/ --shape image=1x3x224x224
""",
)
@click.argument("source")
@click.argument("out")
@_of_onnx
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
    screen: Screen,
    settings: Settings,
    source: str,
    out: str,
    bias: float | None,
    rule: str,
    activation: str,
    clip: float | None,
    shapes: Sequence[str],
    batch_axis: str,
) -> None:
    """Import a model from other files.

    SOURCE is a folder with files n{N}-l{k}.tsv in the format of the Graph Challenge, for any N; an .npz with weights_1, weights_2, ...; or
    an ONNX file, with the files of its weights beside it. OUT is the new model folder. An existing OUT is replaced only if it is a model
    folder that fsd made of the same kind of source.

    An ONNX model is checked, and its constants are folded. OUT then holds an ONNX file that other programs can open too.
    """
    from fsd_core.graph import is_graph, open_graph, save_graph
    from fsd_core.model import describe, import_model, save

    if is_graph(expanded(source)):
        if (bias, rule, activation, clip) != (None, "plain", "relu", None):
            raise InputError(f"{source}: is an ONNX model: expected no --bias, --rule, --activation and --clip: it has its own")
        graph = open_graph(source, _shapes(shapes), batch_axis)
        save_graph(graph, out)
        show_graph(screen, graph, out)
        return
    _check_not_onnx(source, shapes, batch_axis)
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


@group.command(
    epilog="""\b
Examples:
  fsd model show radixnet:1024:120
  fsd model show resnet.onnx --shape image=1x3x224x224 --stages 4
"""
)
@click.argument("model")
@_of_onnx
@click.option(
    "--stages",
    type=Checked(integer(1)),
    metavar="N",
    help="ONNX: cut the model into N stages, and show what each stage holds and receives.",
)
@with_settings()
def show(screen: Screen, settings: Settings, model: str, shapes: Sequence[str], batch_axis: str, stages: int | None) -> None:
    """Show what a model holds.

    MODEL is a model folder, a folder of the Graph Challenge, an ONNX file, or radixnet:NEURONS:LAYERS[:SEED].

    Prints the sizes, nonzeros, activations and digest. For an ONNX model: inputs and outputs, weights, multiply-adds and bytes by operator,
    the largest node, and the places to cut the model with the fewest bytes between the two parts; --json has all places.
    """
    from fsd_core.graph import is_graph, open_graph
    from fsd_core.model import describe, open_model

    if is_graph(expanded(model)):
        show_graph(screen, open_graph(model, _shapes(shapes), batch_axis), model, stages)
        return
    _check_not_onnx(model, shapes, batch_axis, stages)
    _show(screen, describe(open_model(model)), model)


def _check_not_onnx(model: str, shapes: Sequence[str], batch_axis: str, stages: int | None = None) -> None:
    for flag, given in (("--shape", shapes), ("--batch-axis", batch_axis != "auto"), ("--stages", stages)):
        if given:
            raise InputError(f"{model}: is no ONNX model: expected no {flag}, which is for ONNX models only")


def _show(screen: Screen, facts: dict[str, Any], where: str) -> None:
    screen.answer(facts)
    rows = [(key, f"{facts[key]}") for key in ("name", "layers", "inputs", "outputs", "neurons", "nonzeros", "digest")]
    rows.insert(-1, ("size", amount(facts["bytes"])))
    for part in facts["groups"]:
        span = f"layer {part['first']}" + (f" to {part['last']}" if part["last"] > part["first"] else "")
        clip = "" if part["clip"] is None else f", clip {part['clip']:g}"
        low, high = part["bias"]
        bias = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        size = f"{part['kind']} {part['outputs']} x {part['inputs']}, {counted(part['nonzeros'], 'nonzero')}"
        text = f"{size}, {part['activation']}{clip}, bias {bias}, {part['rule']}"
        rows.append((span, text))
    screen.print(pairs(where, rows))
