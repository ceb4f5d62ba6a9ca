"""Pages that are made from code are of the code as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_cases_has_every_case():
    spec = importlib.util.spec_from_file_location("docs_conformance", DOCS / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    cases = {(group, case) for group, promises in table.promises().items() for case in promises}
    assert table.listed((DOCS / "conformance.md").read_text()) == cases, "make docs"
