"""Packages of functions as every platform needs them: what is in them, that they are enough, always the same, never too large."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fsd_core.errors import InputError, RunFailed
from fsd_core.providers.package import Recipe, Wheels, command, files, manylinux, sources, stub, zipped

CLIENT = (
    *("cli/", "client/", "cost/", "demo/", "machine/", "report/", "config.py", "versions.py"),
    *(f"providers/{name}.py" for name in ("app_name", "native", "package", "probes", "provisioning", "requests", "settings")),
)


def recipe(files: dict[str, bytes], wheels: Wheels | None = None, below: str = "", most: int = 1 << 30) -> Recipe:
    return Recipe(
        name="cloud-python3.12", files=files, wheels=wheels, below=below, platform="The cloud", max_zipped=most, max_unzipped=most
    )


def names(body: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def test_a_zip_has_unix_modes_wherever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's zipfile says on Windows that the modes are DOS's, and programs that unpack it on Linux then ignore them."""
    here = zipped({"a/b.py": b"x", "c": b"y"})
    monkeypatch.setattr(sys, "platform", "win32")
    there = zipped({"a/b.py": b"x", "c": b"y"})
    monkeypatch.undo()
    assert there == here
    with zipfile.ZipFile(io.BytesIO(there)) as archive:
        assert {(each.create_system, each.external_attr >> 16 & 0o777) for each in archive.infolist()} == {(3, 0o644)}


def test_sources_are_a_workers_and_not_the_clients() -> None:
    found = sources(["fsd_local"], ["fsd_local/provision.py", "fsd_local/settings.py"])
    assert {
        "fsd_core/__init__.py",
        "fsd_core/worker/program.py",
        "fsd_core/providers/checks.py",
        "fsd_core/channel/queue.py",
        "fsd_local/messages.py",
    } <= set(found)
    assert not [name for name in found if name.startswith(tuple(f"fsd_core/{part}" for part in CLIENT))]
    assert not {"fsd_local/provision.py", "fsd_local/settings.py"} & set(found)
    assert {Path(name).suffix for name in found} == {".py"}


def imported(name: str, content: bytes) -> set[str]:
    """The modules that a module imports when it is imported."""
    found = set()
    for node in ast.parse(content).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_what_is_left_out_is_imported_by_nothing_that_is_in() -> None:
    whole, inside = files("fsd_core"), sources([])
    left_out = {f"fsd_core.{name[:-3].replace('/', '.')}".removesuffix(".__init__") for name in whole if name.endswith(".py")}
    left_out -= {name[:-3].replace("/", ".").removesuffix(".__init__") for name in inside}
    assert "fsd_core.client" in left_out
    wrong = {name: found for name, content in inside.items() if (found := imported(name, content) & left_out)}
    assert wrong == {}


def test_a_zip_of_sources_runs(tmp_path: Path) -> None:
    """As a platform that installs the requirements itself runs it: the entry file at the root, the packages beside it."""
    main = b"from fsd_core.driver import Code\nfrom fsd_local import PROVIDER\nprint(Code.DENIED.value, PROVIDER.name)\n"
    made = recipe(sources(["fsd_local"]) | {"main.py": main, "requirements.txt": b"numpy==2.0.0\n"}).build(tmp_path)
    assert {"main.py", "requirements.txt", "fsd_core/worker/program.py"} <= names(made.body)
    with zipfile.ZipFile(io.BytesIO(made.body)) as archive:
        archive.extractall(tmp_path / "task")
    for package in ("attr", "attrs"):  # as the platform installs them
        shutil.copytree(files(package)["__init__.py"].parent, tmp_path / "task" / package)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-S", str(tmp_path / "task" / "main.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("denied local\n", "")


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    """Of a package that is in a file here."""
    about = {"METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n", "RECORD": b""}
    about["WHEEL"] = b"Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    parts = {"tiny/__init__.py": b"", "tiny/tests/test.py": b"", "tiny/a.pyi": b""}
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    wheel.write_bytes(zipped(parts | {f"tiny-1.0.dist-info/{name}": content for name, content in about.items()}))
    return Wheels(f"{wheel}\n".encode(), "3.12", manylinux(28))


def test_wheels_lie_where_the_platform_looks(wheels: Wheels, tmp_path: Path) -> None:
    made = recipe({"function_app.py": b""}, wheels, ".python_packages/lib/site-packages/").build(tmp_path / "packages")
    below = ".python_packages/lib/site-packages"
    assert names(made.body) == {
        "function_app.py",
        f"{below}/tiny/__init__.py",
        *(f"{below}/tiny-1.0.dist-info/{x}" for x in ("METADATA", "WHEEL")),
    }


def test_it_is_built_once_and_always_the_same(wheels: Wheels, tmp_path: Path) -> None:
    ours = recipe({"b.py": b"2", "a.py": b"1"}, wheels)
    first = ours.build(tmp_path / "packages")
    (file,) = (tmp_path / "packages").glob("*.zip")
    before = file.stat().st_mtime_ns
    assert recipe({"a.py": b"1", "b.py": b"2"}, wheels).build(tmp_path / "packages") == first
    assert file.stat().st_mtime_ns == before
    file.unlink()
    assert ours.build(tmp_path / "packages") == first
    assert first.digest == ours.digest
    others = [recipe({"a.py": b"1"}, wheels), recipe(dict(ours.files)), recipe(dict(ours.files), wheels, "lib/")]
    assert len({ours.digest, *(other.digest for other in others)}) == 4
    others[0].build(tmp_path / "packages")
    assert len(list((tmp_path / "packages").glob("*.zip"))) == 1  # the old one is not kept


def test_one_that_the_platform_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"function package: \d+ MB zipped, 3 MB unzipped: expected at most 2 MB and 2 MB, the limits of The cloud; look .*\.zip",
    ):
        recipe({"large": bytes(3 << 20)}, most=2 << 20).build(tmp_path)


def test_a_provider_that_is_not_installed() -> None:
    with pytest.raises(InputError, match=r"fsd_nowhere is not installed: pip install 'fsd-inference\[nowhere\]'"):
        sources(["fsd_nowhere"])


def test_tags_of_wheels() -> None:
    assert manylinux(19) == ["manylinux_2_19_x86_64", "manylinux_2_18_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]


def test_a_wheel_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"pip could not get the wheels for Python 3.12: .*zstandard==0\.0\.0"):
        recipe({}, Wheels(b"zstandard==0.0.0\n", "3.12", manylinux(28))).build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_pip(wheels: Wheels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(InputError, match=r"pip is missing: .* -m ensurepip"):
        recipe({}, wheels).build(tmp_path / "packages")


def test_a_package_without_code_says_why() -> None:
    assert len(stub("gcp").body) < 1000
    with zipfile.ZipFile(io.BytesIO(stub("gcp").body)) as archive:
        assert b"[gcp] package = false" in archive.read("main.py")


def test_the_command_writes_the_zip_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    ours, out = recipe({"a.py": b"1"}), tmp_path / "function.zip"
    assert command("fsd_x.package", [str(out)], ["new", "old"], {"new": ours}.__getitem__) == 0
    made = ours.build()
    assert out.read_bytes() == made.body
    assert json.loads(capsys.readouterr().out) == {"package": str(out), "package_text": str(made), "code": made.digest, "runtime": "new"}
    for wrong in ([], [str(out), "other"], [str(out), "new", "x"]):
        assert command("fsd_x.package", wrong, ["new", "old"], {"new": ours}.__getitem__) == 2
        assert capsys.readouterr().err == "usage: python -m fsd_x.package OUT.zip [new|old]\n"
