"""The tables of ``fsd model show`` for an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fsd_core.cli.options import as_flags
from fsd_core.cli.screen import Screen, pairs
from fsd_core.common.amount import amount, counted
from fsd_core.errors import InputError

if TYPE_CHECKING:
    from fsd_core.graph import Graph
    from fsd_core.partition.graph_stages import GraphStage

__all__ = ["show_graph"]

SHOWN_CUTS = 16


def show_graph(screen: Screen, graph: Graph, where: str, stages: int | None = None) -> None:
    """Print what `describe_graph` finds, which engines run the model, and, if ``stages`` is given, the parts of that many stages."""
    from fsd_core.graph import describe_graph
    from fsd_core.model.chain import chain
    from fsd_core.partition.graph_stages import graph_stages

    facts = describe_graph(graph)
    try:
        chain(graph)
        not_rows = None
    except InputError as error:
        not_rows = str(error).removeprefix(f"{graph.path}: ")
    facts["not_rows"] = not_rows
    with as_flags("stages"):
        cut = graph_stages(graph, stages) if stages else []
    if stages:
        facts["stages"] = [each.to_json() for each in cut]
    screen.answer(facts)
    screen.print(pairs(where, _head(facts)))
    screen.print(pairs("\nOperators, for one sample", [(row["operator"], _costs(row)) for row in facts["types"]]))
    if cut:
        rows = [(f"stage {k}", _stage(each)) for k, each in enumerate(cut, 1)]
        screen.print(pairs(f"\n{counted(len(cut), 'stage')}, for one sample", rows))
    elif facts["cuts"]:
        title = f"\nPlaces to cut: {len(facts['cuts'])}; in each part of the model the place with the fewest bytes, for one sample"
        screen.print(pairs(title, [(_place(cut), _crossing(cut)) for cut in _narrowest(facts["cuts"])]))


def _head(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    opsets = ", ".join(f"{domain} {version}".strip() for domain, version in facts["opsets"].items())
    rows = [("name", facts["name"]), ("format", f"ONNX, opset {opsets}" + f", made by {facts['producer']}" * bool(facts["producer"]))]
    rows += [("input", _tensor(each)) for each in facts["inputs"]]
    rows += [("output", _tensor(each)) for each in facts["outputs"]]
    rows.append(("batch axis", "0" if facts["no_batch"] is None else f"none: {facts['no_batch']}"))
    if facts["trial"]:
        rows.append(("trial failed", facts["trial"]))
    uncounted = f", and those of {counted(facts['uncounted'], 'node')} that are not known" if facts["uncounted"] else ""
    largest, why = facts["largest"], facts["not_rows"]
    rows += [
        ("nodes", f"{facts['nodes']}"),
        ("weights", f"{amount(facts['weights']['bytes'])} in {facts['weights']['tensors']} tensors"),
        ("multiply-adds", f"{facts['multiply_adds']:,} for one sample{uncounted}"),
        ("largest node", f"{largest['name']} ({largest['operator']}): {_costs(largest)}"),
        ("engines", "rows and onnx" if why is None else f"onnx; not rows: {why.split(': expected')[0]}"),
        ("digest", facts["digest"]),
    ]
    return rows


def _tensor(facts: Mapping[str, Any]) -> str:
    shape = facts["shape"]
    sizes = "shape not known" if shape is None else " x ".join("N" if size is None else str(size) for size in shape) or "one number"
    return f"{facts['name']}: {facts['dtype']}, {sizes}"


def _costs(row: Mapping[str, Any]) -> str:
    adds = "not known" if row["multiply_adds"] is None else f"{row['multiply_adds']:,}"
    nodes = f"{counted(row['nodes'], 'node')}, " if "nodes" in row else ""
    out = "not known" if row["output_bytes"] is None else amount(row["output_bytes"])
    return f"{nodes}multiply-adds {adds}, weights {amount(row['weight_bytes'])}, output {out}"


def _stage(stage: GraphStage) -> str:
    sources = " and ".join(f"stage {source}" for source in stage.receives)
    count = sum(map(len, stage.receives.values()))
    tensors = counted(count, "tensor")
    received = f"receives {amount(stage.received_bytes)} in {tensors} from {sources}" if count else "receives none"
    inputs = f", reads {', '.join(stage.inputs)}" * bool(stage.inputs)
    nodes = f"{stage.first} to {stage.last}, {counted(stage.nodes, 'node')}"
    held = f"weights {amount(stage.weight_bytes)}, multiply-adds {stage.multiply_adds:,}, holds {amount(stage.live_bytes)} of tensors"
    return f"{nodes}: {held}, {received}{inputs}"


def _place(cut: Mapping[str, Any]) -> str:
    return f"{cut['work']:.0%} of work, {cut['load']:.0%} of weights"


def _crossing(cut: Mapping[str, Any]) -> str:
    size = "a size that is not known" if cut["bytes"] is None else amount(cut["bytes"])
    count = len(cut["tensors"])
    return f"after {cut['name']} ({cut['operator']}): {size}, {counted(count, 'tensor')}"


def _narrowest(cuts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cuts to show, at most `SHOWN_CUTS`: the one with the fewest bytes in each equal share of work and weights of the model.

    If several cuts of a share have the same bytes: the last one.
    """
    best: dict[int, Mapping[str, Any]] = {}
    for cut in cuts:
        part = min(SHOWN_CUTS - 1, int((cut["work"] + cut["load"]) / 2 * SHOWN_CUTS))
        size = float("inf") if cut["bytes"] is None else cut["bytes"]
        before = best.get(part)
        if before is None or before["bytes"] is None or size <= before["bytes"]:
            best[part] = cut
    return [best[part] for part in sorted(best)]
