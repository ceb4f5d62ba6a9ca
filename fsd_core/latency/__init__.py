"""Dated latencies of cloud services, and reproducible draws from them. `fsd_core.wrappers.latency` delays requests by these draws."""

from fsd_core.latency.draws import Draws
from fsd_core.latency.named import find, load, measured_table, names, shipped_table
from fsd_core.latency.spec import Latency, words
from fsd_core.latency.table import VERBS, Row, Table

__all__ = ["VERBS", "Draws", "Latency", "Row", "Table", "find", "load", "measured_table", "names", "shipped_table", "words"]
