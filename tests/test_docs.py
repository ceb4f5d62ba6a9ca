"""Pages that are made from code are of the code as it is."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from fsd_core.model import Csr, Layer, Model
from fsd_core.partition import Parallel
from fsd_core.plan.row_workload import RowWorkload

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_cases_has_every_case():
    spec = importlib.util.spec_from_file_location("docs_conformance", DOCS / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    cases = {(group, case) for group, promises in table.promises().items() for case in promises}
    assert table.listed((DOCS / "conformance.md").read_text()) == cases, "make docs"


def test_the_table_of_limits_is_what_the_adapters_say():
    text = (DOCS / "providers.md").read_text().partition("## Limits")[2]
    rows = {name: cells for name, *cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line)}
    arguments = {"local": (30.0,), "aws": ("binary", 256, 30.0), "gcp": (10.0,), "azure": ("standard", 10.0)}
    for column, (name, given) in enumerate(arguments.items()):
        limits = import_module(f"fsd_{name}.limits")
        messages, objects = limits.messages(*given), limits.OBJECTS
        expected = {
            "messages a publish": messages.batch_messages,
            "bytes a publish": messages.batch_bytes,
            "bytes a message": messages.message_bytes,
            "bytes that a message adds": messages.overhead_bytes,
            "messages a receive": messages.receive_messages,
            "longest poll, s": messages.wait_s,
            "bytes that are billed as one request": messages.billing_bytes,
            "keys a delete": objects.delete_keys,
            "keys a page": objects.page_keys,
            "bytes of a launch": import_module(f"fsd_{name}.limits").PAYLOAD_BYTES,
        }
        assert {row: float(re.sub(",", "", rows[row][column])) for row in expected} == expected, name


def test_the_page_of_platforms_has_the_figures_that_its_benchmark_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS.parent / "benchmarks"))
    page, text = import_module("platforms_page"), (DOCS / "platforms.md").read_text()
    assert page.filled(text, page.rendered(json.loads((DOCS / "platforms.json").read_text()))) == text, 'platforms.py --workloads ""'


def test_the_figures_of_platforms_are_what_a_plan_says_today(monkeypatch: pytest.MonkeyPatch):
    """For the workload `calls`, with a network of the same size as the trained one: its computing takes next to no time.

    Python takes as long as on the machine on which the page was made.
    """
    monkeypatch.setattr("fsd_core.plan.facts.python_pace", lambda: 1.0)
    monkeypatch.syspath_prepend(str(DOCS.parent / "benchmarks"))
    platforms, widths = import_module("platforms"), (64, 384, 384, 384, 384, 10)
    kept = json.loads((DOCS / "platforms.json").read_text())["workloads"]["calls"]["rows"]
    random = np.random.default_rng(0)
    matrices = [sparse.random(rows, columns, 0.1, "csr", np.float32, random) for columns, rows in pairwise(widths)]
    layers = tuple(
        Layer(Csr(each.indptr, each.indices, each.data, each.shape), np.zeros(each.shape[0], np.float32), "relu", None, False)
        for each in matrices
    )
    workload = RowWorkload(Model(layers, "digits"), sparse.csr_matrix(random.random((16, 64), np.float32)))
    places = [platforms.placed(cloud) for cloud in platforms.CLOUDS]
    today = list(platforms.grid(workload, [Parallel(), Parallel(pipeline=2)], False, places))
    assert len(today) == 9
    for row in today:
        before = next(each for each in kept if all(each[key] == row[key] for key in ("cloud", "way", "channel")))
        for key in ("fastest", "cheapest"):  # over all sizes of a function: two of them may be about as good as each other
            assert row[key] == pytest.approx(before[key], rel=0.1), f"{row['cloud']}, {row['way']}: benchmarks/platforms.py"
