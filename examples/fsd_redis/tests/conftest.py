import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("fsd_conformance")
PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))  # the tests import the package when they are collected, whether it is installed or not
collect_ignore = []
try:
    import redis  # noqa: F401
except ImportError:
    collect_ignore += ["test_redis.py", "test_redis_suite.py"]


@pytest.fixture(scope="session", autouse=True)
def package(tmp_path_factory):
    """The package for child processes too; without Redis its tests say how to get it."""
    from fsd_conformance.source_tree import importable

    if shutil.which("redis-server") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is missing: `make machine` installs it where CI=true")
        pytest.skip("redis-server is not found: apt-get install redis-server")
    with importable(PROJECT, tmp_path_factory.mktemp("metadata")):
        yield
