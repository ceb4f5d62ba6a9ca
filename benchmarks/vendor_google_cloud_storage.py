"""A pytest plugin for the vendor's tests of google-cloud-storage: it starts our stand-in, which replaces a project of Google Cloud.

The tests have fixtures for two buckets that the stand-in refuses: one with object versions, and one that is filled by copies. This plugin
makes them without versions and copies, for the many tests that need any bucket. The credentials are anonymous. The SDK is unmodified.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from google.auth.credentials import AnonymousCredentials

from fsd_conformance.emulators.google import CloudStorage
from fsd_conformance.emulators.process import Guard

PROJECT = "vendor"
HOSTS = {
    "https://www.googleapis.com/": "/",
    "https://{bucket}.storage.googleapis.com/": "/{bucket}/",
}  # prefix of an address in the tests -> path at the stand-in


class Anonymous(AnonymousCredentials):  # type: ignore[misc]
    """Anonymous credentials with a project, as those of a service account have."""

    project_id = PROJECT


class Own:
    """The fixtures that replace those of the tests."""

    @staticmethod
    @pytest.fixture(scope="session")
    def shared_bucket(storage_client: Any, shared_bucket_name: str) -> Any:
        """A bucket without versions."""
        return storage_client.create_bucket(shared_bucket_name)

    @staticmethod
    @pytest.fixture(scope="session")
    def listable_bucket(storage_client: Any, listable_bucket_name: str, listable_filenames: list[str], file_data: Any) -> Any:
        """A bucket that uploads have filled."""
        bucket = storage_client.create_bucket(listable_bucket_name)
        for name in listable_filenames:
            bucket.blob(name).upload_from_filename(file_data["logo"]["path"])
        return bucket

    @staticmethod
    @pytest.fixture(scope="session")
    def authorized_transport() -> Iterator[Any]:
        """An HTTP session, for the tests of uploads and downloads below the classes of the SDK."""
        import google.auth.transport.requests as requests

        with requests.AuthorizedSession(Anonymous()) as session:
            yield session


folder = Path(tempfile.mkdtemp(prefix="vendor-"))
guard = Guard(folder)
server = CloudStorage(folder, guard)
sys.modules["google.cloud.kms"] = types.ModuleType("google.cloud.kms")  # the tests import it, but only those of keys use it, which skip
os.environ.update(GOOGLE_CLOUD_PROJECT=PROJECT, GOOGLE_CLOUD_TESTS_USER_PROJECT=PROJECT)  # set before the conftest of the tests reads them
google.auth.default = lambda *given, **named: (Anonymous(), PROJECT)


def pytest_configure(config: pytest.Config) -> None:
    """Start the stand-in in each process that runs tests."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        server.start()
        config.add_cleanup(server.stop)
        os.environ.update(STORAGE_EMULATOR_HOST=server.url, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(guard.end)


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Replace fixtures of a conftest of the tests by those of `Own`, before pytest collects the fixtures of the conftest."""
    if not isinstance(plugin, types.ModuleType) or not plugin.__name__.endswith("conftest"):
        return
    for name in ("shared_bucket", "listable_bucket", "authorized_transport"):
        if hasattr(plugin, name):
            setattr(plugin, name, getattr(Own, name))
    if helpers := getattr(plugin, "_helpers", None):
        helpers.await_config_changes_propagate = lambda seconds=0: None  # at the stand-in a change takes effect at once
    if utils := getattr(plugin, "utils", None):
        for name, value in vars(utils).items():
            for host, path in HOSTS.items():
                if isinstance(value, str) and value.startswith(host):
                    setattr(utils, name, value.replace(host, server.url + path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that the suite leaves out."""
    patterns = os.environ.get("VENDOR_LEFT_OUT")
    out = [item for item in items if patterns and re.search(patterns, item.name)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
