"""AWS against the suite, on LocalStack: plain and under faults. Other wrappers are the same around the same driver on moto."""

import pytest

from fsd_conformance import cases
from fsd_conformance.aws import LocalStackHarness

HARNESS = LocalStackHarness()
pytestmark = [
    pytest.mark.emulator,
    pytest.mark.usefixtures("installed"),
    pytest.mark.timeout(600),
]  # the first case may include an installation

_ON_MOTO = ("TestMetered", "TestPrefixed", "TestDelayed")
globals().update({name: group for name, group in cases(HARNESS).items() if not name.startswith(_ON_MOTO)})
