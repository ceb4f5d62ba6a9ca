"""A run's timeline for tools that show traces: Perfetto, chrome://tracing.

The format is the "Trace Event Format" of the Chromium project, with complete events ("X"). Times are in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fsd_core.report.figures import RANK_PARTS, rank_spans

__all__ = ["MARK", "trace"]

MARK = '"made_by": "fsd"'  # marks the files that fsd made; it is at their beginning


def trace(record: Mapping[str, Any]) -> str:
    """The timeline as JSON: a thread for each rank, an event for each of its spans. Time starts when the client begins to launch."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": f"run {record['run']}, {record['provider']}"}}
    ]
    for rank in record["ranks"]:
        number = rank["rank"]
        events.append({"ph": "M", "name": "thread_name", "pid": 0, "tid": number, "args": {"name": f"rank {number}"}})
        events += [
            {"ph": "X", "name": RANK_PARTS[part], "pid": 0, "tid": number, "ts": 1e6 * start, "dur": 1e6 * (end - start)}
            for part, start, end in rank_spans(rank)
        ]
    return json.dumps({"otherData": {"made_by": "fsd", "run": record["run"]}, "displayTimeUnit": "ms", "traceEvents": events})
