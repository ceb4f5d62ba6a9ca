"""Cuts an ONNX model into stages of consecutive nodes: the largest stage is as small as possible, and little crosses the cuts.

A stage loads the weights that its nodes read. A tensor goes from the stage that makes it straight to each later stage that reads it, and
what depends on weights alone does not travel: each stage that reads it computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.graph import Graph
from fsd_core.graph.figures import Cut, NodeCost, cuts, makers, node_costs, weight_sizes
from fsd_core.graph.library import reads
from fsd_core.partition.stages import DENSE_SHARE, LOAD_BYTES_S, WORK_S, Profile, cut

__all__ = ["GraphStage", "graph_stages"]

_ENTRY_BYTES = 4  # `Profile` counts what crosses in activations of float32


@attrs.frozen
class GraphStage:
    """What one stage holds and receives for one sample. Bytes of tensors are counted before compression."""

    first: str  # the name of its first node
    last: str
    nodes: int
    weight_bytes: int  # of all weights that it reads: a weight that two stages read counts in both
    multiply_adds: int
    live_bytes: int  # the most bytes of tensors that it holds at a time, without what a node needs inside
    inputs: list[str]  # the inputs of the model that it reads
    outputs: list[str]  # the outputs of the model that it makes
    receives: dict[int, list[str]]  # the tensors that it gets from earlier stages, by their number from 1
    received_bytes: int
    sent_bytes: int  # of the tensors that it makes and later stages read
    own: list[int] = attrs.field(repr=False)  # the nodes that it computes, from 0; some depend on weights alone and are of other stages too

    def to_json(self) -> dict[str, Any]:
        """The fields by name, except ``own``."""
        found = attrs.asdict(self, filter=lambda field, _: field.name != "own")
        return found | {"receives": {str(stage): names for stage, names in self.receives.items()}}


def graph_stages(graph: Graph, stages: int) -> list[GraphStage]:
    """Cut ``graph`` into ``stages`` stages. Tries the model on this machine with one sample and with two.

    A node costs the seconds to load its weights and to compute one sample. The largest stage is at most 5 % larger than it has to be; among
    these ways, the fewest bytes cross the cuts. Raises `InputError` if the model has fewer nodes, or if the bytes that cross are not known
    because this trial fails.
    """
    graph, stages = arguments.instance("graph", graph, Graph), arguments.whole("stages", stages, 1)
    costs = node_costs(graph)
    if stages > len(costs):
        raise InputError(f"stages {stages}: expected at most {len(costs)}, the number of nodes of {graph.path}")
    places = cuts(graph, costs)
    unknown = next((place for place in places if place.bytes is None), None)
    if unknown is not None and stages > 1:
        reason = graph.trial.failed or "it is no tensor of numbers"
        raise InputError(f"{graph.path}: cannot be cut: the size of the tensors that cross behind {unknown.name!r} is not known: {reason}")
    starts = cut(_profile(costs, places), stages, 1)
    assert starts is not None, "each node can be a stage"
    ends = [*starts[1:], len(costs)]
    return [_stage(graph, costs, starts, start, end) for start, end in zip(starts, ends, strict=True)]


def _profile(costs: Sequence[NodeCost], places: Sequence[Cut]) -> Profile:
    """With one micro-batch, `Profile` counts loading alone: what a node costs is all there, and nothing for coding what crosses."""
    crossing = np.array([(place.bytes or 0) / _ENTRY_BYTES for place in places] + [0.0])
    seconds = np.array([each.weight_bytes / LOAD_BYTES_S + (each.multiply_adds or 0) * DENSE_SHARE / WORK_S for each in costs])
    return Profile(seconds, np.zeros(len(costs)), crossing, np.ones(len(costs), np.int64))


def _stage(graph: Graph, costs: Sequence[NodeCost], starts: Sequence[int], start: int, end: int) -> GraphStage:
    """The stage of the nodes from ``start`` to ``end`` - 1."""
    nodes, made = graph.model.graph.node, makers(graph)
    outputs = [each.name for each in graph.model.graph.output if start <= made.get(each.name, len(costs) - 1) < end]
    own = _own(graph, made, start, end, outputs)
    last_read: dict[str, int] = {each.name: end - 1 for each in graph.inputs if each.name in outputs}
    for number in own:
        last_read |= dict.fromkeys(reads(nodes[number]), max(number, start))
    receives: dict[int, list[str]] = {}
    for name in last_read:
        if made.get(name, start) < start:
            receives.setdefault(int(np.searchsorted(starts, made[name], "right")), []).append(name)
    sizes = weight_sizes(graph)
    inputs = {each.name: _bytes(each.shape, each.dtype) for each in graph.inputs if each.name in last_read}
    tensors = graph.trial.tensors
    live = np.zeros(end - start + 1, np.int64)
    held = {name: (made.get(name, start), number) for name, number in last_read.items() if name in made or name in inputs}
    held |= {name: (number, number) for number in range(start, end) for name in nodes[number].output if name and name not in last_read}
    for name, (begins, ends) in held.items():
        size = inputs[name] if name in inputs else tensors[name].bytes if name in tensors else 0
        live[max(begins, start) - start] += size
        live[ends - start + 1] -= size
    return GraphStage(
        first=costs[start].name,
        last=costs[end - 1].name,
        nodes=end - start,
        weight_bytes=sum(sizes.get(name, 0) for name in last_read) + sum(costs[number].inner_bytes for number in own),
        multiply_adds=sum(each.multiply_adds or 0 for each in costs[start:end]),
        live_bytes=int(np.cumsum(live).max()),
        inputs=sorted(inputs),
        outputs=outputs,
        receives=dict(sorted(receives.items())),
        received_bytes=sum(tensors[name].bytes for names in receives.values() for name in names),
        sent_bytes=sum(tensors[name].bytes for name in _leaving(nodes, made, start, end) if name in tensors),
        own=own,
    )


def _leaving(nodes: Sequence[Any], made: dict[str, int], start: int, end: int) -> set[str]:
    """The tensors that these nodes make and later nodes read."""
    return {name for node in nodes[end:] for name in reads(node) if start <= made.get(name, -1) < end}


def _own(graph: Graph, made: dict[str, int], start: int, end: int, outputs: Sequence[str]) -> list[int]:
    """The nodes of a stage, in order: also earlier ones that it computes again, because they depend on weights alone."""
    nodes = graph.model.graph.node
    by_output = {name: number for number, node in enumerate(nodes[:end]) for name in node.output if name and name not in made}
    own = set(range(start, end))
    left = [*outputs, *(name for number in own for name in reads(nodes[number]))]
    while left:
        if (number := by_output.get(left.pop())) is not None and number not in own:
            own.add(number)
            left += reads(nodes[number])
    return sorted(own)


def _bytes(shape: Sequence[int | None] | None, dtype: str) -> int:
    return math.prod(1 if size is None else size for size in shape or ()) * np.dtype(dtype).itemsize
