"""The deployment package: the zip that Lambda unpacks, with all that a worker imports and nothing more.

Two parts. What is installed from the requirements (wheels of Lambda's platform, whatever this machine is) is kept below
``$FSD_HOME/packages`` by the requirements and the runtime; on top comes this project's source, as it is installed here. The
same parts give the same bytes: names in order, no times.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fsd_core.config import home
from fsd_core.driver import Code
from fsd_core.errors import InputError, RunFailed

__all__ = ["HANDLER", "Package", "build", "digest", "stub"]

HANDLER = "fsd_aws.handler.handler.handler"
WANTED_BYTES, MOST_BYTES = 150 << 20, 250 << 20  # unzipped; the second is Lambda's own limit
MOST_ZIPPED = 50 << 20  # of a zip that comes with the request; a larger one would have to go through a bucket
_GLIBC = {"python3.11": 26, "python3.12": 34, "python3.13": 34}  # 2.x of Amazon Linux 2 and 2023
_PACKAGES = ("fsd_core", "fsd_aws", "fsd_aws.handler")
_CLIENT_ONLY = ("fsd_core/cli/", "fsd_core/demo.py", "fsd_aws/provision.py", "fsd_aws/package.py", "fsd_aws/settings.py")
_DROPPED_FOLDERS = {"tests", "__pycache__", "bin", "include"}
_DROPPED_SUFFIXES = (".pyi", ".pyc", ".a", ".h", "/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json")
_FORMAT = "1"  # in every digest: a change of what is dropped must not find what was built before


@dataclass(frozen=True)
class Package:
    """A zip and its sizes in bytes. ``digest``: 16 hexadecimal digits of what it was made of."""

    digest: str
    body: bytes
    unzipped: int

    def __str__(self) -> str:
        return f"{len(self.body) / 2**20:.1f} MB zipped, {self.unzipped / 2**20:.1f} MB unzipped"


def digest(runtime: str) -> str:
    """What identifies the package that `build` would make. Quick: nothing is installed."""
    return _hash([("format", _FORMAT.encode()), ("runtime", runtime.encode()), ("requirements", _requirements()), *_sources()])


def build(runtime: str, folder: Path | None = None) -> Package:
    """The package for a runtime of Lambda, from the cache in ``folder`` (default ``$FSD_HOME/packages``) if it is there.

    Raises `InputError` where pip is missing or the result is over Lambda's limit, `RunFailed` where pip cannot get a wheel.
    """
    folder = folder or home() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    name = digest(runtime)
    zipped = folder / f"aws-{runtime}-{name}.zip"
    if not zipped.exists():
        _replace(zipped, _zip(_installed(_vendored(runtime, folder)) | dict(_sources())))
        for old in folder.glob(f"aws-{runtime}-*.zip"):
            if old != zipped:
                old.unlink(missing_ok=True)
    body = zipped.read_bytes()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        unzipped = sum(entry.file_size for entry in archive.infolist())
    if unzipped > MOST_BYTES or len(body) > MOST_ZIPPED:
        raise InputError(
            f"function package: {len(body) >> 20} MB zipped, {unzipped >> 20} MB unzipped: Lambda takes {MOST_ZIPPED >> 20} and "
            f"{MOST_BYTES >> 20}; look into {zipped} for what grew"
        )
    return Package(name, body, unzipped)


def stub() -> Package:
    """A package without code, for emulators that run what is installed on this machine."""
    files = {"README": b"This function runs what is installed beside the emulator: [aws] package = false.\n"}
    return Package(_hash(_sources()), _zip(files), sum(map(len, files.values())))


def _requirements() -> bytes:
    return next(path for path in _modules("fsd_aws.handler") if path.name == "requirements.txt").read_bytes()


def _modules(package: str) -> list[Path]:
    """The files of an installed package, wherever it is: in a checkout the handler lies beside the adapters."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"function package: {package} is not installed: pip install 'fsd-inference[aws]'")
    return [path for root in spec.submodule_search_locations for path in sorted(Path(root).rglob("*")) if path.is_file()]


def _sources() -> list[tuple[str, bytes]]:
    """Path in the zip and content of this project's own modules, in order."""
    found = {}
    for package in _PACKAGES:
        root = Path(next(iter(find_spec(package).submodule_search_locations)))  # type: ignore[union-attr, arg-type]  # _modules looked
        for path in _modules(package):
            name = f"{package.replace('.', '/')}/{path.relative_to(root).as_posix()}"
            if path.suffix == ".py" and not name.startswith(_CLIENT_ONLY):
                found[name] = path.read_bytes()
    return sorted(found.items())


def _vendored(runtime: str, folder: Path) -> Path:
    """A folder with the requirements installed for a runtime."""
    key = _hash([("format", _FORMAT.encode()), ("runtime", runtime.encode()), ("requirements", _requirements())])
    target = folder / f"aws-{runtime}-{key}"
    if target.is_dir():
        return target
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_GLIBC[runtime], 16, -1)] + ["manylinux2014_x86_64"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_bytes(_requirements())
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
        command += ["--target", f"{scratch}/target", "--only-binary", ":all:", "--no-deps", "--implementation", "cp"]
        command += ["--python-version", runtime.removeprefix("python"), *(f"--platform={name}" for name in platforms), "-r", str(listed)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if "No module named pip" in done.stderr:
            raise InputError(f"function package: pip is missing: {sys.executable} -m ensurepip")
        if done.returncode:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise RunFailed(Code.UNAVAILABLE, f"function package: pip could not get the wheels for {runtime}: {last}")
        with suppress(OSError):  # another process was first
            os.rename(f"{scratch}/target", target)
    return target


def _installed(root: Path) -> dict[str, bytes]:
    """Path and content of what a worker may need of the installed files."""
    files = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        dropped = _DROPPED_FOLDERS.intersection(name.split("/")[:-1]) or f"/{name}".endswith(_DROPPED_SUFFIXES)
        if path.is_file() and not dropped and not name.startswith("zstandard/_cffi"):  # its second back end, for PyPy
            files[name] = path.read_bytes()
    return files


def _zip(files: Mapping[str, bytes]) -> bytes:
    """The same files give the same bytes."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return body.getvalue()


def _replace(path: Path, body: bytes) -> None:
    """Write a file that others see whole or not at all."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(body)
    os.replace(new, path)


def _hash(parts: Iterable[tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    for name, content in parts:
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


def main(arguments: Sequence[str]) -> int:
    """``python -m fsd_aws.package OUT.zip [RUNTIME]``: write the package, print the variables that main.tf wants of it."""
    if not 1 <= len(arguments) <= 2 or (len(arguments) == 2 and arguments[1] not in _GLIBC):
        print(f"usage: python -m fsd_aws.package OUT.zip [{'|'.join(_GLIBC)}]", file=sys.stderr)
        return 2
    out, runtime = Path(arguments[0]), (*arguments, "python3.12")[1]
    made = build(runtime)
    _replace(out, made.body)
    print(json.dumps({"package": str(out), "package_text": str(made), "code": made.digest, "runtime": runtime}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
