"""The zips that the clouds run functions from: what is in them, that it is enough, and runs from them alone."""

from __future__ import annotations

import ast
import io
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import attrs
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fsd_aws.package
import fsd_azure.package
import fsd_gcp.package
from fsd_aws.settings import RUNTIMES as LAMBDA_RUNTIMES
from fsd_azure.settings import RUNTIMES as AZURE_RUNTIMES
from fsd_conformance import emulators
from fsd_conformance.emulators import azurite
from fsd_core import providers, run
from fsd_core.errors import InputError
from fsd_core.kernel import compiled
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.providers.package import files
from lambda_emulator import Emulator as LocalLambda

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LAMBDA = f"python{PYTHON}"
needs_runtime = pytest.mark.skipif(
    LAMBDA not in LAMBDA_RUNTIMES or sys.platform != "linux" or os.uname().machine != "x86_64",
    reason=f"Lambda's wheels do not run on {LAMBDA} here",
)
WANTED_BYTES = 150 << 20  # unzipped
LAMBDAS_OWN = ("botocore", "jmespath", "dateutil", "six", "urllib3")  # what boto3 brings into Lambda's runtime
CLIENTS = ("api", "function", "package", "policy", "provision", "queues", "settings")
ANY_PYTHON = {"numpy", "zstandard"}  # they have wheels for every runtime that the settings may name, so these pins are not of here


@attrs.frozen
class Cloud:
    """``roots``: the files at the zip's root; ``inside``: modules that a worker needs."""

    package: ModuleType
    runtime: str
    roots: frozenset[str]
    inside: frozenset[str]
    pins: frozenset[str]


CLOUDS = {
    "aws": Cloud(fsd_aws.package, "python3.12", frozenset(), frozenset({"fsd_aws/handler/handler.py", "fsd_aws/invoke.py"}), frozenset()),
    "azure": Cloud(
        fsd_azure.package,
        "3.12",
        frozenset({"function_app.py", "host.json", "requirements.txt"}),
        frozenset({"fsd_azure/links.py", "fsd_azure/invoke.py"}),
        frozenset({"azure-servicebus", "azure-storage-blob"}),
    ),
    "gcp": Cloud(
        fsd_gcp.package,
        "python312",
        frozenset({"main.py", "requirements.txt"}),
        frozenset({"fsd_gcp/invoke.py"}),
        frozenset({"google-auth"}),
    ),
}


def source(cloud: str) -> dict[str, bytes]:
    """What is in the zip but wheels."""
    return dict(CLOUDS[cloud].package.recipe(CLOUDS[cloud].runtime).files)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_worker_is_in_it_and_nothing_of_the_client(cloud: str) -> None:
    found, told = source(cloud), CLOUDS[cloud]
    assert {name for name in found if "/" not in name} == told.roots
    assert {"fsd_core/worker/program.py", "fsd_core/providers/http_invoke.py", f"fsd_{cloud}/__init__.py", *told.inside} <= found.keys()
    assert not {f"fsd_{cloud}/{each}.py" for each in CLIENTS} & found.keys()
    others = tuple(f"fsd_{each}" for each in ("aws", "azure", "gcp", "local") if each != cloud)
    assert not [name for name in found if name.startswith(("fsd_core/cli/", *others))]
    assert max(map(len, found.values())) < 200_000


@pytest.mark.parametrize(("cloud", "file"), [("azure", "function_app.py"), ("gcp", "main.py")])
def test_the_entry_file_only_leads_on(cloud: str, file: str) -> None:
    text = source(cloud)[file]
    assert text.count(b"\n") < 30
    assert any(isinstance(node, ast.FunctionDef) for node in ast.parse(text).body)


def test_what_the_platforms_look_for_and_where() -> None:
    assert fsd_azure.package.recipe("3.12").below == ".python_packages/lib/site-packages/"
    assert json.loads(source("azure")["host.json"])["version"] == "2.0"
    assert any(isinstance(node, ast.FunctionDef) and node.name == "handle" for node in ast.parse(source("gcp")["main.py"]).body)


