"""`Split`: how a run is split, and what each rank of a replica loads, computes and sends. It does not say which engine computes."""

from __future__ import annotations

from typing import Self

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.partition import Parallel
from fsd_core.plan.coding import Coding

__all__ = ["EMPTY_BYTES", "Split", "Step"]

EMPTY_BYTES = 35  # of an encoded block without live samples


@attrs.frozen(eq=False)
class Step:
    """What travels before ``layer`` (from 1) for all samples. Arrays have a number for each pair of ranks of a replica."""

    layer: int
    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    rows: NDArray[np.float64]  # values of one sample
    bytes: NDArray[np.float64]  # beyond those of an empty payload
    live: float = 1.0  # samples of which values are encoded
    waits: float = 0.5  # the share of the layer's work that waits for what travels
    empty: float = EMPTY_BYTES  # bytes of a payload without samples
    weight: float = 1.0  # it stands for so many steps
    packed: NDArray[np.bool_] | None = None  # whether a payload is encoded, and not equal to another one of its source; `None`: all are
    coding: Coding = attrs.field(factory=Coding)  # of its values

    def payloads(self, share: float) -> NDArray[np.float64]:
        """The bytes of each payload for a share of the samples."""
        return np.ceil(self.empty + self.bytes * share)

    def values(self, share: float) -> NDArray[np.float64]:
        """The values of each payload for a share of the samples."""
        return self.rows * self.live * share

    def encoding_s(self, share: float) -> NDArray[np.float64]:
        """The seconds of a core to encode each payload for a share of the samples."""
        found = self.coding.encodes(self.values(share))
        return found if self.packed is None else np.where(self.packed, found, 0.0)


@attrs.frozen(kw_only=True, eq=False)
class Split:
    """How a run is split. Ranks are those of one replica; layers are 0-based.

    Seconds are those of one core of this machine, and bytes are those of encoded arrays; both for all samples. ``error``: the relative
    standard error of these figures. ``notes``: what they rest on, for people.
    """

    parallel: Parallel
    samples: int
    batches: tuple[int, ...]  # the samples of each micro-batch
    starts: tuple[int, ...]  # the first layer of each stage
    steps: tuple[Step, ...]  # ascending by layer
    work_s: NDArray[np.float64]  # (layers, ranks) seconds to compute
    ready_s: NDArray[np.float64]  # (layers, ranks) seconds to make what is loaded ready to compute
    reads: tuple[tuple[float, ...], ...]  # by rank: the bytes of each read of its shard; the first one reads the head
    input_bytes: NDArray[np.float64]  # (ranks,) beyond those of an empty input; 0: the rank reads none
    output_bytes: NDArray[np.float64]  # (ranks,) beyond those of an empty output; 0: the rank writes none
    input_s: NDArray[np.float64]  # (ranks,) seconds to decode the input
    output_s: NDArray[np.float64]  # (ranks,) seconds to encode the output
    loads_first: bool = False  # a rank loads and prepares all its layers before it receives anything, and keeps them
    cores: float = 1.0  # so many cores shorten the computing of a rank, if its function has them
    python: float = 1.0  # see `fsd_core.plan.pace`
    live: tuple[float, ...] | None = None  # the share of the samples that are live before each layer, and at the end; `None`: all
    error: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.work_s)

    @property
    def stages(self) -> list[tuple[int, int]]:
        """The first layer of each stage, and the one after its last."""
        return list(zip(self.starts, [*self.starts[1:], self.layers], strict=True))

    @property
    def replica_batches(self) -> int:
        """Micro-batches of the replica with the most."""
        return -(-len(self.batches) // self.parallel.data)

    @property
    def share(self) -> float:
        """The share of the samples in the largest micro-batch."""
        return max(self.batches) / self.samples

    @property
    def threaded(self) -> float:
        """The share of the computing of a rank that several cores shorten."""
        return 1.0

    def thinned(self, most: int) -> Self:
        """The same with at most ``most`` steps inside each stage, each of which stands for several."""
        kept: list[Step] = []
        for first, last in self.stages:
            inside = [step for step in self.steps if first + 1 < step.layer <= last]
            kept += [step for step in self.steps if step.layer == first + 1]
            chosen: list[int] = np.unique(np.linspace(0, len(inside) - 1, min(most, len(inside))).astype(int)).tolist() if inside else []
            weight = len(inside) / max(1, len(chosen))
            kept += [
                inside[number] if weight == inside[number].weight else attrs.evolve(inside[number], weight=weight) for number in chosen
            ]
        return attrs.evolve(self, steps=tuple(kept))
