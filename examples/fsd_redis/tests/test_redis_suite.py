"""The provider against the suite, plain and under faults."""

import pytest

from fsd_conformance import cases
from fsd_redis.harness import RedisHarness

pytestmark = pytest.mark.timeout(300)
# The other groups are of fsd's own wrappers, which the other providers try.
GROUPS = ("Message", "Object", "Invoke", "Provision", "Channel", "EndToEnd", "FaultyMessage", "FaultyObject")
globals().update({name: group for name, group in cases(RedisHarness()).items() if name.removeprefix("Test") in GROUPS})
