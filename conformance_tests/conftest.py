import os

import pytest

pytest.register_assert_rewrite("fsd_conformance")

from fsd_conformance.emulators import names  # noqa: E402
from fsd_core.errors import InputError  # noqa: E402


@pytest.fixture(scope="module")
def installed(request):
    """Install the emulator of the file's HARNESS. Where that fails, CI fails; elsewhere the cases are skipped with the reason."""
    emulator = request.module.HARNESS.emulator
    try:
        emulator.install(print)
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        provider = request.module.HARNESS.provider().name
        again = f"; fsd emulators up {provider} --name {emulator.name} tries again" if emulator.name in names(provider) else ""
        pytest.skip(f"{error}{again}")
