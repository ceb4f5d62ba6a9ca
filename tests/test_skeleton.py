"""The skeleton of `fsd provider new`: it passes the object cases as it is, and says what is next."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fsd_conformance.source_tree import importable
from fsd_core.cli import main
from fsd_core.errors import InputError
from fsd_core.machine.skeleton import new_provider


@pytest.mark.timeout(300)
def test_a_new_provider_passes_the_object_cases(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fsd-mine"
    folder.mkdir()  # an empty folder is fine
    assert main(["provider", "new", "mine", str(folder), "--json"]) == 0
    files = [Path(path) for path in json.loads(capfd.readouterr()[0])["files"]]
    assert len(files) == 8
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    assert not [path for path in files if re.search("NAME|CLASS|UPPER|CONTRACT", path.read_text())]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 40  # type: ignore[index]  # no match is a failure too
    assert "next: step 2, fsd_mine/messages.py" in done.stdout
    with importable(folder, tmp_path / "metadata"):
        monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
        assert main(["doctor", "--json"]) == 0
        checks = {check["name"]: check["found"] for check in json.loads(capfd.readouterr()[0])["checks"]}
        assert checks["provider mine"] == "fsd_mine.MineProvider"
        assert main(["tariff", "show", "mine"]) == 0
        assert main(["run", "radixnet:1024:2", "random:6", "--workers", "2", "--provider", "mine"]) == 2
        assert "write fsd_mine/invoke.py" in capfd.readouterr()[1].splitlines()[-1]


@pytest.mark.timeout(300)
def test_the_driver_of_messages_in_the_guide_passes_its_cases(tmp_path: Path) -> None:
    new_provider("mine", tmp_path / "mine")
    guide = (Path(__file__).parents[1] / "docs" / "writing-a-provider.md").read_text()
    (tmp_path / "mine" / "fsd_mine" / "messages.py").write_text(guide.partition("```python\n")[2].partition("```\n")[0])
    provider, cases = tmp_path / "mine" / "fsd_mine" / "__init__.py", tmp_path / "mine" / "tests" / "test_mine.py"
    there = "        from fsd_mine.messages import MineMessages\n\n        return MineMessages(resources, slot)\n"
    changed = re.sub(r" +raise InputError\(f\"provider mine has no queues.*\n", there, provider.read_text())
    provider.write_text(changed)
    cases.write_text(re.sub(r"@later\(\"step 2.*\n", "", cases.read_text()))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=tmp_path / "mine", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 75  # type: ignore[index]  # no match is a failure too
    assert "step 2" not in done.stdout


PROVIDER = """
from fsd_local import LocalProvider

class MineProvider(LocalProvider):
    name, variable = "mine", "FSD_MINE_RESOURCES"
    def invoker(self, resources):
        from fsd_mine.invoke import MineInvoker
        return MineInvoker(resources)

PROVIDER = MineProvider()
"""


@pytest.mark.timeout(300)
def test_the_driver_of_functions_in_the_guide_passes_its_cases(tmp_path: Path) -> None:
    """With objects and queues of this machine, which other processes see."""
    new_provider("mine", tmp_path / "mine")
    guide = (Path(__file__).parents[1] / "docs" / "writing-a-provider.md").read_text()
    package, cases = tmp_path / "mine" / "fsd_mine", tmp_path / "mine" / "tests" / "test_mine.py"
    (package / "invoke.py").write_text(guide.partition("## Step 3")[2].partition("```python\n")[2].partition("```\n")[0])
    (package / "__init__.py").write_text(PROVIDER)
    harness = (package / "harness.py").read_text()
    harness = harness.replace('{"lease_s": 1.0}', '{"lease_s": 1.0, "root": str(folder)}').replace(
        "what in native[resources.app] if", "None if"
    )
    (package / "harness.py").write_text(harness.replace('    name = "mine"\n', '    name = "mine"\n    few = {"concurrency": 2}\n'))
    cases.write_text(re.sub(r"@later\(\"step 3.*\n", "", cases.read_text()))
    command = [sys.executable, "-m", "pytest", "-q", "-k", "TestInvoke"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "mine")}  # for the functions
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 9  # type: ignore[index]  # no match is a failure too
    assert "step 3" not in done.stdout


EMULATOR = """
import os
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen
import fsd_core
from fsd_conformance.emulators import harnesses
from fsd_core.cli import main
assert main(["emulators", "up", "mine"]) == 0
try:
    harness = harnesses("mine")["mine-server"]()
    with fsd_core.emulator("mine", start=False):
        url, cleared = os.environ["MINE_URL"], "MINE_TOKEN" not in os.environ
        status = urlopen(url, timeout=60).status
