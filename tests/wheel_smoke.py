"""The installed wheel: run by its own interpreter, in an empty folder (`make wheel`)."""

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

found = distribution("fsd-inference")
files = [str(file) for file in found.files or () if not str(file).startswith("..")]
tops = {file.split("/")[0] for file in files}
assert all(top.startswith(("fsd_core", "fsd_", "fsd_inference-")) for top in tops), f"generic names in the wheel: {tops}"
assert not [file for file in files if "test_" in file or file.startswith("tests")], "tests in the wheel"
assert any(file.endswith("LICENSE") for file in files), "no LICENSE in the wheel"

packages = sorted(top for top in tops if "-" not in top)
assert {"fsd_core", "fsd_local", "fsd_aws", "fsd_gcp", "fsd_azure", "fsd_conformance"} == set(packages)
source = Path(__file__).parents[1]
for package in packages:
    assert f"{package}/py.typed" in files, f"{package} has no py.typed"
    module = importlib.import_module(package)
    assert module.__file__, package
    assert Path(module.__file__).is_relative_to(sys.prefix), f"{package} comes from {module.__file__}"
    folder = next(path for path in (source / package, *source.glob(f"*/{package}")) if path.is_dir())
    missing = {f"{package}/{path.relative_to(folder)}" for path in folder.rglob("*.py")} - set(files)
    assert not missing, f"not in the wheel: {sorted(missing)}"
for package in ("fsd_core", "fsd_local", "fsd_aws", "fsd_gcp", "fsd_azure"):
    for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)

kernel = importlib.import_module("fsd_core.kernel.compiled")
assert not kernel.missing or not shutil.which("gcc"), f"the compiled kernel is not in the wheel: {kernel.missing}"

with tempfile.TemporaryDirectory() as home:
    for where in ([], ["--provider", "aws", "--emulator"]):
        words = [str(Path(sys.executable).parent / "fsd"), "run", "radixnet:1024:12", "digits", "--workers", "2", "--json", *where]
        done = subprocess.run(words, env=os.environ | {"FSD_HOME": home}, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
        answer = json.loads(done.stdout)
        assert (answer["samples"], answer["layers"], answer["workers"]) == (1797, 12, 2), answer
    import numpy

    from fsd_core.demo.stages import SHAPE, generated

    generated(Path(home) / "model.onnx")
    numpy.savez(Path(home) / "input.npz", x=numpy.ones((2, *SHAPE), numpy.float32))
    words = [words[0], "run", "model.onnx", "input.npz", "--provider", "aws", "--emulator", "--pipeline-parallel", "2", "--json"]
    done = subprocess.run(words, cwd=home, env=os.environ | {"FSD_HOME": home}, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    answer = json.loads(done.stdout)
    assert (answer["samples"], answer["workers"], answer["parallel"]["pipeline"]) == (2, 2, 2), answer
print(f"wheel: {len(files)} files, {', '.join(packages)}: installs, imports, runs")
