"""The compiled kernel touches no byte outside its buffers and does nothing undefined, whatever its arguments."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parent / "fsd_core" / "kernel" / "kernel.c"
FLAGS = "-g -O1 -std=gnu11 -ffp-contract=fast -shared -fPIC -Wno-psabi -DPy_LIMITED_API=0x030B0000"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The extension with sanitizers, and the library that has to be loaded before Python."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no compiler: install gcc or clang")
    out = tmp_path_factory.mktemp("sanitized") / "_kernel.abi3.so"
    words = [compiler, *FLAGS.split(), *SANITIZERS.split(), f"-I{sysconfig.get_paths()['include']}", str(SOURCE), "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    name = "libasan.so" if "gcc" in compiler else f"libclang_rt.asan-{os.uname().machine}.so"
    library = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(library) or "Python.h" in done.stderr or "cannot find" in done.stderr:
        pytest.skip(f"{compiler} has no sanitizers, or Python no headers: {(done.stderr.strip() or name)[-200:]}")
    assert done.returncode == 0, done.stderr
    return out, library


def python(sanitized: tuple[Path, str], *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "LD_PRELOAD": sanitized[1],
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_arguments(sanitized: tuple[Path, str], seed: int) -> None:
    done = python(sanitized, str(HERE / "kernel_fuzz.py"), str(sanitized[0]), "800", str(seed))
    assert done.returncode == 0, done.stderr[-3000:]
    counts = ast.literal_eval(done.stdout)
    assert all(counts[f"{name} {end}"] > 50 for name in ("plan", "forward", "finish", "move") for end in ("done", "refused")), counts


def test_the_sanitizer_sees_what_is_outside(sanitized: tuple[Path, str]) -> None:
    """Otherwise the test above could not fail: the sanitizer has to be loaded."""
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); area = ctypes.CDLL(None).malloc; area.restype = ctypes.c_void_p\n"
    code += "ctypes.CDLL(None).memset(ctypes.c_void_p(area(8)), 0, 64)"
    done = python(sanitized, "-c", code, str(sanitized[0]))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