finally:
    assert main(["emulators", "down", "mine"]) == 0
try:
    urlopen(url, timeout=60)
except URLError:
    print(harness.emulator.name, harness.settings(Path()), status, cleared)
"""


LAUNCH = """
import sys, time
sys.path.insert(0, sys.argv[1])  # here the package is found, in a function it is not
import fsd_core.worker
from fsd_core.driver import WORKER, Resources
from fsd_mine.invoke import MineInvoker
fsd_core.worker.report_exit = lambda *_, **__: False  # no function has claimed its rank
launch = MineInvoker(Resources("a", 1, 1, {"concurrency": "1", "timeout_s": "60"})).invoke(WORKER, b"{}")
until = time.monotonic() + 60
while launch.poll() is None and time.monotonic() < until:
    time.sleep(0.05)
print(launch.poll().value, launch.text)
"""


def test_the_driver_of_functions_in_the_guide_says_why_a_function_cannot_start(tmp_path: Path) -> None:
    new_provider("mine", tmp_path / "mine")
    guide = (Path(__file__).parents[1] / "docs" / "writing-a-provider.md").read_text()
    code = guide.partition("## Step 3")[2].partition("```python\n")[2].partition("```\n")[0]
    (tmp_path / "mine" / "fsd_mine" / "invoke.py").write_text(code)
    command = [sys.executable, "-c", LAUNCH, str(tmp_path / "mine")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "unavailable exit code 70: ModuleNotFoundError: No module named 'fsd_mine'", done.stderr


def test_the_emulator_in_the_guide_starts_and_stops(tmp_path: Path) -> None:
    """The commands find it by the entry point of the skeleton. It answers until ``down``, and ``clears`` removes a variable."""
    new_provider("mine", tmp_path / "mine")
    guide = (Path(__file__).parents[1] / "docs" / "writing-a-provider.md").read_text().partition("## An emulator")[2]
    harness = tmp_path / "mine" / "fsd_mine" / "harness.py"
    harness.with_name("emulator.py").write_text(guide.partition("```python\n")[2].partition("```\n")[0])
    text = re.sub(r"    def settings.*?(?=    def finds)", "    emulator, lease_s = MineEmulator, 1.0\n\n", harness.read_text(), flags=re.S)
    for old, new in (("Harness, Kind", "EmulatedHarness, Kind"), ("(Harness)", "(EmulatedHarness)"), ('"mine": ', "MineEmulator.name: ")):
        text = text.replace(old, new)
    text = text.replace("\n\n\nclass", "\nfrom fsd_mine.emulator import MineEmulator\n\n\nclass", 1)
    harness.write_text(text)
    with importable(tmp_path / "mine", tmp_path / "metadata"):
        done = subprocess.run(
            [sys.executable, "-c", EMULATOR],
            env=os.environ | {"FSD_HOME": str(tmp_path / "home"), "MINE_TOKEN": "of an account"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.splitlines()[-1:] == ["mine-server {'lease_s': 1.0} 200 True"], done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aws", "a provider of this name is installed"),
        *((name, f"'{name}': fsd itself has a package fsd-{name}: expected another name") for name in ("core", "conformance", "inference")),
        ("my-cloud", "expected a lower-case letter"),
        ("", "expected"),
        (3, "expected"),
    ],
)
def test_a_name_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        new_provider(name, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "full", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=re.escape(str(folder))):
            new_provider("mine", folder)
    assert sorted(os.listdir(tmp_path)) == ["file", "full"]
    assert os.listdir(tmp_path / "full") == ["mine"]
