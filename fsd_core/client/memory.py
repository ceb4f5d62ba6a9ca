"""What a run says of the memory of its workers: what was predicted, who streams, and what to do where it was too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fsd_core.client.work import Cut
from fsd_core.driver import Code, InvokeLimits
from fsd_core.errors import RunFailed

__all__ = ["advise", "figures", "streaming"]


def streaming(cut: Cut, replicas: int) -> tuple[int, str]:
    """How many workers stream, because their weights are larger than the memory of a function; and a line about them, empty if none."""
    count = replicas * sum(rank.streams for rank in cut.ranks)
    if not count:
        return 0, ""
    times = -(-len(cut.samples) // replicas)
    again = "once" if times == 1 else f"{times} times, once for each micro-batch"
    whose = "1 worker streams its weights, which are" if count == 1 else f"{count} workers stream their weights, which are"
    return count, f"{whose} larger than the memory of a function: read layer by layer, {again}"


def figures(
    cut: Cut,
    needs: Sequence[int],
    kept: Sequence[int],
    limits: InvokeLimits,
    ranks: Sequence[dict[str, Any]],
    peak_bytes: int,
    replicas: int,
) -> dict[str, int]:
    """The ``memory`` of a result. Puts into the record of each rank what was predicted for it.

    ``needs``: bytes that each rank of a replica was expected to need; ``kept``: bytes that it was expected to keep of what it sent, within
    its budget; empty where nobody knows.
    """
    predicted = [need + more for need, more in zip(needs, kept or [0] * len(needs), strict=True)]
    for record in ranks:
        record["predicted_bytes"] = predicted[record["rank"] % len(predicted)]
    found = {"peak_bytes_max": peak_bytes, "predicted_bytes_max": max(predicted), "streamed": streaming(cut, replicas)[0]}
    return found if limits.memory_bytes is None else found | {"limit_bytes": limits.memory_bytes}


def advise(error: BaseException, cut: Cut, provider: str) -> None:
    """Add to the error of a run whose worker needed more memory than it has what was predicted, and what to do."""
    if isinstance(error, RunFailed) and error.code is Code.TOO_LARGE and "memory" in error.message:
        rank = (
            cut.ranks[error.rank % len(cut.ranks)]
            if error.rank is not None and error.rank >= 0
            else max(cut.ranks, key=lambda each: each.bytes)
        )
        error.message += (
            f"; {rank.bytes >> 20} MB were predicted: raise [{provider}] memory_mb, or use more workers or a smaller batch_size"
        )