def pinned(cloud: str) -> dict[str, str]:
    lines = files(f"fsd_{cloud}.handler")["requirements.txt"].read_text().splitlines()
    return {canonicalize_name(name): said for name, said in (line.split("==") for line in lines if not line.startswith("#"))}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_requirement_is_pinned_to_what_is_tested_here(cloud: str) -> None:
    pins = pinned(cloud)
    assert ANY_PYTHON | CLOUDS[cloud].pins <= pins.keys()
    for name in pins.keys() - ANY_PYTHON:
        assert pins[name] == version(name), f"{name}: `make .venv/all.stamp` installs what is pinned"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_an_app_with_the_engine_onnx_gets_onnx_runtime(cloud: str) -> None:
    package, runtime = CLOUDS[cloud].package, CLOUDS[cloud].runtime
    with_engine, without = package.recipe(runtime, "onnx"), package.recipe(runtime)
    listed = with_engine.files["requirements.txt"] if cloud == "gcp" else with_engine.wheels.requirements
    assert f"onnxruntime=={version('onnxruntime')}\n".encode() in listed
    assert b"onnxruntime==" not in (without.files["requirements.txt"] if cloud == "gcp" else without.wheels.requirements)
    assert with_engine.digest != without.digest


def test_onnx_runtime_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(InputError, match=r"runtime = 'python3.11', engine = 'onnx': ONNX Runtime needs glibc 2.28, this runtime has 2.26"):
        fsd_aws.package.recipe("python3.11", "onnx")


def test_onnx_runtime_needs_no_package_that_is_left_out() -> None:
    """Neither those that it names as requirements nor its tools."""
    left_out = ["flatbuffers", "google.protobuf", "packaging", "sympy", *(f"onnxruntime.{each}" for each in ("tools", "transformers"))]
    code = f"import sys; sys.modules.update(dict.fromkeys({left_out})); from fsd_core.worker.session import runtime; print(runtime())"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert "onnxruntime" in done.stdout


def test_what_azures_requirements_need_is_required_too() -> None:
    """It is installed as it is listed."""
    pins = pinned("azure")
    for name in pins:
        for each in map(Requirement, requires(name) or ()):
            needed = each.marker is None or each.marker.evaluate({"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"})
            assert not needed or canonicalize_name(each.name) in pins, f"{name} needs {each.name}"


@pytest.mark.parametrize(
    ("cloud", "runtimes", "digests"),
    [
        ("aws", LAMBDA_RUNTIMES, len(LAMBDA_RUNTIMES)),
        ("azure", AZURE_RUNTIMES, len(AZURE_RUNTIMES)),
        ("gcp", ("python312", "python313"), 1),  # whose build gets the runtime as an argument: the zip is the same
    ],
)
def test_each_runtime_that_has_wheels_of_its_own_has_a_digest(cloud: str, runtimes: tuple[str, ...], digests: int) -> None:
    assert len({CLOUDS[cloud].package.recipe(runtime).digest for runtime in runtimes}) == digests


def test_the_command_that_terraform_wants(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fsd_gcp.package", str(tmp_path / "out.zip"), "python313"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"FSD_HOME": str(tmp_path)})
    told = json.loads(done.stdout)
    assert zipfile.is_zipfile(told["package"])
    assert told.keys() == {"package", "package_text", "code", "runtime"}


# what is in Lambda's, wheels too, and that it is enough


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.mark.parametrize("runtime", LAMBDA_RUNTIMES)
def test_what_is_in_lambdas_zip(folder: Path, runtime: str) -> None:
    made = fsd_aws.package.recipe(runtime).build(folder)
    with zipfile.ZipFile(io.BytesIO(made.body)) as archive:
        assert archive.testzip() is None
        names, sizes = archive.namelist(), {entry.filename: entry.file_size for entry in archive.infolist()}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert made.unzipped == sum(sizes.values()) < WANTED_BYTES
    assert len(made.body) < fsd_aws.package.DIRECT_BYTES
    assert {name.split("/")[0].split("-")[0].split(".")[0] for name in names} == {
        "attr",
        "attrs",
        "numpy",
        "zstandard",
        "fsd_core",
        "fsd_aws",
    }
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]
    compiled = [name for name in names if name.startswith("numpy/_core/_multiarray_umath.")]
    tag = runtime.removeprefix("python").replace(".", "")
    assert compiled == [f"numpy/_core/_multiarray_umath.cpython-{tag}-x86_64-linux-gnu.so"]
    assert str(made) == f"{len(made.body) / 2**20:.1f} MB zipped, {made.unzipped / 2**20:.1f} MB unzipped"


