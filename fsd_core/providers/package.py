"""The package of a function: a zip with all modules that a worker imports, and nothing more. Equal contents give equal bytes.

A `Recipe` lists the contents: the source of this project as installed on this machine and, if the platform does not install the
requirements itself, their wheels for the platform's interpreter and C library. A folder caches the packages that were built.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import attrs

from fsd_core.common.home import home_folder, made
from fsd_core.driver import Code
from fsd_core.errors import InputError, RunFailed

__all__ = ["Package", "Recipe", "Wheels", "command", "digest", "files", "manylinux", "requirements", "sources", "stub", "write", "zipped"]

_CLIENT_ONLY = (  # of fsd_core: no worker imports these
    *("cli/", "client/", "cost/", "demo/", "machine/", "measuring/", "plan/", "report/", "config.py", "versions.py"),
    *(f"providers/{name}.py" for name in ("app_name", "native", "package", "probes", "provisioning", "requests", "settings")),
)
_DROPPED_FOLDERS = {"tests", "__pycache__", "bin", "include"}
_DROPPED_PACKAGES = tuple(f"onnxruntime/{name}/" for name in ("backend", "datasets", "quantization", "tools", "transformers"))
_DROPPED_SUFFIXES = (".pyi", ".pyc", ".a", ".h", "/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json")
_FORMAT = "3"  # part of every digest: raise it if this module changes, so that the cache never returns a package of an earlier version


@attrs.frozen
class Package:
    """A zip (``body``) and its unzipped size in bytes. ``digest``: 16 hexadecimal digits of a hash of the contents."""

    digest: str
    body: bytes
    unzipped: int

    def __str__(self) -> str:
        return f"{len(self.body) / 2**20:.1f} MB zipped, {self.unzipped / 2**20:.1f} MB unzipped"


@attrs.frozen
class Wheels:
    """The wheels of ``requirements`` (a requirements.txt with every version pinned) for the interpreter of a platform."""

    requirements: bytes
    python: str  # "3.12"
    platforms: Sequence[str]  # the tags of wheels that the platform runs, the best first

    def parts(self) -> list[tuple[str, bytes]]:
        """The names and values that decide which wheels are installed, for `digest`."""
        return [("python", self.python.encode()), ("platforms", " ".join(self.platforms).encode()), ("requirements", self.requirements)]

    def installed(self, folder: Path, name: str, within_s: float | None = None) -> dict[str, bytes]:
        """Path and content of the installed files that a worker may need. ``folder`` caches them, under a name that starts with ``name``.

        Raises `InputError` if pip is missing, and `RunFailed` if pip cannot get a wheel, or not within ``within_s`` seconds.
        """
        target, found = folder / f"{name}-{digest(self.parts())}", {}
        if not target.is_dir():
            self._install(target, within_s)
        for path in sorted(target.rglob("*")):
            inside = path.relative_to(target).as_posix()
            dropped = _DROPPED_FOLDERS.intersection(inside.split("/")[:-1]) or f"/{inside}".endswith(_DROPPED_SUFFIXES)
            if path.is_file() and not dropped and not inside.startswith(("zstandard/_cffi", *_DROPPED_PACKAGES)):  # the back end for PyPy
                found[inside] = path.read_bytes()
        return found

    def _install(self, target: Path, within_s: float | None) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            listed = Path(scratch, "requirements.txt")
            listed.write_bytes(self.requirements)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
            command += ["--target", f"{scratch}/target", "--only-binary", ":all:", "--no-deps", "--implementation", "cp"]
            command += ["--python-version", self.python, *(f"--platform={tag}" for tag in self.platforms), "-r", str(listed)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=within_s, check=False)
            except subprocess.TimeoutExpired as error:
                text = f"function package: pip did not get the wheels for Python {self.python} within {error.timeout:.0f} s"
                raise RunFailed(Code.DEADLINE, f"{text}; `fsd deploy` tries again") from None
            if "No module named pip" in done.stderr:
                raise InputError(f"function package: pip is missing: install it with: {sys.executable} -m ensurepip")
            if done.returncode:
                last = (done.stderr.strip() or "no reason given").splitlines()[-1]
                raise RunFailed(Code.UNAVAILABLE, f"function package: pip could not get the wheels for Python {self.python}: {last}")
            with suppress(OSError):  # another process has made it already
                os.rename(f"{scratch}/target", target)


@attrs.frozen(kw_only=True)
class Recipe:
    """The contents of a package and the platform's limits, in bytes."""

    name: str  # how the names of its files in the cache start: provider and runtime
    files: Mapping[str, bytes]  # path in the zip -> content
    wheels: Wheels | None = None
    below: str = ""  # the folder in the zip that the wheels are in, with a "/" at its end
    platform: str  # its name in errors
    max_zipped: int
    max_unzipped: int

    @property
    def digest(self) -> str:
        """The digest of the package that `build` would make. Quick: installs nothing."""
        return digest([("below", self.below.encode()), *(self.wheels.parts() if self.wheels else ()), *sorted(self.files.items())])

    def build(self, folder: Path | None = None, within_s: float | None = None) -> Package:
        """The package, from the cache in ``folder`` (default ``$FSD_HOME/packages``) if the cache has it.

        Raises `InputError` if pip is missing or the package is larger than the platform accepts, and `RunFailed` if pip cannot get a wheel,
        or not within ``within_s`` seconds.
        """
        name, folder = self.digest, folder or home_folder() / "packages"
        path = made(folder) / f"{self.name}-{name}.zip"
        if not path.exists():
            installed = self.wheels.installed(folder, self.name, within_s) if self.wheels else {}
            write(path, zipped({self.below + inside: content for inside, content in installed.items()} | dict(self.files)))
            for old in folder.glob(f"{self.name}-*.zip"):
                if old != path:
                    old.unlink(missing_ok=True)
        body = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            unzipped = sum(entry.file_size for entry in archive.infolist())
        if unzipped > self.max_unzipped or len(body) > self.max_zipped:
            raise InputError(
                f"function package: {len(body) >> 20} MB zipped, {unzipped >> 20} MB unzipped: expected at most "
                f"{self.max_zipped >> 20} MB and {self.max_unzipped >> 20} MB, the limits of {self.platform}; look at the sizes in {path}"
            )
        return Package(name, body, unzipped)


