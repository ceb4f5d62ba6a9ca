import os

import pytest

from fsd_core.errors import InputError

pytest.register_assert_rewrite("fsd_conformance")


@pytest.fixture(scope="module")
def installed(request):
    """Install the emulator of the file's HARNESS. Where it cannot be had, continuous integration fails; others hear how to get it."""
    emulator = request.module.HARNESS.emulator
    try:
        emulator.install(print)
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{error}; fsd emulators up aws --name {emulator.name} tries again")
