"""The compiled kernel in a function's package: for the platform's machine and C library, or none and a warning."""

from __future__ import annotations

import logging
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from fsd_core.kernel import compiled
from fsd_core.providers import native

built = pytest.mark.skipif(bool(compiled.missing), reason="the compiled kernel is not built")


def own() -> bytes:
    spec = find_spec("fsd_core.kernel._kernel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    native._found.cache_clear()


@built
def test_this_machines_own_is_taken_where_it_runs() -> None:
    machine, glibc = native.requires(own())
    assert glibc <= 26  # of the oldest platform
    assert native.extension(machine, glibc) == {"fsd_core/kernel/_kernel.abi3.so": own()}


@built
def test_the_package_of_a_function_has_it() -> None:
    from fsd_aws.package import recipe

    machine, _ = native.requires(own())
    assert ("fsd_core/kernel/_kernel.abi3.so" in recipe("python3.12").files) == (machine == "x86_64" or find_spec("ziglang") is not None)


@pytest.mark.skipif(find_spec("ziglang") is None, reason="pip install 'fsd-inference[deploy]'")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("machine", "glibc"), [("x86_64", 13), ("aarch64", 26)])
def test_another_is_compiled_for_the_platform(machine: str, glibc: int) -> None:
    found = native.extension(machine, glibc)  # older than this machine's own needs
    its, needs = native.requires(found["fsd_core/kernel/_kernel.abi3.so"])
    assert its == machine
    assert needs <= glibc
    assert native.extension(machine, glibc) == found


def test_without_a_compiler_a_warning_says_how_much_slower(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert native.extension("aarch64", 26) == {}
    assert "for aarch64 with glibc 2.26" in caplog.text
    assert "times slower" in caplog.text
    assert "fsd-inference[deploy]" in caplog.text


@pytest.mark.parametrize("body", [b"", b"MZ" * 100, b"\x7fELF" + bytes(60), b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\0" + b"\xff" * 44])
def test_what_is_no_library_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        native.requires(body)


@built
def test_a_damaged_library_is_an_error_or_still_a_library() -> None:
    good = own()
    for at in range(64):
        bad = good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
        with suppress(ValueError):
            assert native.requires(bad)[0] in native.MACHINES.values()
