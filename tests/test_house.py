"""The shape of the code: what may import what, what a worker loads, and that the documents' Python runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fsd_core
from fsd_core.cli.commands import root

ROOT = Path(__file__).parents[1]
# The rooms and the modules at the root of fsd_core, in order: each imports only what stands above it.
ROOMS = (
    *("driver", "errors", "common", "storage", "latency", "wrappers", "graph", "model", "partition", "kernel", "codec"),
    *(
        "channel",
        "protocol",
        "worker",
        "providers",
        "versions",
        "cost",
        "plan",
        "client",
        "measuring",
        "config",
        "machine",
        "demo",
        "report",
        "cli",
    ),
)
CORE = Path(fsd_core.__file__).parent
STAND_INS = ROOT / "conformance_tests" / "fsd_conformance"


def modules(package: Path) -> dict[str, Path]:
    """The file of each module of a package by its full name; a package itself is its ``__init__``."""
    files = sorted(package.rglob("*.py"))
    return {".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(file: Path, known: Collection[str]) -> set[str]:
    """Which of the ``known`` modules a file imports, also inside functions; what is imported for type checking alone does not count.

    A name that a package exports counts as an import of that package.
    """
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    skipped = {id(inner) for node in checking for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names}
    return found & set(known)


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_room_imports_only_what_stands_above_it() -> None:
    known = modules(CORE)
    wrong = []
    for name, file in known.items():
        if name == "fsd_core":  # whose names are those of the client, imported when first used
            continue
        own = ROOMS.index(name.split(".")[1])
        for other in imports(file, known):
            if other != "fsd_core" and ROOMS.index(other.split(".")[1]) > own:
                wrong.append(f"{name} imports {other}")
            if other == "fsd_core" and own < ROOMS.index("client"):
                wrong.append(f"{name} imports the client's names from fsd_core")
    assert wrong == []


@pytest.mark.parametrize("package", [CORE, STAND_INS, *sorted((ROOT / "adapters").glob("fsd_*"))], ids=lambda package: package.name)
def test_no_modules_import_each_other_in_a_circle(package: Path) -> None:
    known = modules(package)
    assert circle({name: imports(file, known) - {name} for name, file in known.items() if name != "fsd_core"}) == []


def test_the_root_of_core_is_small_and_no_module_is_long() -> None:
    assert len(list(CORE.glob("*.py"))) <= 8
    assert {path.name for path in CORE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= set(ROOMS)
    long = {str(file.relative_to(ROOT)): lines for file in CORE.rglob("*.py") if (lines := len(file.read_text().splitlines())) > 400}
    assert long == {}


def test_every_room_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {each for each in listed if each.startswith("fsd_core")} == {
        ".".join(file.parent.relative_to(CORE.parent).parts) for file in CORE.rglob("__init__.py")
    }


def test_core_knows_no_cloud_by_its_name() -> None:
    """A provider by somebody else is found as those of this project are: by its entry point, see `fsd_core.common.plugins`."""
    named = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in CORE.rglob("*")
        if file.is_file() and file.suffix not in (".pyc", ".so")
        for line in file.read_text().splitlines()
        if re.search(r"fsd_(aws|gcp|azure)|[\"'](aws|gcp|azure)[\"']", line)
    ]
    docstrings = [line for line in named if re.search(r"``|fsd_core\.emulator\(|fsd_core\.run\(", line)]
    assert sorted(set(named) - set(docstrings)) == []


def test_core_imports_no_sdk_and_a_worker_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # a package of namespaces may be made by the interpreter's start
        "import fsd_core.worker, fsd_core.worker.layers, fsd_core.worker.stages, fsd_local.messages, fsd_local.objects\n"
        "heavy = {'scipy', 'safetensors', 'onnx', 'onnxruntime'}\n"
        "heavy |= {'click', 'rich', 'mtkahypar', 'sklearn', 'boto3', 'botocore', 'google', 'azure', 'pytest'}\n"
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


def test_pictures_that_the_documents_show_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)|s(?:rc|rcset)=\"([^\"]+)\"", document.read_text()):
            assert (document.parent / "".join(path)).is_file(), f"{document.name} shows {path}"


def test_the_picture_of_the_rooms_has_every_room_once() -> None:
    words = re.findall(r">([a-z_]+)</text>", (ROOT / "docs" / "rooms.svg").read_text())
    assert sorted(word for word in words if word in ROOMS) == sorted(ROOMS)


@pytest.mark.parametrize(("ci", "derandomized"), [("true", "True"), ("", "False")])
def test_continuous_integration_tries_the_same_examples_each_time(ci: str, derandomized: str) -> None:
    code = "import runpy; runpy.run_path('tests/conftest.py'); from hypothesis import settings; print(settings().derandomize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"CI": ci})
    assert done.stdout.strip() == derandomized
