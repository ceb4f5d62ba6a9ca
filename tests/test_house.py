"""The shape of the code: what may import what, what a worker loads, and that the documents' Python runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fsd_core
from fsd_core.cli.commands import root

ROOT = Path(__file__).parents[1]
# A module imports only what stands above it.
ORDER = (
    *(
        "driver",
        "errors",
        "home",
        "sealed",
        "arguments",
        "interrupt",
        "crew",
        "textfile",
        "proxies",
        "checks",
        "settings",
        "wrappers.meter",
        "wrappers",
        "model",
        "launch",
        "partition",
        "kernel",
        "codec",
        "retry",
        "keys",
        "store",
        "slots",
    ),
    *(
        "channel",
        "shard",
        "stage",
        "spawn",
        "runconfig",
        "abort",
        "probe",
        "cold",
        "stopwatch",
        "worker",
        "providers",
        "provisioning",
        "package",
        "posts",
        "versions",
        "result",
        "follow",
        "collect",
        "farewell",
        "client",
        "garbage",
        "cost.usage",
        "cost.quantities",
        "cost.tariff",
        "cost",
        "config",
        "demo",
        "figures",
        "compare",
        "report",
        "cli",
    ),
)


def part(module: str) -> int:
    """The place in `ORDER` of a module's name below fsd_core."""
    name = module
    while module not in ORDER:
        assert module, f"ORDER does not place {name}"
        module = module.rpartition(".")[0]
    return ORDER.index(module)


def imports(file: Path, *, deferred: bool) -> set[str]:
    """What a file imports of fsd_core: at module level, or with ``deferred`` also inside functions; type checking aside."""
    found = set()
    tree = ast.parse(file.read_text())
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in checking for inner in ast.walk(node)}
    for node in ast.walk(tree) if deferred else tree.body:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fsd_core":
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "fsd_core" else [node.module]
            found |= {name.partition(".")[2] for name in names}
    return {"client" if name in fsd_core.__all__ else name for name in found}


def test_a_module_imports_only_what_stands_above_it() -> None:
    package = Path(fsd_core.__file__).parent
    wrong = []
    for file in sorted(package.rglob("*.py")):
        own = ".".join(file.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        if own != "__init__":
            wrong += [f"{own} imports {other}" for other in imports(file, deferred=True) if part(other) > part(own)]
    assert wrong == []


def test_core_imports_no_sdk_and_a_worker_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # a package of namespaces may be made by the interpreter's start
        "import fsd_core.worker, fsd_local.messages, fsd_local.objects\n"
        "heavy = {'scipy', 'safetensors', 'click', 'rich', 'mtkahypar', 'sklearn', 'boto3', 'botocore', 'google', 'azure', 'pytest'}\n"
        "print(*sorted(heavy & {name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
SNIPPETS = [
    pytest.param(snippet, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", document.read_text(), re.S | re.M))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_python_of_the_documents_runs(snippet: str, tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(snippet)
    environment = os.environ | {"FSD_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-P", str(file)], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_the_documents_exist(document: Path) -> None:
    known = set(root.commands)
    text = document.read_text()
    spans = re.findall(r"^```\w*\n(.*?)^```|^    ([^\n]*)$|`([^`\n]+)`", text, re.S | re.M)
    code = "\n".join("".join(span) for span in spans)
    named = set(re.findall(r"^\s*fsd ([a-z]+)", code, re.M))
    assert named <= known, f"{document.name} names commands that do not exist"


def test_paths_that_the_documents_name_exist() -> None:
    named = 0
    for document in DOCUMENTS:
        for path in re.findall(r"`((?:fsd_core|adapters|handlers|conformance_tests|tests|benchmarks|docs)/[\w./]+)`", document.read_text()):
            named += 1
            assert (ROOT / path).exists(), f"{document.name} names {path}"
    assert named > 10


@pytest.mark.parametrize(("ci", "derandomized"), [("true", "True"), ("", "False")])
def test_continuous_integration_tries_the_same_examples_each_time(ci: str, derandomized: str) -> None:
    code = "import runpy; runpy.run_path('tests/conftest.py'); from hypothesis import settings; print(settings().derandomize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"CI": ci})
    assert done.stdout.strip() == derandomized