@needs_runtime
def test_lambdas_zip_alone_runs_a_worker(folder: Path, tmp_path: Path) -> None:
    """No site-packages, no checkout: the zip, the standard library, and what Lambda itself installs."""
    unpacked = tmp_path / "task"
    with zipfile.ZipFile(io.BytesIO(fsd_aws.package.recipe(LAMBDA).build(folder).body)) as archive:
        archive.extractall(unpacked)
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


def test_googles_zip_imports_only_what_is_in_it_and_what_it_requires(tmp_path: Path) -> None:
    for name, body in source("gcp").items():
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


# runs of what was uploaded


@contextmanager
def lambda_of_zips() -> Iterator[None]:
    """moto, and a local Lambda that runs what was uploaded."""
    with emulators.own(emulators.find("aws", "moto")) as moto:
        own = {name: value for name, value in moto.env.items() if name != "AWS_ENDPOINT_URL_LAMBDA"}
        with (
            LocalLambda.running("--code", "zip", **own) as functions,
            emulators.emulator.pointed({**moto.env, "AWS_ENDPOINT_URL_LAMBDA": functions.ready["endpoint"]}, ("AWS_",)),
        ):
            yield


def running_zips(cloud: str) -> AbstractContextManager[object]:
    """An emulator whose functions have the code of the zip alone."""
    if cloud == "aws":
        return lambda_of_zips()
    told = {"azure": "arguments", "gcp": "functions"}[cloud]
    kind: type[emulators.Emulator] = type("FromZip", (emulators.find(cloud),), {told: ("--code", "zip")})
    return emulators.own(kind)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("cloud", "settings"),
    [
        pytest.param("aws", {"runtime": LAMBDA, "text": True, "memory_mb": 512}, marks=needs_runtime),
        ("azure", {"runtime": PYTHON}),  # the emulator runs zips by its own Python
        ("gcp", {}),
    ],
)
def test_a_run_from_the_zip(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cloud: str, settings: dict[str, object]) -> None:
    """Provisioned with the package, uploaded, unpacked, run: the answer is the serial one."""
    home = folder.parent / "home"
    if cloud == "azure":  # its emulator is installed once for all tests: it is large
        installed = azurite.install(print).parents[1]
        (home / "emulators").mkdir(parents=True)
        (home / "emulators" / installed.name).symlink_to(installed)
    monkeypatch.setenv("FSD_HOME", str(home))
    monkeypatch.delenv(f"FSD_{cloud.upper()}_PACKAGE", raising=False)
    model, inputs, package = radixnet(1024, 6), "random:40:.2:1", CLOUDS[cloud].package
    with running_zips(cloud):
        provisioner = providers.find(cloud).provisioner(settings)
        made = provisioner.ensure("zipped", 2, 4)
        assert made.names["code"] == package.recipe(made.names["runtime"]).digest
        assert made.names["package"].endswith("MB unzipped")
        result = run(
            model, open_inputs(inputs, 1024), provider=cloud, settings=settings, tensor_parallel=2, app="zipped", timeout=400, home=tmp_path
        )
        expected = serial(model, open_inputs(inputs, 1024))
        np.testing.assert_allclose(result.output.toarray(), expected.toarray(), rtol=1e-4, atol=1e-5)
        if not compiled.missing and platform.machine() == "x86_64":  # the package has the compiled kernel, and it can be loaded there
            assert {rank["kernel"] for rank in result.ranks} <= {"avx512", "avx2"}
        assert provisioner.destroy("zipped")
