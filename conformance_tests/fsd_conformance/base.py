"""What all groups of cases share: one deployed app for each harness and test file, gaps (the cases that a provider cannot pass), and the
check of refusals.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import attrs
import pytest

from fsd_conformance.harness import Harness, Kind
from fsd_core.driver import Code, Provider, Provisioner, Resources
from fsd_core.errors import FsdError
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry

__all__ = ["RANKS", "SLOTS", "Cases", "Deployed", "Driver", "DriverCases", "eventually", "new_app", "new_retry", "refused"]

RANKS, SLOTS = 3, 2
_DEPLOYED = pytest.StashKey[dict[Harness, "Deployed"]]()


class Driver(Protocol):
    """The methods that all drivers share."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Release connections."""


@attrs.frozen
class Deployed:
    """An app that is ready to use."""

    provider: Provider
    provisioner: Provisioner
    settings: Mapping[str, object]
    resources: Resources

    @property
    def app(self) -> str:
        """The app's name."""
        return self.resources.app


class Cases:
    """The base class of every group. ``harness``: the provider under test."""

    harness: ClassVar[Harness]

    @pytest.fixture(autouse=True)
    def _gap(self, request: pytest.FixtureRequest) -> None:
        if reason := self.harness.gaps.get(request.node.originalname):
            pytest.skip(f"gap of {self.harness.name}: {reason}")

    @pytest.fixture
    def deployed(self, request: pytest.FixtureRequest) -> Deployed:
        """The harness's app with `RANKS` ranks and `SLOTS` slots; it is destroyed at the end of the test file."""
        module: pytest.Module = request.node.getparent(pytest.Module)
        apps: dict[Harness, Deployed] = module.stash.setdefault(_DEPLOYED, {})
        if self.harness not in apps:
            apps[self.harness] = _deploy(self.harness, module.addfinalizer)
        return apps[self.harness]


class DriverCases(Cases):
    """Cases for every kind of driver. A group overrides the fixture ``driver``."""

    kind: ClassVar[Kind]

    @pytest.fixture
    def driver(self, deployed: Deployed) -> Iterator[Driver]:
        """The driver under test."""
        raise NotImplementedError

    def test_classify_takes_any_error(self, driver: Driver) -> None:
        """classify gives UNKNOWN for an error that is not the SDK's, and never raises."""
        assert driver.classify(type("Foreign", (Exception,), {})("x")) is Code.UNKNOWN
        for error in (ValueError("x"), OSError(), KeyboardInterrupt(), KeyError(), ExceptionGroup("x", [ValueError()])):
            assert isinstance(driver.classify(error), Code)

    def test_closes_twice(self, driver: Driver) -> None:
        """Calling ``close`` a second time does nothing."""
        driver.close()
        driver.close()

    def find_by_native(self, driver: Driver, resources: Resources, what: str = "") -> None:
        """Assert that the SDK's client itself finds a resource of the app; see `Harness.finds`."""
        found = self.harness.finds(self.kind, driver.native(), resources, what)
        if found is None:
            pytest.skip(f"the harness does not know how the SDK's client finds {self.kind}: Harness.finds returned None")
        assert found


def refused(driver: Driver, codes: set[Code], request: Callable[[], object]) -> None:
    """Assert that ``request`` raises the service's own error, which the driver classifies as one of ``codes``."""
    error = _error(request)
    assert error is not None, f"not refused; expected {codes}"
    assert not isinstance(error, FsdError), f"wrapped: {error!r}"
    code = driver.classify(error)
    assert code in codes, f"{error!r} is {code}; expected {codes}"


def _error(request: Callable[[], object]) -> Exception | None:
    try:
        request()
    except Exception as error:
        return error
    return None


def eventually(what: str, within_s: float, check: Callable[[], bool]) -> None:
    """Repeat ``check`` until it returns true; fail the test after ``within_s`` seconds. ``what`` names the condition in the failure
    message.
    """
    until = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < until, f"{what}: not within {within_s:g} s"
        time.sleep(0.05)


def new_retry(within_s: float = 240.0) -> Retry:
    """The retry layer of fsd_core, for cases that must pass even if single calls fail, also on a busy machine."""
    return Retry(time.time() + within_s, Meter())


def new_app() -> str:
    """A new name of an app."""
    return f"conf-{secrets.token_hex(4)}"


def _deploy(harness: Harness, at_end: Callable[[Callable[[], None]], None]) -> Deployed:
    folder = Path(tempfile.mkdtemp(prefix="fsd-conformance-"))
    at_end(lambda: shutil.rmtree(folder, ignore_errors=True))
    at_end(harness.stop)
    harness.start()
    provider, settings, app = harness.provider(), harness.settings(folder), new_app()
    provisioner = provider.provisioner(settings)

    def destroy() -> None:
        provisioner.destroy(app)

    at_end(destroy)  # registered before ensure, so that an incomplete app is destroyed too
    return Deployed(provider, provisioner, settings, provisioner.ensure(app, RANKS, SLOTS))
