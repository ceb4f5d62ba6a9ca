"""The record of a worker: its times, its counts of requests and bytes, its memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fsd_core.common.sealed import seal
from fsd_core.common.stopwatch import Stopwatch
from fsd_core.kernel.compiled import kernel_name
from fsd_core.protocol import records
from fsd_core.worker.memory import peak_bytes

__all__ = ["make"]


def make(
    rank: int,
    attempt: int,
    watch: Stopwatch,
    *,
    launch_s: float,
    init_s: float,
    meter: Mapping[str, int],
    layers_meter: Mapping[str, int],
    lines: Sequence[Sequence[Any]],
    incarnation: int = 0,
    behind_s: float = 0.0,
    kept_bytes: int = 0,
    ended: tuple[int, bytes] | None = None,
) -> bytes:
    """The content of the record's object: sealed JSON, then the payloads that the worker kept for lost ranks.

    ``launch_s``: seconds from the start of the run to the start of this worker. ``init_s``: seconds of a cold start, else 0. ``meter``: all
    requests so far; this function adds the put of the record. ``layers_meter``: the part of ``meter`` that was counted in the layer loop.
    ``lines``: the log lines of the worker, each as `Line.packed`. ``behind_s``: see `Recovery`. ``kept_bytes``: `Kept.peak_bytes`.
    ``ended``: what `Kept.end` returned.
    """
    function_s = math.fsum((*watch.seconds.values(), watch.starved))
    seconds = {"launch": launch_s, **watch.seconds, "starved": watch.starved, "init": init_s, "function": function_s}
    fields: dict[str, Any] = {"rank": rank, "attempt": attempt, "seconds": seconds, "timeline": watch.timeline()}
    fields |= {"peak_bytes": peak_bytes(), "kernel": kernel_name(), "log": list(lines)}
    shelved, left = ended or (0, None)
    fields |= {"incarnation": incarnation, "behind_s": behind_s, "kept_bytes": kept_bytes, "left": left is not None, "shelved": shelved}
    counts = dict(meter)
    counts["object_puts"] += 1
    body, size = b"", 0
    while counts["object_bytes_written"] != meter["object_bytes_written"] + size or not body:  # its length is part of its content
        counts["object_bytes_written"] = meter["object_bytes_written"] + size
        body = seal(fields | {"meter": counts, "meter_layers": dict(layers_meter)})
        size = records.size(body, left)
    return records.join(body, left)
