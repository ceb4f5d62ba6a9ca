"""The surroundings of google-cloud-storage's own tests, as a plugin of pytest: our stand-in instead of a project of Google's.

The tests have fixtures for buckets that the stand-in refuses, one with versions and one that is filled by copies: those are made here
without either, for the many tests that need no more than a bucket. Credentials are nobody's. The SDK is as it is.
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
}  # in addresses that tests have -> here


class Nobody(AnonymousCredentials):  # type: ignore[misc]
    """Of a project, as a service account's are."""

    project_id = PROJECT


class Own:
    """The fixtures that take the place of the tests' own."""

    @staticmethod
    @pytest.fixture(scope="session")
    def shared_bucket(storage_client: Any, shared_bucket_name: str) -> Any:
        """Without versions."""
        return storage_client.create_bucket(shared_bucket_name)

    @staticmethod
    @pytest.fixture(scope="session")
    def listable_bucket(storage_client: Any, listable_bucket_name: str, listable_filenames: list[str], file_data: Any) -> Any:
        """Filled by uploads."""
        bucket = storage_client.create_bucket(listable_bucket_name)
        for name in listable_filenames:
            bucket.blob(name).upload_from_filename(file_data["logo"]["path"])
        return bucket

    @staticmethod
    @pytest.fixture(scope="session")
    def authorized_transport() -> Iterator[Any]:
        """For the tests of uploads and downloads below the SDK's own classes."""
        import google.auth.transport.requests as requests

        with requests.AuthorizedSession(Nobody()) as session:
            yield session


folder = Path(tempfile.mkdtemp(prefix="vendor-"))
guard = Guard(folder)
server = CloudStorage(folder, guard)
sys.modules["google.cloud.kms"] = types.ModuleType("google.cloud.kms")  # imported, and used by tests of keys alone, which skip
os.environ.update(GOOGLE_CLOUD_PROJECT=PROJECT, GOOGLE_CLOUD_TESTS_USER_PROJECT=PROJECT)  # before a conftest reads them
google.auth.default = lambda *given, **named: (Nobody(), PROJECT)


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
    """Before pytest looks for the fixtures of a conftest of the tests': ours take the place of those that have the same name."""
    if not isinstance(plugin, types.ModuleType) or not plugin.__name__.endswith("conftest"):
        return
    for name in ("shared_bucket", "listable_bucket", "authorized_transport"):
        if hasattr(plugin, name):
            setattr(plugin, name, getattr(Own, name))
    if helpers := getattr(plugin, "_helpers", None):
        helpers.await_config_changes_propagate = lambda seconds=0: None  # here a change is in force at once
    if utils := getattr(plugin, "utils", None):
        for name, value in vars(utils).items():
            for host, path in HOSTS.items():
                if isinstance(value, str) and value.startswith(host):
                    setattr(utils, name, value.replace(host, server.url + path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no claim is about."""
    patterns = os.environ.get("VENDOR_LEFT_OUT")
    out = [item for item in items if patterns and re.search(patterns, item.name)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
