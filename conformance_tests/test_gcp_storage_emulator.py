"""Google Cloud's object store against the suite, on gcp-storage-emulator, which others wrote."""

import pytest

from fsd_conformance import FaultyObjectCases, MeteredObjectCases, ObjectCases, PrefixedObjectCases
from fsd_conformance.gcp import GcpStorageEmulatorHarness

HARNESS = GcpStorageEmulatorHarness()
pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("installed"), pytest.mark.timeout(300)]


class TestObject(ObjectCases):
    harness = HARNESS


class TestMeteredObject(MeteredObjectCases):
    harness = HARNESS


class TestPrefixedObject(PrefixedObjectCases):
    harness = HARNESS


class TestFaultyObject(FaultyObjectCases):
    harness = HARNESS
