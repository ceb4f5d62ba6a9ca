"""`compared`: compares the prediction of a run with its actual figures: seconds, requests, bytes and USD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BYTES", "PHASES", "REQUESTS", "compared"]

REQUESTS = {
    "publishes": ("publish_requests",),
    "receives": ("receive_requests",),
    "acks": ("ack_requests",),
    "object puts": ("object_puts",),
    "object gets": ("object_gets",),
}
BYTES = {"bytes between workers": ("payload_bytes_sent",), "bytes of objects": ("object_bytes_written", "object_bytes_read")}
PHASES = ("load", "compute", "exchange")  # means over the workers


def compared(record: Mapping[str, Any], usd: float | None) -> dict[str, tuple[float, float]]:
    """The predicted and the actual figure of a run, by part such as "compute" or "acks"; empty if the run has no prediction.

    ``record``: `Result.to_json`. ``usd``: the total of the run's bill, or `None`. The part "seconds" counts from the lease of a slot,
    without staging, because a prediction does not cover staging.
    """
    predicted = record.get("predicted")
    if not predicted:
        return {}
    meter, workers, sums = record["meter"], record["workers"], record["seconds_sum"]
    found = {"seconds": (predicted["seconds"]["p50"], predicted["lasted"])}
    found |= {name: (predicted["parts"][name], sums[name] / workers) for name in PHASES}
    for name, fields in (*REQUESTS.items(), *BYTES.items()):
        found[name] = (float(_sum(predicted["meter"], fields)), float(_sum(meter, fields)))
    if usd is not None and predicted["usd"] is not None:
        found["USD"] = (predicted["usd"], usd)
    return found


def _sum(meter: Mapping[str, int], fields: Sequence[str]) -> int:
    return sum(meter.get(name, 0) for name in fields)
