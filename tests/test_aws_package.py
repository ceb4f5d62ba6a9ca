"""The deployment package: what is in it, that it is enough, that it is always the same."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from fsd_aws import PROVIDER, package
from fsd_aws.settings import RUNTIMES
from fsd_conformance import emulators
from fsd_core.errors import InputError, RunFailed

HERE = f"python3.{sys.version_info.minor}"
needs_runtime = pytest.mark.skipif(
    HERE not in RUNTIMES or sys.platform != "linux" or os.uname().machine != "x86_64", reason=f"Lambda's wheels do not run on {HERE} here"
)
WANTED_BYTES = 150 << 20  # unzipped
LAMBDAS_OWN = ("botocore", "jmespath", "dateutil", "six", "urllib3")  # what boto3 brings into Lambda's runtime


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def unpacked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package for this interpreter's version, as Lambda unpacks it."""
    root = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(io.BytesIO(package.build(HERE, folder).body)) as archive:
        archive.extractall(root)
    return root


@needs_runtime
def test_the_zip_alone_runs_a_worker(unpacked: Path, tmp_path: Path) -> None:
    """No site-packages, no checkout: the zip, the standard library, and what Lambda has of its own."""
    for name in LAMBDAS_OWN:
        (spec := find_spec(name)) or pytest.fail(name)
        origin = Path(spec.origin or "")
        origin = origin.parent if origin.name == "__init__.py" else origin
        (tmp_path / origin.name).symlink_to(origin)
    program = (
        f"import sys, types; sys.path += [{str(unpacked)!r}, {str(tmp_path)!r}]; from fsd_aws.handler.handler import handler\n"
        "answer = handler({'app': 'x'}, types.SimpleNamespace(aws_request_id='1'))\n"
        "import numpy, zstandard, fsd_core.worker, fsd_core.channel\n"
        "zstandard.ZstdCompressor().compress(numpy.ones((9, 9)).dot(numpy.ones((9, 9))).tobytes())\n"
        "import json; print(json.dumps([answer, {name: getattr(m, '__file__', None) for name, m in sys.modules.items()}]))"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSD_", "PYTHON"))}
    done = subprocess.run([sys.executable, "-P", "-S", "-c", program], capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer, modules = json.loads(done.stdout)
    assert answer == {"code": 1}  # no function of this app
    assert "this process is not a function of this app" in done.stderr
    for name in ("numpy", "zstandard", "fsd_core.worker", "fsd_aws.handler.handler"):
        assert modules[name].startswith(str(unpacked)), modules[name]
    assert not {"scipy", "safetensors", "click", "rich", "boto3"} & modules.keys()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_in_it(folder: Path, runtime: str) -> None:
    made = package.build(runtime, folder)
    with zipfile.ZipFile(io.BytesIO(made.body)) as archive:
        assert archive.testzip() is None
        names, sizes = archive.namelist(), {entry.filename: entry.file_size for entry in archive.infolist()}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert made.unzipped == sum(sizes.values()) < WANTED_BYTES
    assert len(made.body) < package.MAX_ZIPPED_BYTES
    assert {name.split("/")[0].split("-")[0].split(".")[0] for name in names} == {"numpy", "zstandard", "fsd_core", "fsd_aws"}
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name or name.startswith("fsd_core/cli/")]
    assert {"fsd_aws/handler/handler.py", "fsd_aws/handler/__init__.py", "fsd_core/worker/program.py", "fsd_aws/__init__.py"} <= set(names)
    compiled = [name for name in names if name.startswith("numpy/_core/_multiarray_umath.")]
    tag = runtime.removeprefix("python").replace(".", "")
    assert compiled == [f"numpy/_core/_multiarray_umath.cpython-{tag}-x86_64-linux-gnu.so"]
    assert str(made) == f"{len(made.body) / 2**20:.1f} MB zipped, {made.unzipped / 2**20:.1f} MB unzipped"


def test_it_is_always_the_same(folder: Path) -> None:
    first = package.build(RUNTIMES[0], folder)
    assert first.digest == package.digest(RUNTIMES[0]) != package.digest(RUNTIMES[1])
    (file,) = folder.glob(f"aws-{RUNTIMES[0]}-*.zip")
    before = file.stat().st_mtime_ns
    assert package.build(RUNTIMES[0], folder) == first
    assert file.stat().st_mtime_ns == before  # from the cache
    file.unlink()
    assert package.build(RUNTIMES[0], folder) == first


def test_one_over_the_limit_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_BYTES", 40 << 20)
    with pytest.raises(
        InputError, match=r"function package: \d+ MB zipped, \d+ MB unzipped: expected at most 50 MB and 40 MB, the limits of Lambda"
    ):
        package.build(RUNTIMES[0], folder)


def test_new_source_makes_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_requirements", lambda: b"zstandard==0.25.0\n")  # quicker than with numpy
    first, sources = package.build("python3.12", tmp_path), package._sources()
    monkeypatch.setattr(package, "_sources", lambda: sources | {"fsd_core/zzz.py": b""})
    second = package.build("python3.12", tmp_path)
    assert second.digest != first.digest
    assert len(list(tmp_path.glob("aws-python3.12-*.zip"))) == 1  # the old one is not kept


def test_a_wheel_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_requirements", lambda: b"zstandard==0.0.0\n")
    with pytest.raises(RunFailed, match=r"pip could not get the wheels for Python 3.12: .*zstandard==0\.0\.0"):
        package.build("python3.12", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(InputError, match=r"pip is missing: .* -m ensurepip"):
        package.build("python3.12", tmp_path / "packages")


def test_the_stub_is_small() -> None:
    assert len(package.stub().body) < 1000


@pytest.fixture
def lambda_of_zips() -> Iterator[None]:
    """moto, and the local Lambda that runs what was uploaded."""
    with ExitStack() as stack:
        moto = stack.enter_context(emulators.own(emulators.find("aws", "moto")))
        command = [sys.executable, "-m", "fsd_conformance.emulators.lambda_", "--code", "zip", "--until-stdin-closes"]
        env = {name: value for name, value in {**os.environ, **moto.env}.items() if name != "AWS_ENDPOINT_URL_LAMBDA"}  # its own
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        stack.callback(process.wait, 30)
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdin.close)
        stack.callback(process.stdout.close)
        url = json.loads(process.stdout.readline())["endpoint"]
        stack.enter_context(emulators.emulator.pointed({**moto.env, "AWS_ENDPOINT_URL_LAMBDA": url}, ("AWS_",)))
        yield


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_runtime
@pytest.mark.usefixtures("lambda_of_zips")
def test_a_run_on_the_real_zip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provisioned with the package, uploaded, unpacked, run: the answer is the serial one."""
    import numpy as np

    import fsd_core
    from fsd_core.model import radixnet
    from fsd_core.model.inputs import open_inputs
    from fsd_core.model.serial import serial

    monkeypatch.delenv("FSD_AWS_PACKAGE", raising=False)
    monkeypatch.setenv("FSD_HOME", str(folder.parent / "home"))
    model, settings = radixnet(1024, 3), {"runtime": HERE, "text": True, "memory_mb": 512}
    result = fsd_core.run(model, "random:40:.2:1", provider="aws", app="zipped", workers=3, settings=settings, timeout=400)
    made = PROVIDER.provisioner(settings).find("zipped")
    assert made is not None
    assert made.names["package"].endswith("MB unzipped")
    expected = serial(model, open_inputs("random:40:.2:1", 1024))
    np.testing.assert_allclose(result.output.toarray(), expected.toarray(), rtol=1e-4, atol=1e-5)
    assert PROVIDER.provisioner(settings).destroy("zipped")
