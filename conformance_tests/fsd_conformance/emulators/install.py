"""Installs the packages of emulators below FSD_HOME, each once. After an interruption the next call starts the installation from the
beginning.
"""

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

_WHOLE = "installed"  # the file that marks a finished installation, with its contents


def folder() -> Path:
    """The folder of all emulators' files."""
    return home_folder() / "emulators"


@contextlib.contextmanager
def locked(name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock between processes. ``waiting`` is called if another process holds it. The kernel releases the lock when its owner ends
    for any reason.
    """
    with (made(folder()) / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(name: str, requirements: Sequence[str], tell: Callable[[str], None]) -> Path:
    """The interpreter of the virtual environment ``name`` with ``requirements``. Makes the environment if needed."""
    target = folder() / name
    python = target / "bin" / "python"

    def make() -> None:
        _run([sys.executable, "-m", "venv", str(target)], name, lambda line: None)
        # Compiling would take half a minute: a server compiles the modules that it imports when it first starts.
        _pip([str(python), "-m", "pip", "install", "--no-compile", *requirements], name, tell)

    _once(target, "\n".join([*requirements, sys.version]), make, tell)
    return python


def npm(package: str, version: str, tell: Callable[[str], None]) -> Path:
    """The folder of a Node.js package, with its dependencies beside it. Raises `InputError` without Node.js or npm."""
    target = folder() / f"{package}-{version}"
    if shutil.which("node") is None:
        raise InputError(f"emulators: {package} needs Node.js 20 or newer: install it, so that `node` and `npm` are found")

    def make() -> None:
        if shutil.which("npm") is None:
            raise InputError(f"emulators: {package} cannot be installed without npm, which comes with Node.js: add `npm` to PATH")
        target.mkdir(parents=True, exist_ok=True)
        command = ["npm", "--loglevel=error", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]
        _run([*command, "--prefix", str(target), f"{package}@{version}"], package, lambda line: None)

    _once(target, f"{package} {version}", make, tell)
    return target / "node_modules" / package


def packages(extras: Sequence[str], tell: Callable[[str], None]) -> None:
    """Install the missing packages of this project's ``extras``, and make them importable in this process and its children."""
    wanted = [line.partition(";")[0].strip() for line in requires("fsd-inference") or () if line.endswith(tuple(f'"{e}"' for e in extras))]
    missing = [requirement for requirement in wanted if not _there(re.split(r"[^\w.-]", requirement)[0])]
    if not missing:
        return
    contents = "\n".join([*missing, sys.version])
    target = folder() / f"packages-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"
    command = [sys.executable, "-m", "pip", "install", "--target", str(target), *missing]
    _once(target, contents, lambda: _pip(command, target.name, tell), tell)
    sys.path.append(str(target))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(target)]))
    importlib.invalidate_caches()


def wheels(requirements: Path, tell: Callable[[str], None]) -> Path:
    """Download the wheels of a requirements file with hashes, without installing them, and return their folder."""
    target, contents = folder() / f"wheels-{requirements.stem}", requirements.read_text()

    def make() -> None:
        target.mkdir(parents=True, exist_ok=True)
        exact = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1"]
        _pip([sys.executable, "-m", "pip", "download", *exact, "--dest", str(target), "-r", str(requirements)], target.name, tell)

    _once(target, contents, make, tell)
    return target


def _there(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _once(target: Path, contents: str, make: Callable[[], None], tell: Callable[[str], None]) -> None:
    """Make the folder ``target`` unless it was made with the same ``contents``."""
    whole = target / _WHOLE

    def there() -> bool:
        return whole.exists() and whole.read_text() == contents

    if there():
        return
    with locked(target.name, lambda: tell(f"{target.name} is being installed by another process")):
        if there():
            return
        shutil.rmtree(target, ignore_errors=True)
        tell(f"installing {target.name} below {folder()}: once, a minute or more")
        make()
        whole.write_text(contents)


def _pip(command: list[str], what: str, tell: Callable[[str], None]) -> None:
    """Run pip, with its progress to ``tell``."""

    def line(text: str) -> None:
        if text.startswith(("Collecting ", "Installing ")):
            tell(text[:80])

    _run([*command[:4], "--disable-pip-version-check", "--no-input", "--progress-bar", "off", *command[4:]], what, line)


def _run(command: list[str], what: str, line: Callable[[str], None]) -> None:
    """Run a command to its end. Raises `InputError` with its last lines where it fails."""
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
            start_new_session=True,  # its children must end too, before the folder is made again
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
