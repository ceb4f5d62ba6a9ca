"""The compiled kernel for the platform of a function: that of this machine if it runs there, else one that ``ziglang`` compiles."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import struct
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fsd_core.common.home import home_folder, made

__all__ = ["FLAGS", "extension", "requires"]

log = logging.getLogger(__name__)

NAME = "fsd_core/kernel/_kernel.abi3.so"
FLAGS = (
    "-O3",
    "-g0",
    "-std=gnu11",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wno-psabi",
    "-shared",
    "-fPIC",
    "-DPy_LIMITED_API=0x030B0000",
)
MACHINES = {62: "x86_64", 183: "aarch64"}  # by the number in an ELF header
BUILD_S = 120
_ELF = struct.Struct("<4sBBB9xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NEED = struct.Struct("<HHIII")  # of a library: version, count, name, first entry, next library
_ENTRY = struct.Struct("<IHHII")  # of a symbol version: hash, flags, other, name, next
_VERNEED = 0x6FFFFFFE


def extension(machine: str, glibc: int) -> dict[str, bytes]:
    """Path in the package and content of the extension for a Linux on ``machine`` ("x86_64", "aarch64") with glibc 2.``glibc``.

    Empty if there is none: functions then compute with numpy, and a warning says so.
    """
    content, why = _found(machine, glibc)
    if content is None:
        log.warning(
            "the package has no compiled kernel for %s with glibc 2.%d: its functions compute with numpy, 4 to 8 times slower: %s",
            *(machine, glibc, why),
        )
        return {}
    return {NAME: content}


def requires(body: bytes) -> tuple[str, int]:
    """The machine that a shared library is for, and the glibc 2.x that it needs at least. Raises `ValueError` for any other file."""
    try:
        magic, bits, order, _, _, number, _, _, _, at, _, _, _, _, size, count, _ = _ELF.unpack_from(body)
        if magic != b"\x7fELF" or (bits, order) != (2, 1) or number not in MACHINES:
            raise ValueError("expected an ELF file of 64 bits, for x86-64 or 64-bit Arm")
        sections = [_SECTION.unpack_from(body, at + size * each) for each in range(count)]
        names = [name for section in sections if section[1] == _VERNEED for name in _versions(body, section[4], sections[section[6]][4])]
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError(f"the ELF file is damaged: {error}") from error
    parts = [name.removeprefix("GLIBC_").split(".") for name in names if name.startswith("GLIBC_")]
    return MACHINES[number], max((int(part[1]) for part in parts if len(part) > 1 and part[0] == "2"), default=0)


def _versions(body: bytes, at: int, strings: int) -> list[str]:
    """The symbol versions that a library needs of others, from its section of the type SHT_GNU_verneed."""
    found = []
    while True:
        _, count, _, first, following = _NEED.unpack_from(body, at)
        entry = at + first
        for _ in range(count):
            *_, name, after = _ENTRY.unpack_from(body, entry)
            found.append(body[strings + name : body.index(b"\0", strings + name)].decode())
            entry += after
        if not following:
            return found
        at += following


@cache
def _found(machine: str, glibc: int) -> tuple[bytes | None, str]:
    """The extension, or `None` and the reason."""
    spec = find_spec("fsd_core.kernel._kernel")
    if spec is not None and spec.origin is not None and platform.system() == "Linux":
        own = Path(spec.origin).read_bytes()
        try:
            its, needs = requires(own)
            if its == machine and needs <= glibc:
                return own, ""
        except ValueError as error:
            log.debug("%s: %s", spec.origin, error)
    if find_spec("ziglang") is None:
        return None, "this machine's own does not run there: pip install 'fsd-inference[deploy]' gets a compiler for it"
    return _compiled(machine, glibc)


def _compiled(machine: str, glibc: int) -> tuple[bytes | None, str]:
    """The extension that ziglang compiles. A folder caches it, by its source and target."""
    source = find_spec("fsd_core.kernel")
    assert source is not None
    folder = Path((source.submodule_search_locations or [""])[0])
    texts = [(folder / name).read_bytes() for name in ("kernel.c", "tile.h")]
    target = f"{machine}-linux-gnu.2.{glibc}"
    digest = hashlib.sha256(b"\0".join([*texts, target.encode(), " ".join(FLAGS).encode()])).hexdigest()[:16]
    path = made(home_folder() / "packages") / f"kernel-{machine}-{glibc}-{digest}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            out = Path(scratch, "kernel.so")
            words = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS, f"-I{sysconfig.get_paths()['include']}"]
            words += [str(folder / "kernel.c"), "-o", str(out)]
            environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": scratch, "ZIG_GLOBAL_CACHE_DIR": str(path.parent / "zig")}
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=BUILD_S, check=False, env=environment)
            except subprocess.TimeoutExpired:
                return None, f"ziglang did not compile it within {BUILD_S} s"
            if done.returncode or not out.exists():
                return None, f"ziglang could not compile it: {(done.stderr.strip() or 'no reason given').splitlines()[0]}"
            os.replace(out, path)
    return path.read_bytes(), ""
