"""The provider against the suite: plain, metered, prefixed, under faults."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the cases are made before any fixture runs
pytest.importorskip("redis", reason="pip install redis")

from fsd_conformance import cases
from fsd_redis.harness import RedisHarness

pytestmark = pytest.mark.timeout(300)
globals().update(cases(RedisHarness()))
