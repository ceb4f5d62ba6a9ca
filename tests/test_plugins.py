"""A provider of somebody else: fsd finds it by its entry points alone, and every command works with it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsd_conformance.source_tree import importable
from fsd_core import cost
from fsd_core.cli import main
from fsd_core.common import plugins
from fsd_core.errors import InputError
from fsd_core.latency import load as load_table
from fsd_core.providers import find, installed

PYPROJECT = """
[project]
name = "acme-for-fsd"
version = "2.1"
dependencies = ["fsd-inference", "numpy", "acme-sdk>=3"]
[project.entry-points."fsd.providers"]
acme = "acme_fsd:PROVIDER"
broken = "acme_fsd.broken:PROVIDER"
old = "acme_fsd:OLD"
silent = "acme_fsd:SILENT"
[project.entry-points."fsd.emulators"]
acme = "acme_fsd.harness:HARNESSES"
broken = "acme_fsd.broken:HARNESSES"
"""
# Its services are those of this machine: this test is of what fsd finds.
PROVIDER = """
from fsd_local import LocalProvider

class Acme(LocalProvider):
    name = "acme"

class Old(Acme):
    contract = 0

class Silent:
    name = "silent"

PROVIDER, OLD, SILENT = Acme(), Old(), Silent()
"""
HARNESS = """
from fsd_conformance.emulators.emulator import Emulator
from fsd_conformance.harness import EmulatedHarness

class Cloud(Emulator):
    name = "acme-cloud"
    clears = ("ACME_",)
    def __init__(self, folder, guard=None):
        self.servers, self.env = (), {"ACME_ADDRESS": "127.0.0.1:1"}

class AcmeHarness(EmulatedHarness):
    name, emulator, lease_s = "acme-cloud", Cloud, 1.0
    def provider(self):
        from acme_fsd import PROVIDER
        return PROVIDER
    def settings(self, folder):
        return {"root": str(folder), "lease_s": 1.0}

HARNESSES = {"acme-cloud": AcmeHarness}
"""
LATENCY = 'title = "Acme"\n[publish]\np50_ms = 0.1\np90_ms = 0.2\np99_ms = 0.3\n'


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    project = tmp_path_factory.mktemp("acme")
    package = project / "acme_fsd"
    for folder in ("tariffs", "latency"):
        (package / folder).mkdir(parents=True)
    local = next(iter(plugins.files("tariffs", "local").values())).read_text()
    files = {
        "__init__.py": PROVIDER,
        "harness.py": HARNESS,
        "broken.py": "import acme_sdk_that_is_missing\n",
        "latency/acme-lan.toml": LATENCY,
    }
    files |= {"tariffs/a-old.toml": local.replace('"local"', '"acme"')}
    files |= {
        "tariffs/acme-1.toml": local.replace('"local"', '"acme"')
        .replace("region =", "default = true\nregion =")
        .replace("usd = 0", "usd = 2")
    }
    for name, text in files.items():
        (package / name).write_text(textwrap.dedent(text))
    (project / "pyproject.toml").write_text(PYPROJECT)
    with importable(project, tmp_path_factory.mktemp("metadata")):
        yield package


Fsd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fsd(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fsd:
    """Run the command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(words))
        return code, *capfd.readouterr()

    return call


def test_the_commands_of_a_run(fsd: Fsd, tmp_path: Path) -> None:
    (tmp_path / "fsd.toml").write_text('provider = "acme"\nworkers = 2\npartition = "block"\n[acme]\nlease_s = 3\n')
    code, out, err = fsd("run", "radixnet:1024:2", "random:6", "--json", "--latency", "acme-lan,seed=1", "-v")
    assert code == 0, err
    result = json.loads(out)
    assert (result["provider"], result["latency"]["table"], result["bill"]["tariff"]) == ("acme", "acme-lan", "acme-1")
    assert result["bill"]["total_usd"] > 0
    record = json.loads((tmp_path / "home" / "runs" / f"{result['run']}.json").read_text())
    assert record["versions"]["acme-for-fsd"] == "2.1"
    assert record["versions"]["acme-sdk"] == "not installed"
    for command in (["tariff", "show", "acme-1"], ["runs"], ["logs", result["run"]], ["gc"], ["clean", "--keep-records"]):
        code, out, err = fsd(*command)
        assert code == 0, (command, err)
    code, out, _ = fsd("deploy", "--json", "--app", "mine")
    assert json.loads(out)["names"]["lease_s"] == "3.0"
    assert fsd("destroy", "--app", "mine")[0] == 0


