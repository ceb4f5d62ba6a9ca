"""AWS against the suite, on LocalStack: every group of cases, plain, metered, prefixed, under faults."""

import pytest

from fsd_conformance import cases
from fsd_conformance.aws import LocalStackHarness

HARNESS = LocalStackHarness()
pytestmark = [
    pytest.mark.emulator,
    pytest.mark.usefixtures("installed"),
    pytest.mark.timeout(600),
]  # the first case may include an installation

globals().update(cases(HARNESS))
