"""What each rank computes of an ONNX model between two exchanges, what it sends and receives, and how much memory its tensors take.

A tensor goes from the rank that makes it straight to each rank that reads it. A tensor that depends only on weights does not travel: each
section that reads it computes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from fsd_core.graph import Graph
from fsd_core.graph.figures import makers
from fsd_core.graph.library import reads

__all__ = ["Group", "Section", "live_bytes", "make_sections"]


@attrs.frozen
class Group:
    """The nodes that a rank computes in a step, ascending. ``rank`` is the number in the replica, from 0. Steps count from 1."""

    rank: int
    step: int
    nodes: list[int]


@attrs.frozen
class Section:
    """A group with the names of all tensors that it reads and makes."""

    rank: int
    step: int
    own: list[int]  # its nodes that depend on an input or on random numbers, and all nodes that depend only on weights and that it needs
    inputs: list[str]  # the inputs of the model that it reads
    receives: dict[int, list[str]]  # by rank: what that rank sends before this section begins
    uses: list[str]  # what it reads of the tensors that earlier sections of this rank made or received
    gives: list[str]  # what it has to make: outputs, and what other sections read
    outputs: list[str]  # the outputs of the model that it makes
    sends: list[tuple[int, int, list[str]]] = attrs.field(factory=list)  # (rank, step, what this rank sends to it after this section)


def make_sections(graph: Graph, groups: Sequence[Group]) -> list[Section]:
    """Make the sections of ``groups``. Leaves out a section from which no section reads, and which makes no output.

    ``groups`` are in the order of their steps and hold each node once. If a node reads from a node of another group, its step is later.
    """
    nodes, made = graph.model.graph.node, makers(graph)
    group_of = {number: place for place, group in enumerate(groups) for number in group.nodes}
    home = {name: group_of[number] for name, number in made.items()}
    outputs: list[list[str]] = [[] for _ in groups]
    for each in graph.model.graph.output:
        outputs[home.get(each.name, len(groups) - 1)].append(each.name)
    alone = {name: number for number, node in enumerate(nodes) for name in node.output if name and name not in made}
    own = [_own(nodes, group.nodes, alone, outputs[place]) for place, group in enumerate(groups)]
    names = [list(dict.fromkeys(_read(nodes, numbers) + outputs[place])) for place, numbers in enumerate(own)]
    inputs = {each.name for each in graph.inputs}
    found, have = list[Section](), dict[int, set[str]]()  # by rank: what it received
    sends: dict[tuple[int, int], list[tuple[int, list[str]]]] = {}  # by sender and step: what each rank gets
    for place, group in enumerate(groups):
        away = [name for name in names[place] if home.get(name, place) != place]  # made by other groups
        arrived = have.setdefault(group.rank, set())
        receives: dict[int, list[str]] = {}
        for name in away:
            if groups[home[name]].rank != group.rank and name not in arrived:
                receives.setdefault(groups[home[name]].rank, []).append(name)
        new = {name for some in receives.values() for name in some}
        found.append(
            Section(
                rank=group.rank,
                step=group.step,
                own=own[place],
                inputs=sorted(inputs.intersection(names[place])),
                receives=dict(sorted(receives.items())),
                uses=[name for name in away if name not in new],
                gives=list(outputs[place]),
                outputs=outputs[place],
            )
        )
        arrived |= new
        for rank, some in receives.items():
            sends.setdefault((rank, group.step), []).append((group.rank, some))
    for (_, step), targets in sends.items():  # a rank sends once for each step: after the section that makes the last of these tensors
        sender = max(home[name] for _, some in targets for name in some)
        found[sender].sends.extend((rank, step, some) for rank, some in targets)
    for place, section in enumerate(found):
        for name in (*(name for some in section.receives.values() for name in some), *section.uses):
            if home[name] != place and name not in found[home[name]].gives:
                found[home[name]].gives.append(name)
    return [section for section in found if section.gives]


def live_bytes(graph: Graph, sections: Sequence[Section]) -> int:
    """The largest number of bytes of tensors that a rank holds at a time, for one sample. The inner memory of a node does not count.

    ``sections``: all sections of the rank, in the order of their steps.
    """
    nodes, made = graph.model.graph.node, makers(graph)
    sizes = {
        each.name: math.prod(1 if size is None else size for size in each.shape or ()) * np.dtype(each.dtype).itemsize
        for each in graph.inputs
    }
    begins, ends, at = dict[str, int](), dict[str, int](), 0
    for section in sections:
        begins |= {name: at for some in section.receives.values() for name in some}
        begins |= dict.fromkeys(section.inputs, 0)
        for number in section.own:
            begins |= {name: at for name in nodes[number].output if made.get(name) == number}
            ends |= {name: at for name in (*nodes[number].output, *reads(nodes[number])) if name in begins}
            at += 1
        later = {name for _, _, some in section.sends for name in some if name not in section.gives}  # made in an earlier section
        ends |= dict.fromkeys((*later, *(sizes.keys() & set(section.outputs))), at - 1)
    change = np.zeros(at + 1, np.int64)
    for name, begin in begins.items():
        size = sizes[name] if name in sizes else graph.trial.tensors[name].bytes if name in graph.trial.tensors else 0
        change[begin] += size
        change[ends.get(name, begin) + 1] -= size
    return int(np.cumsum(change).max())


def _own(nodes: Any, group: Sequence[int], alone: Mapping[str, int], outputs: Sequence[str]) -> list[int]:
    """The nodes of a group that depend on an input, and all nodes that it needs of ``alone``.

    ``alone`` has the nodes that depend only on weights, by the names of the tensors that they make.
    """
    by_weights = set(alone.values())
    own = {number for number in group if number not in by_weights}
    left = [*outputs, *_read(nodes, own)]
    while left:
        if (number := alone.get(left.pop())) is not None and number not in own:
            own.add(number)
            left += reads(nodes[number])
    return sorted(own)


def _read(nodes: Any, numbers: Any) -> list[str]:
    return [name for number in numbers for name in reads(nodes[number])]