def test_compare(fsd: Fsd) -> None:
    words = ["radixnet:1024:2", "random:6", "--providers", "local,acme", "--channels", "queue", "--workers", "2", "--repeat", "1"]
    code, out, err = fsd("compare", *words, "--partition", "block", "--emulator", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["providers"] == {
        "local": {"emulator": None, "tariff": "local", "error": None},
        "acme": {"emulator": "acme-cloud", "tariff": "acme-1", "error": None},
    }
    assert all(cell["runs"] for cell in found["cells"])


def test_tariffs_and_latencies(fsd: Fsd) -> None:
    assert {"acme-1", "a-old"} <= set(cost.names())
    assert (cost.default_tariff("acme"), cost.default_tariff("nobody")) == ("acme-1", None)
    assert "acme-1" in fsd("tariff", "list")[1]
    code, _, err = fsd("run", "radixnet:1024:2", "random:6", "--provider", "acme", "--tariff", "local")
    assert (code, "expected a tariff of acme" in err) == (2, True), err  # acme is not free


def test_emulators_and_the_suite(fsd: Fsd) -> None:
    code, out, err = fsd("emulators", "up", "acme")
    assert (code, "export ACME_ADDRESS=127.0.0.1:1\n" in out) == (0, True), err
    assert json.loads(fsd("emulators", "status", "--json")[1])["emulators"]["acme"]["name"] == "acme-cloud"
    assert fsd("emulators", "down", "acme")[0] == 0
    code, _, err = fsd("conformance", "--provider", "acme", "-k", "test_ensure_twice or test_read_after_write")
    assert code == 0, err
    assert "TestProvision::test_ensure_twice PASSED" in err
    assert fsd("conformance", "--provider", "acme", "--emulator=moto")[0] == 2


def test_doctor_names_what_cannot_be_imported(fsd: Fsd) -> None:
    code, out, _ = fsd("doctor", "--json")
    assert code == 0
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["provider acme"]["found"] == "acme_fsd.Acme"
    assert checks["acme-sdk"] == {"name": "acme-sdk", "found": None, "hint": "pip install acme-for-fsd: provider acme needs it"}
    assert checks["emulator of acme"]["hint"].startswith("acme-cloud can run here")
    missing = "package acme-for-fsd 2.1 is installed, but acme_fsd.broken:PROVIDER cannot be imported: ModuleNotFoundError: No module named"
    assert missing in checks["provider broken"]["hint"]
    assert "acme_fsd.broken:HARNESSES cannot be imported" in checks["emulator of broken"]["hint"]
    assert checks["provider local"]["found"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "package acme-for-fsd 2.1 is installed, but acme_fsd.broken:PROVIDER cannot be imported"),
        ("old", "package acme-for-fsd 2.1 needs version 0 of the contract: expected contract = 1, the version of this fsd"),
        ("silent", "package acme-for-fsd 2.1 does not say which version of the contract it needs: expected contract = 1"),
    ],
)
def test_a_provider_that_cannot_be_used(fsd: Fsd, name: str, said: str) -> None:
    assert name in installed()
    with pytest.raises(InputError, match="provider"):
        find(name)
    code, _, err = fsd("run", "radixnet:1024:2", "random:6", "--provider", name)
    assert (code, said in err.splitlines()[-1]) == (2, True), err
    assert fsd("run", "radixnet:1024:2", "random:6", "--workers", "1")[0] == 0  # everything else works


def test_two_packages_with_a_file_of_the_same_name(fsd: Fsd, package: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for folder, name in (("tariffs", "acme-1"), ("latency", "acme-lan")):
        (other / "fsd_other" / folder).mkdir(parents=True)
        (other / "fsd_other" / folder / f"{name}.toml").write_text((package / folder / f"{name}.toml").read_text())
    (other / "fsd_other" / "__init__.py").touch()
    lines = '[project]\nname = "a-other"\nversion = "7"\n[project.entry-points."fsd.providers"]\naaa = "fsd_other:PROVIDER"\n'
    (other / "pyproject.toml").write_text(lines)
    with importable(other, tmp_path / "metadata"):
        both = "the packages a-other 7 and acme-for-fsd 2.1 have a file of this name: expected one package"
        for load, name in ((cost.load, "acme-1"), (load_table, "acme-lan"), (cost.default_tariff, "acme")):
            with pytest.raises(InputError, match=both):
                load(name)
        code, _, err = fsd("tariff", "show", "acme-1")
        assert (code, len(err.splitlines())) == (2, 1), err
        assert cost.load(package / "tariffs" / "acme-1.toml").provider == "acme"  # a path names one of them
        assert cost.load("a-old").provider == "acme"  # everything else works
        assert cost.default_tariff("local") == "local"
