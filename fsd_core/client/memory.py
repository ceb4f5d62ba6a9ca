"""The memory of a run's workers: predicted and actual bytes, which workers stream their weights, and advice if the memory was too small."""

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
    """The ``memory`` of a result. Also writes ``predicted_bytes`` into each record of ``ranks``.

    For each rank of a replica: ``needs``, the bytes that it is expected to need; ``kept``, the bytes of sent payloads that it is expected
    to keep, empty if the run has no prediction.
    """
    predicted = [need + more for need, more in zip(needs, kept or [0] * len(needs), strict=True)]
    for record in ranks:
        record["predicted_bytes"] = predicted[record["rank"] % len(predicted)]
    found = {"peak_bytes_max": peak_bytes, "predicted_bytes_max": max(predicted), "streamed": streaming(cut, replicas)[0]}
    return found if limits.memory_bytes is None else found | {"limit_bytes": limits.memory_bytes}


def advise(error: BaseException, cut: Cut, provider: str) -> None:
    """If a worker's memory was too small, add the predicted memory and advice to the message of ``error``."""
    if isinstance(error, RunFailed) and error.code is Code.TOO_LARGE and "memory" in error.message:
        rank = (
            cut.ranks[error.rank % len(cut.ranks)]
            if error.rank is not None and error.rank >= 0
            else max(cut.ranks, key=lambda each: each.bytes)
        )
        error.message += (
            f"; {rank.bytes >> 20} MB were predicted: raise [{provider}] memory_mb, or use more workers or a smaller batch_size"
        )
