"""Getting what an emulator needs, below FSD_HOME: once, whoever asks first; what was interrupted is begun anew."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from fsd_core.common import interrupt
from fsd_core.common.home import home_folder, made
from fsd_core.errors import InputError

__all__ = ["environment", "folder", "locked", "npm", "packages", "wheels"]

_WHOLE = "installed"  # the file that says that an installation was finished, and of what


def folder() -> Path:
    """Where everything about emulators is."""
    return home_folder() / "emulators"


@contextlib.contextmanager
def locked(name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One process at a time; ``waiting`` is called if another has it. The kernel gives it back, however its holder ends."""
    with (made(folder()) / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(name: str, requirements: Sequence[str], tell: Callable[[str], None]) -> Path:
    """The interpreter of a virtual environment of its own that has ``requirements``."""
    target = folder() / name
    python = target / "bin" / "python"

    def make() -> None:
        _run([sys.executable, "-m", "venv", str(target)], name, lambda line: None)
        _pip([str(python), "-m", "pip", "install", *requirements], name, tell)

    _once(target, "\n".join([*requirements, sys.version]), make, tell)
    return python


def npm(package: str, version: str, tell: Callable[[str], None]) -> Path:
    """The folder of a package of Node.js, with what it depends on beside it. `InputError`: there is no Node.js, or no npm to get it."""
    target = folder() / f"{package}-{version}"
    if shutil.which("node") is None:
        raise InputError(f"emulators: {package} needs Node.js 20 or newer: install it, so that `node` and `npm` are found")

    def make() -> None:
        if shutil.which("npm") is None:
            raise InputError(f"emulators: {package} cannot be installed without npm, which comes with Node.js: so that `npm` is found")
        target.mkdir(parents=True, exist_ok=True)
        command = ["npm", "--loglevel=error", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]
        _run([*command, "--prefix", str(target), f"{package}@{version}"], package, lambda line: None)

    _once(target, f"{package} {version}", make, tell)
    return target / "node_modules" / package


def packages(extras: Sequence[str], tell: Callable[[str], None]) -> None:
    """Make importable, here and in child processes, what this interpreter lacks of our own ``extras``."""
    wanted = [line.partition(";")[0].strip() for line in requires("fsd-inference") or () if line.endswith(tuple(f'"{e}"' for e in extras))]
    missing = [requirement for requirement in wanted if not _there(re.split(r"[^\w.-]", requirement)[0])]
    if not missing:
        return
    told = "\n".join([*missing, sys.version])
    target = folder() / f"packages-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    _once(target, told, lambda: _pip([sys.executable, "-m", "pip", "install", "--target", str(target), *missing], target.name, tell), tell)
    sys.path.append(str(target))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(target)]))
    importlib.invalidate_caches()


def wheels(requirements: Path, tell: Callable[[str], None]) -> Path:
    """The folder of the wheels that a file of requirements names with their hashes: as they were published, and not installed."""
    target, told = folder() / f"wheels-{requirements.stem}", requirements.read_text()

    def make() -> None:
        target.mkdir(parents=True, exist_ok=True)
        exact = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1"]
        _pip([sys.executable, "-m", "pip", "download", *exact, "--dest", str(target), "-r", str(requirements)], target.name, tell)

    _once(target, told, make, tell)
    return target


def _there(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _once(target: Path, told: str, make: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Make the folder ``target`` unless it was made as ``told``."""
    whole = target / _WHOLE

    def there() -> bool:
        return whole.exists() and whole.read_text() == told

    if there():
        return
    with locked(target.name, lambda: tell(f"{target.name} is being installed by another process")):
        if there():
            return
        shutil.rmtree(target, ignore_errors=True)
        tell(f"installing {target.name} below {folder()}: once, a minute or more")
        make()
        whole.write_text(told)


def _pip(command: list[str], what: str, tell: Callable[[str], None]) -> None:
    """Run pip, telling what it collects."""

    def line(text: str) -> None:
        if text.startswith(("Collecting ", "Installing ")):
            tell(text[:80])

    _run([*command[:4], "--disable-pip-version-check", "--no-input", "--progress-bar", "off", *command[4:]], what, line)


def _run(command: list[str], what: str, line: Callable[[str], None]) -> None:
    """Run to the end; `InputError` with its last lines if it fails."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER")}
    last: list[str] = []
    with interrupt.whole():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=clean,
            start_new_session=True,  # it has children of its own, and all must end before the folder may be made anew
        )
    with process:
        try:
            assert process.stdout is not None
            for text in process.stdout:
                line(text)
                last = [*last, text.strip()][-3:]
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise InputError(f"emulators: {what} cannot be installed: {command[2]} ended with {process.returncode}: {' / '.join(last)}")
