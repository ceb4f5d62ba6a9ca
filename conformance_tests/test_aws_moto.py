"""AWS against the suite, on moto: every group of cases, plain, metered, prefixed, under faults."""

import pytest

from fsd_conformance import cases
from fsd_conformance.aws import MotoHarness

HARNESS = MotoHarness()
pytestmark = [
    pytest.mark.emulator,
    pytest.mark.usefixtures("installed"),
    pytest.mark.timeout(600),
]  # an installation is within the first case's time

globals().update(cases(HARNESS))
