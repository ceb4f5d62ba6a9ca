"""What somebody can do who can use the queues of a run and not read its store: nothing. And the frame key is nowhere but in the store."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forged", ROOT / "benchmarks" / "forged.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_of_2000_forged_messages_none_is_accepted() -> None:
    """The cases of benchmarks/forged.py, which gives a million."""
    forged = benchmark()
    *rows, control = forged.attack(200)
    assert len(rows) == 10
    assert [row for row in rows if not forged.right(row)] == []
    assert {row.messages for row in rows} == {200}
    assert sum(row.dropped for row in rows) > 1000
    assert control.accepted == control.messages > 100
