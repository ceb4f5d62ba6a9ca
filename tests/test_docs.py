"""Pages that are made from code are of the code as it is."""

from __future__ import annotations

import importlib.util
import re
from importlib import import_module
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
