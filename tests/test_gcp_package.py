"""The zip that Google builds the function from: what is in it, and that it runs from it."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fsd_conformance import emulators
from fsd_conformance.emulators.google import Google
from fsd_core import run
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.providers.package import files
from fsd_gcp import PROVIDER, package


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    made = package.build("python312", tmp_path_factory.mktemp("packages"))
    assert made.digest == package.digest("python312")
    with zipfile.ZipFile(io.BytesIO(made.body)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_entry_file_and_requirements_are_at_the_root(content: dict[str, bytes]) -> None:
    assert {name for name in content if "/" not in name} == {"main.py", "requirements.txt"}
    assert content["main.py"].count(b"\n") < 30
    assert any(isinstance(node, ast.FunctionDef) and node.name == "handle" for node in ast.parse(content["main.py"]).body)


def test_every_requirement_is_pinned_and_is_what_is_tested_here(content: dict[str, bytes]) -> None:
    from importlib.metadata import version

    lines = [line for line in content["requirements.txt"].decode().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    assert {"numpy", "zstandard", "google-cloud-pubsub", "google-cloud-storage"} <= pinned.keys()
    for name in pinned.keys() - {"numpy", "zstandard"}:  # those two have wheels for every runtime that [gcp] runtime may name
        assert pinned[name] == version(name), f"{name}: `make .venv/all.stamp` installs what is pinned"


def test_nothing_of_the_client_is_in_it(content: dict[str, bytes]) -> None:
    names = set(content)
    assert {"fsd_core/worker/program.py", "fsd_core/providers/http_invoke.py", "fsd_gcp/__init__.py", "fsd_gcp/invoke.py"} <= names
    assert not {f"fsd_gcp/{each}.py" for each in ("api", "function", "package", "policy", "provision", "queues", "settings")} & names
    assert not [name for name in names if name.startswith(("fsd_core/cli/", "fsd_gcp/handler/", "fsd_aws", "fsd_local"))]
    assert max(map(len, content.values())) < 200_000


def test_a_worker_imports_only_what_is_in_it_and_what_it_requires(content: dict[str, bytes], tmp_path: Path) -> None:
    for name, body in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(body)
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "import main\n"
        "print(json.dumps({n: getattr(m, '__file__', None) or '' for n, m in sys.modules.items() if n.split('.')[0].startswith('fsd_')}))\n"
        "heavy = {'scipy', 'click', 'rich', 'flask', 'safetensors'} & {n.partition('.')[0] for n in sys.modules}\n"
        "print(json.dumps(sorted(heavy)))\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    modules, heavy = map(json.loads, done.stdout.splitlines())
    assert {"fsd_core.worker", "fsd_gcp"} <= modules.keys()
    assert all(file.startswith(str(tmp_path)) for file in modules.values())
    assert heavy == []


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    assert package.build("python312", tmp_path / "a").body == package.build("python312", tmp_path / "b").body
    assert package.digest("python312") == package.digest("python313")  # Google's build is told the runtime: the zip is the same


def test_the_command_that_terraform_wants(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fsd_gcp.package", str(tmp_path / "out.zip"), "python313"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"FSD_HOME": str(tmp_path)})
    told = json.loads(done.stdout)
    assert zipfile.is_zipfile(told["package"])
    assert told.keys() == {"package", "package_text", "code", "runtime"}
    assert "main.tf" in files("fsd_gcp.handler")


@pytest.mark.emulator
def test_a_run_from_the_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployed as on the platform, but that packages are those of this machine: the zip alone has this project's code."""
    monkeypatch.setenv("FSD_HOME", str(tmp_path))

    class FromZip(Google):
        functions = ("--code", "zip")

    with emulators.own(FromZip):
        provisioner = PROVIDER.provisioner({})
        made = provisioner.ensure("zip", 2, 4)
        assert made.names["code"] == package.digest("python312")
        result = run(
            radixnet(1024, 6), open_inputs("random:20:0.3:1", 1024), provider="gcp", workers=2, partition="block", app="zip", timeout=90,
            home=tmp_path,
        )  # fmt: skip
        assert result.output.nnz > 0
        assert provisioner.destroy("zip")
