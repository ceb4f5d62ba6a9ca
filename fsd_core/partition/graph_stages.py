"""Cuts an ONNX model into stages of consecutive nodes: the largest stage is as small as possible, and few bytes cross the cuts.

A stage loads the weights that its nodes read. With tensor parallelism, several ranks share a stage: they divide its largest nodes by
columns, and the first of them computes all other nodes. `fsd_core.partition.graph_sections` finds what each rank computes, sends and
receives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.graph import Graph
from fsd_core.graph.divide import Columns, Piece, divide, divisible
from fsd_core.graph.figures import Cut, NodeCost, cuts, makers, node_costs, weight_sizes
from fsd_core.graph.library import reads
from fsd_core.graph.submodel import feeds
from fsd_core.partition.graph_sections import Group, Section, live_bytes, make_sections
from fsd_core.partition.stages import DENSE_SHARE, LOAD_BYTES_S, WORK_S, Profile, cut

__all__ = ["Division", "GraphStage", "divide_graph", "graph_stages"]

_ENTRY_BYTES = 4  # `Profile` counts what crosses in activations of float32


@attrs.frozen
class GraphStage:
    """What one stage, or one rank of a stage, holds and receives for one sample. Bytes of tensors are counted before compression."""

    first: str  # the name of its first node; empty if it has no node, because the ranks before it have all columns
    last: str
    nodes: int
    weight_bytes: int  # of all weights that it reads: a weight that two stages read counts in both
    multiply_adds: int
    live_bytes: int  # the largest number of bytes of tensors that it holds at a time, without the inner memory of a node
    inputs: list[str]  # the inputs of the model that it reads
    outputs: list[str]  # the outputs of the model that it makes
    receives: dict[int, list[str]]  # the tensors that it gets from other stages, by their number from 1
    received_bytes: int
    sent_bytes: int  # of the tensors that it makes and other stages read
    largest: str = attrs.field(repr=False)  # the name of the node with the most bytes of weights
    largest_bytes: int = attrs.field(repr=False)  # the bytes of that node's weights
    fed_bytes: int = attrs.field(repr=False)  # of the weights that ONNX Runtime need not copy
    passed_bytes: int = attrs.field(repr=False)  # the largest number of bytes that a section receives and sends together
    sections: list[Section] = attrs.field(repr=False)

    @property
    def own(self) -> list[int]:
        """The nodes that it computes, ascending. Other stages may also compute a node that depends only on weights."""
        return sorted({number for section in self.sections for number in section.own})

    def to_json(self) -> dict[str, Any]:
        """The fields that people may see, by name."""
        shown = [field.name for field in attrs.fields(GraphStage) if field.repr]
        found = attrs.asdict(self, filter=lambda field, _: field.name in shown)
        return found | {"receives": {str(stage): names for stage, names in self.receives.items()}}


@attrs.frozen(eq=False)
class Division:
    """A graph whose nodes have ranks. ``stages``: for each rank of a replica, what it has of ``graph``. ``steps``: the number of steps."""

    graph: Graph  # in which some nodes are divided
    stages: list[GraphStage]
    steps: int


def graph_stages(graph: Graph, stages: int, tensor: int = 1) -> list[GraphStage]:
    """Cut ``graph`` into ``stages`` stages, each of ``tensor`` ranks. Runs the model on this machine, with one sample and with two.

    A node costs the seconds to load its weights and to compute one sample. The largest stage is at most 5 % larger than the smallest
    possible one; among the cuts for which this holds, this function takes those that the fewest bytes cross. The ranks of a stage divide
    its largest nodes (MatMul, Gemm, Conv and Gather) by columns of their weights: so many nodes that the ranks get equal shares. The result
    has all ranks of the first stage, then those of the second one.

    Only arrays of numbers may cross a cut, no sequences for instance. Raises `InputError` if the model has fewer nodes or fewer places to
    cut, if no node can be divided, or if the trial run fails, so that the bytes that cross are not known.
    """
    _check_stages("stages", stages, graph)
    return divide_graph(graph, stages, tensor).stages


def divide_graph(graph: Graph, stages: int, tensor: int) -> Division:
    """Like `graph_stages`, but also returns the graph with the divided nodes. Raises the same errors."""
    _check_stages("pipeline_parallel", stages, graph)
    tensor, costs = arguments.whole("tensor_parallel", tensor, 1), node_costs(graph)
    places = cuts(graph, costs)
    known = [place for place in places if place.bytes is not None]
    if stages * tensor > 1 and len(known) < len(places) and (graph.trial.failed or stages > len(known) + 1):
        unknown = next(place for place in places if place.bytes is None)
        reason = graph.trial.failed or _not_numbers(graph, unknown.tensors)
        line = f"cannot be cut into {stages} stages: the size of the tensors that cross behind {unknown.name!r} is not known"
        raise InputError(f"{graph.path}: {line}: {reason}: expected at most {1 if graph.trial.failed else len(known) + 1}")
    seconds = [each.weight_bytes / LOAD_BYTES_S + (each.multiply_adds or 0) * DENSE_SHARE / WORK_S for each in costs]
    firsts = [0, *(place.nodes for place in known)]  # the nodes with which a stage may begin
    chosen = cut(_profile(np.add.reduceat(seconds, firsts), known), stages, 1)
    assert chosen is not None, "a stage may begin with each of these nodes"
    starts = [firsts[place] for place in chosen]
    edges, pieces, divided = dict[int, list[int]](), [Piece(number) for number in range(len(costs))], graph
    if tensor > 1:
        columns = divisible(graph)
        for start, end in zip(starts, [*starts[1:], len(costs)], strict=True):
            edges.update(_edges(seconds, columns, range(start, end), tensor))
        if not edges:
            raise InputError(
                f"tensor_parallel {tensor}: {graph.path} has no MatMul, Gemm, Conv or Gather with weights of several columns: expected 1; "
                "use pipeline_parallel for stages of whole nodes"
            )
        divided, pieces = divide(graph, edges)
    groups = _groups(divided, pieces, starts, tensor)
    sections = make_sections(divided, groups)
    if reason := _not_numbers(divided, [name for section in sections for name in (*section.uses, *_received(section))]):
        raise InputError(f"tensor_parallel {tensor}: {graph.path}: the ranks of a stage cannot exchange a tensor: {reason}: expected 1")
    found = [
        _stage(divided, costs, pieces, [group for group in groups if group.rank == rank], [each for each in sections if each.rank == rank])
        for rank in range(stages * tensor)
    ]
    return Division(divided, found, groups[-1].step)


def _check_stages(name: str, stages: int, graph: Graph) -> None:
    nodes = len(arguments.instance("graph", graph, Graph).model.graph.node)
    if arguments.whole(name, stages, 1) > nodes:
        raise InputError(f"{name} {stages}: expected at most {nodes}, the number of nodes of {graph.path}")


def _not_numbers(graph: Graph, names: Sequence[str]) -> str:
    """Which of these tensors that nodes make cannot leave a session of ONNX Runtime as an array; empty if all can."""
    strange = next((name for name in names if name not in graph.trial.tensors), None)
    return "" if strange is None else f"{strange!r} is no tensor of numbers that numpy has"


def _profile(seconds: NDArray[np.float64], places: Sequence[Cut]) -> Profile:
    """A `Profile` of one micro-batch: it counts only loading, so the whole cost of a node is given as loading. Coding costs nothing."""
    crossing = np.array([(place.bytes or 0) / _ENTRY_BYTES for place in places] + [0.0])
    return Profile(seconds, np.zeros(len(seconds)), crossing, np.ones(len(seconds), np.int64))


def _edges(seconds: Sequence[float], columns: Mapping[int, Columns], nodes: range, tensor: int) -> dict[int, list[int]]:
    """The nodes of a stage to divide, and the first column of each rank in them; see `divide`.

    The largest nodes are divided until the other nodes cost no more than the share of one rank. The first rank computes the other nodes, so
    it gets fewer columns.
    """
    total = whole = sum(seconds[number] for number in nodes)
    chosen = []
    for number in sorted(columns.keys() & set(nodes), key=lambda each: (-seconds[each], each)):
        if whole * tensor > total and seconds[number] > 0:
            chosen.append(number)
            whole -= seconds[number]
    if not chosen:
        return {}
    first = max(0.0, total / tensor - whole) / (total - whole)
    ends = [first + (1 - first) * rank / (tensor - 1) for rank in range(tensor)]
    return {number: [0, *(round(end * columns[number].count) for end in ends)] for number in chosen}


def _groups(graph: Graph, pieces: Sequence[Piece], starts: Sequence[int], tensor: int) -> list[Group]:
    """The nodes by rank and step. The columns of a divided node are one step after the nodes that they read, their join a step later."""
    nodes, made = graph.model.graph.node, makers(graph)
    placed: dict[int, tuple[int, int]] = {}  # of a node: its stage, and its step in the stage
    for number, piece in enumerate(pieces):
        stage = int(np.searchsorted(starts, piece.number, "right")) - 1
        before = [placed[made[name]] for name in reads(nodes[number]) if name in made]
        alone = piece.rank is None and not piece.joins
        placed[number] = stage, max((step + (not alone) for of, step in before if of == stage), default=0)
    found: dict[tuple[int, int, int], list[int]] = {(stage, 0, 0): [] for stage in range(len(starts))}
    for number, (stage, step) in placed.items():
        found.setdefault((stage, step, pieces[number].rank or 0), []).append(number)
    steps = {key: k for k, key in enumerate(sorted({key[:2] for key in found}), 1)}
    return [Group(stage * tensor + rank, steps[stage, step], found[stage, step, rank]) for stage, step, rank in sorted(found)]


def _stage(
    graph: Graph, costs: Sequence[NodeCost], pieces: Sequence[Piece], groups: Sequence[Group], sections: Sequence[Section]
) -> GraphStage:
    """The `GraphStage` of one rank."""
    nodes, tensors, sizes = graph.model.graph.node, graph.trial.tensors, weight_sizes(graph)
    all_nodes = [number for group in groups for number in group.nodes]
    own = {number for section in sections for number in section.own}
    weights = {number: _weight_bytes(sizes, nodes[number], pieces[number], costs) for number in own}
    read = {name for number in own for name in reads(nodes[number])} | {name for section in sections for name in section.outputs}
    received = [name for section in sections for name in _received(section)]
    receives: dict[int, list[str]] = {}
    for section in sections:
        for rank, names in section.receives.items():
            receives.setdefault(rank + 1, []).extend(names)
    names = [nodes[number].name or str(pieces[number].number + 1) for number in all_nodes]
    largest = max(own, key=lambda number: weights[number], default=None)
    return GraphStage(
        first=names[0] if names else "",
        last=names[-1] if names else "",
        nodes=len(all_nodes),
        weight_bytes=sum(sizes.get(name, 0) for name in read) + sum(_inner_bytes(pieces[number], costs) for number in own),
        multiply_adds=round(sum((costs[pieces[each].number].multiply_adds or 0) * pieces[each].share for each in all_nodes)),
        live_bytes=live_bytes(graph, sections),
        inputs=sorted({name for section in sections for name in section.inputs}),
        outputs=[name for section in sections for name in section.outputs],
        receives=dict(sorted(receives.items())),
        received_bytes=sum(tensors[name].bytes for name in received),
        sent_bytes=sum(tensors[name].bytes for name in {name for section in sections for name in _sent(section)} if name in tensors),
        largest="" if largest is None else nodes[largest].name or str(pieces[largest].number + 1),
        largest_bytes=0 if largest is None else weights[largest],
        fed_bytes=sum(sizes[name] for name in _fed(graph, sections)),
        passed_bytes=max((_passed_bytes(section, tensors) for section in sections), default=0),
        sections=list(sections),
    )


def _weight_bytes(sizes: Mapping[str, int], node: Any, piece: Piece, costs: Sequence[NodeCost]) -> int:
    return sum(sizes.get(name, 0) for name in reads(node)) + _inner_bytes(piece, costs)


def _inner_bytes(piece: Piece, costs: Sequence[NodeCost]) -> int:
    return 0 if piece.joins else costs[piece.number].inner_bytes


def _fed(graph: Graph, sections: Sequence[Section]) -> set[str]:
    """The weights that each section which reads them can get as inputs."""
    fed = [set(feeds(graph, section.own)) for section in sections]
    read = [{name for number in section.own for name in reads(graph.model.graph.node[number])} for section in sections]
    return {name for names in fed for name in names if all(name in one or name not in other for one, other in zip(fed, read, strict=True))}


def _received(section: Section) -> list[str]:
    return [name for names in section.receives.values() for name in names]


def _sent(section: Section) -> set[str]:
    return {name for _, _, names in section.sends for name in names}


def _passed_bytes(section: Section, tensors: Mapping[str, Any]) -> int:
    names = [*_received(section), *_sent(section)]
    return sum(tensors[name].bytes for name in names if name in tensors)
