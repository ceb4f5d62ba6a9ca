"""What is installed on this machine, and how to install the rest."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import attrs

from fsd_core import providers
from fsd_core.common import plugins
from fsd_core.common.home import home_folder, made
from fsd_core.config import FILE
from fsd_core.errors import InputError
from fsd_core.kernel import compiled
from fsd_core.providers.advice import line

__all__ = ["Check", "doctor"]

REQUIRED = ("numpy", "attrs", "zstandard", "scipy", "safetensors", "click", "rich")
EXTRAS = {
    "mtkahypar": "pip install 'fsd-inference[partition]': without it, block replaces hypergraph partitions, and workers send more rows",
    "scikit-learn": "pip install 'fsd-inference[demo]': fsd demo and the input `digits` need it",
    "onnx": "pip install 'fsd-inference[onnx]': ONNX models need it",
    "onnxruntime": "pip install 'fsd-inference[onnx]': ONNX models need it",
    "matplotlib": "pip install 'fsd-inference[report]': fsd report and fsd compare --report need it",
    "moto": "pip install 'fsd-inference[emulators]', or --emulator installs it below FSD_HOME",
    "awslambdaric": "pip install 'fsd-inference[emulators]', or --emulator installs it below FSD_HOME",
    "pytest": "pip install 'fsd-inference[test]': fsd conformance needs it",
}
ANSWERS_S = 5.0
TOOLS = {"java": "some emulators need a Java runtime", "node": "some emulators need Node.js"}


@attrs.frozen
class Check:
    """One part that fsd looked for. ``found``: its version or path, `None` if it is missing. ``hint``: what to do if it is missing."""

    name: str
    found: str | None
    hint: str


def doctor() -> list[Check]:
    """Look for all software that fsd can use: libraries, providers and their credentials, emulators, tools. Takes some seconds."""
    return [Check(*each) for each in _checks()]


def _checks() -> Iterator[tuple[str, str | None, str]]:
    """The name, the version or path that was found (`None` if nothing), and what to do if nothing was found."""
    from fsd_conformance import emulators

    yield "fsd-inference", _version("fsd-inference"), ""
    yield "python", platform.python_version(), ""
    yield "machine", f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}", ""
    yield "compiled kernel", *_kernel()
    yield "FSD_HOME", *_writable()
    yield FILE, os.path.abspath(FILE) if os.path.exists(FILE) else None, "not in this folder: the default settings apply"
    for name in REQUIRED:
        yield name, _version(name), f"pip install {name}"
    for name, hint in EXTRAS.items():
        yield name, _version(name), hint
    sdks = {name: (package, provider) for provider in reversed(providers.installed()) for name, package in plugins.needs(provider).items()}
    for name, (package, provider) in sdks.items():
        if name not in REQUIRED:
            yield name, _version(name), f"pip install {package}: provider {provider} needs it"
    for name in providers.installed():
        found, hint = _provider(name)
        yield f"provider {name}", found, hint
        yield f"credentials of {name}", *(_credentials(name) if found else (None, "the provider cannot be imported"))
    for name in plugins.entries(plugins.EMULATORS):
        try:
            known, running = emulators.names(name), emulators.state(name)
        except InputError as error:
            yield f"emulator of {name}", None, str(error)
            continue
        up = f"{running.name}, {'up' if running.alive() else 'dead'}" if running else None
        if known:
            yield f"emulator of {name}", up, f"{' or '.join(known)} can run here: fsd emulators up {name}"
    for name, hint in TOOLS.items():
        yield name, shutil.which(name), hint


def _kernel() -> tuple[str | None, str]:
    """The instruction sets of the compiled kernel, the one that computes first; or `None` and what to do."""
    if compiled.missing:
        hint = "install a C compiler (gcc or clang), then fsd-inference again from source: until then numpy computes, several times slower"
        return None, f"{hint}; it cannot be loaded: {compiled.missing}"
    try:
        active = compiled.active()
    except InputError as error:
        return None, str(error)
    return f"computes with {active.name if active else 'numpy'}; built for {', '.join(compiled.instruction_sets())}", ""


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _provider(name: str) -> tuple[str | None, str]:
    try:
        found: Any = providers.find(name)
        return f"{type(found).__module__}.{type(found).__qualname__}", ""
    except InputError as error:
        return None, str(error)


def _credentials(name: str) -> tuple[str | None, str]:
    """Whose credentials the provider's SDK finds; or `None` and its error with advice. Waits at most `ANSWERS_S` seconds."""
    found: list[tuple[str | None, str]] = []

    def ask() -> None:
        provider = providers.find(name)
        try:
            found.append((provider.credentials(), ""))
        except ImportError as error:
            found.append((None, f"its SDK is not installed: {error}"))
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            found.append((None, line(text, provider.advice(text))))

    asking = threading.Thread(target=ask, daemon=True)
    logging.disable()  # some SDKs write long warnings where they find no credentials
    asking.start()
    asking.join(ANSWERS_S)
    logging.disable(logging.NOTSET)
    return found[0] if found else (None, f"the source of credentials did not answer within {ANSWERS_S:.0f} s")


def _writable() -> tuple[str | None, str]:
    try:
        folder = made(home_folder())
        with tempfile.TemporaryFile(dir=folder):
            return str(folder), ""
    except (InputError, OSError) as error:
        return None, str(error)