def stub(table: str) -> Package:
    """A package without code, for emulators that run code installed on this machine. ``table``: the provider's table of the settings."""
    text = f"# This function runs what is installed beside the emulator: [{table}] package = false.\n".encode()
    return Package("installed", zipped({"main.py": text}), len(text))


def files(package: str) -> dict[str, Path]:
    """The files of an installed package, by their paths relative to the package. Raises `InputError` if the package is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        extra = package.partition(".")[0].removeprefix("fsd_")
        raise InputError(f"function package: {package} is not installed: pip install 'fsd-inference[{extra}]'")
    roots = [Path(root) for root in spec.submodule_search_locations]
    return {path.relative_to(root).as_posix(): path for root in roots for path in sorted(root.rglob("*")) if path.is_file()}


def requirements(package: str, engine: str) -> bytes:
    """The content of a handler's requirements.txt. ``engine``: what else its functions need, see `fsd_core.protocol.runconfig.ENGINES`."""
    found = files(package)
    return b"".join(found[name].read_bytes() for name in ("requirements.txt", *(["requirements-onnx.txt"] if engine == "onnx" else ())))


def sources(packages: Iterable[str], without: Sequence[str] = ()) -> dict[str, bytes]:
    """The modules of fsd_core and ``packages`` that a worker may import: path in the zip and content.

    ``without``: modules of ``packages`` that only the client imports, as paths ("PACKAGE/provision.py") or folders ("PACKAGE/tests/").
    """
    left_out, found = (*(f"fsd_core/{name}" for name in _CLIENT_ONLY), *without), {}
    for package in ("fsd_core", *packages):
        for inside, path in files(package).items():
            name = f"{package.replace('.', '/')}/{inside}"
            if path.suffix == ".py" and not name.startswith(left_out):
                found[name] = path.read_bytes()
    return found


def manylinux(glibc: int) -> list[str]:
    """The tags of x86-64 wheels that a Linux with glibc 2.``glibc`` runs, the preferred tag first (PEP 600)."""
    return [f"manylinux_2_{minor}_x86_64" for minor in range(glibc, 16, -1)] + ["manylinux2014_x86_64"]


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of ``files`` (path and content), with sorted names and a fixed time, so that the same files give the same bytes."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, on every machine: else the mode below is ignored where the zip is unpacked
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return body.getvalue()


def write(path: Path, body: bytes) -> None:
    """Write a file in one step: other processes never see a part of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(body)
    os.replace(new, path)


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """16 hexadecimal digits of a hash over the names and contents in ``parts`` and over `_FORMAT`."""
    total = hashlib.sha256()
    for name, content in (("format", _FORMAT.encode()), *parts):
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()[:16]


def command(module: str, arguments: Sequence[str], runtimes: Sequence[str], recipe: Callable[[str], Recipe]) -> int:
    """``python -m MODULE OUT.zip [RUNTIME]``: write the package and print, as JSON, the variables that the infrastructure code takes."""
    if not 1 <= len(arguments) <= 2 or (len(arguments) == 2 and arguments[1] not in runtimes):
        print(f"usage: python -m {module} OUT.zip [{'|'.join(runtimes)}]", file=sys.stderr)
        return 2
    out, runtime = Path(arguments[0]), (*arguments, runtimes[0])[1]
    made = recipe(runtime).build()
    write(out, made.body)
    print(json.dumps({"package": str(out), "package_text": str(made), "code": made.digest, "runtime": runtime}))
    return 0
