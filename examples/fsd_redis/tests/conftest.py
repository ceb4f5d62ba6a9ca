import os
import shutil
from pathlib import Path

import pytest

from fsd_conformance.source_tree import importable

pytest.register_assert_rewrite("fsd_conformance")
PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def package(tmp_path_factory):
    """The package, whether it is installed or not; without Redis its tests say how to get it."""
    pytest.importorskip("redis", reason="pip install redis")
    if shutil.which("redis-server") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("redis-server is missing: make redis installs it where CI=true")
        pytest.skip("redis-server is not found: apt-get install redis-server")
    with importable(PROJECT, tmp_path_factory.mktemp("metadata")):
        yield
