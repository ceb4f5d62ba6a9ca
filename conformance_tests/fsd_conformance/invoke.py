"""Cases of `fsd_core.driver.InvokeDriver`. They launch the worker function with probes (`fsd_core.worker.probe`)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from fsd_conformance.base import Deployed, DriverCases, eventually, new_app, new_retry, refused
from fsd_core.driver import WORKER, Code, Failure, InvokeDriver, Launch
from fsd_core.storage.store import Store

__all__ = ["InvokeCases"]

LONG_S = 60.0  # longer than any case takes; a function that still sleeps after its case costs little


class Probes:
    """Launches the worker function with probes, and reads the objects that the probes write."""

    def __init__(self, deployed: Deployed, driver: InvokeDriver, within_s: float) -> None:
        self._app = deployed.app
        self._driver = driver
        self._within_s = within_s
        self._polled = 0.0
        self.store = Store(deployed.provider.objects(deployed.resources), new_retry(within_s * 2))

    def payload(self, key: str, **spec: float) -> bytes:
        """The payload of a probe, for the worker function."""
        return json.dumps({"app": self._app, "probe": {"key": key, **spec}}).encode()

    def launch(self, key: str, **spec: float) -> Launch:
        """Invoke the worker function, repeated while the refusal is transient."""
        retry = new_retry(self._within_s)
        return retry.call(self._driver, "invoke", lambda: self._driver.invoke(WORKER, self.payload(key, **spec)))

    def saw(self, key: str, what: str) -> bool:
        """Whether the probe wrote ``started`` or ``ended``."""
        return any(True for _ in self.store.keys(f"{key}/{what}-"))

    def expect(self, key: str, what: str, launch: Launch) -> None:
        """Wait until the probe wrote ``what``; fail as soon as the platform drops the launch."""

        def there() -> bool:
            code = self.failure(launch)
            assert code is None or self.saw(key, what), f"{key}: the platform gave up the launch: {code}"
            return self.saw(key, what)

        eventually(f"{key} {what}", self._within_s, there)

    def failure(self, launch: Launch) -> Code | None:
        """The code of a failed launch, or None. Asks a platform that reports failures only on request at most once per second."""
        if self._driver.limits.failures != "host" and time.monotonic() >= self._polled + 1.0:
            self._driver.failures(lambda payload: False)
            self._polled = time.monotonic()
        return launch.poll()


class InvokeCases(DriverCases):
    """The contract of single calls."""

    kind = "functions"

    @pytest.fixture
    def driver(self, deployed: Deployed) -> Iterator[InvokeDriver]:
        """A driver that starts the app's functions. Functions of the local provider end with the case."""
        driver = deployed.provider.invoker(deployed.resources)
        yield driver
        driver.close()

    @pytest.fixture
    def probes(self, deployed: Deployed, driver: InvokeDriver) -> Iterator[Probes]:
        """Probes of the app under test."""
        probes = Probes(deployed, driver, self.harness.starts_s)
        yield probes
        probes.store.driver.close()

    @pytest.fixture
    def key(self) -> str:
        """A prefix of keys that no other case uses."""
        return f"probe/{secrets.token_hex(6)}"

    def test_native_is_there(self, deployed: Deployed, driver: InvokeDriver, probes: Probes, key: str) -> None:
        """After a launch, `native` is the platform's own client."""
        probes.launch(key)
        self.find_by_native(driver, deployed.resources)

    def test_runs_with_its_payload(self, probes: Probes, key: str) -> None:
        """A function starts with the payload of its launch, and ends; so does a second one."""
        for number in range(2):
            launch = probes.launch(f"{key}/{number}")
            probes.expect(f"{key}/{number}", "ended", launch)
            assert probes.saw(f"{key}/{number}", "started")

    def test_returns_without_waiting(self, probes: Probes, key: str) -> None:
        """``invoke`` must return without waiting for the function to end."""
        before = time.monotonic()
        launch = probes.launch(key, sleep_s=LONG_S)
        assert time.monotonic() - before < LONG_S
        probes.expect(key, "started", launch)
        assert not probes.saw(key, "ended")

    def test_threads_launch(self, probes: Probes, key: str) -> None:
        """Drivers must be safe to call from several threads: each of eight launches runs."""
        keys = [f"{key}/{number}" for number in range(8)]
        with ThreadPoolExecutor(4) as pool:
            launches = list(pool.map(probes.launch, keys))
        for each, launch in zip(keys, launches, strict=True):
            probes.expect(each, "ended", launch)

    def test_payload_of_the_largest_size(self, probes: Probes, driver: InvokeDriver, key: str) -> None:
        """A payload of ``payload_bytes`` runs; one byte more must raise, and no function starts."""
        size = driver.limits.payload_bytes
        fits, over = probes.payload(f"{key}/fits").ljust(size), probes.payload(f"{key}/over").ljust(size + 1)
        refused(driver, {Code.TOO_LARGE, Code.INVALID}, lambda: driver.invoke(WORKER, over))
        probes.expect(f"{key}/fits", "ended", new_retry().call(driver, "invoke", lambda: driver.invoke(WORKER, fits)))
        assert not probes.saw(f"{key}/over", "started")

    def test_no_such_function(self, probes: Probes, driver: InvokeDriver, key: str) -> None:
        """A function that does not exist must raise NOT_FOUND, at once or from ``Launch.poll``."""
        codes = _codes(driver, "no-such-function", probes, key)
        eventually("NOT_FOUND", self.harness.starts_s, lambda: next(codes) is Code.NOT_FOUND)

    def test_a_crash_disturbs_nobody(self, probes: Probes, key: str) -> None:
        """The death of a function has no effect on functions that run at the same time or later."""
        beside = probes.launch(f"{key}/beside", sleep_s=3)
        probes.expect(f"{key}/beside", "started", beside)
        for code in (3, 139):
            crashed = probes.launch(f"{key}/crash{code}", exit=code)
            probes.expect(f"{key}/crash{code}", "started", crashed)
        probes.expect(f"{key}/after", "ended", probes.launch(f"{key}/after"))
        probes.expect(f"{key}/beside", "ended", beside)
        assert not probes.saw(f"{key}/crash3", "ended")

    def test_a_death_is_reported(self, probes: Probes, driver: InvokeDriver, key: str) -> None:
        """If the platform records deaths, ``failures`` returns each accepted one once, with the payload of its launch."""
        if driver.limits.failures == "host":
            pytest.skip("the host of this platform's functions reports a death itself (InvokeLimits.failures)")
        wanted = [json.loads(probes.payload(f"{key}/{number}", exit=3)) for number in range(2)]
        for number in range(2):
            probes.launch(f"{key}/{number}", exit=3)
        for one in wanted:  # the other failure stays until it is asked for
            found: list[Failure] = []

            def there(one: object = one, found: list[Failure] = found) -> bool:
                found.extend(driver.failures(lambda payload: bool(json.loads(payload) == one)).taken)
                return bool(found)

            eventually("the death", self.harness.starts_s, there)
            assert len(found) == 1
            assert found[0].nonce
            assert found[0].reason
        assert not driver.failures(lambda payload: json.loads(payload) in wanted).taken

    def test_more_than_may_run_at_once(self, deployed: Deployed, key: str) -> None:
        """A launch while ``concurrency`` functions run must give THROTTLED, from ``invoke`` or from ``Launch.poll``."""
        if self.harness.few is None:
            pytest.skip("the harness cannot limit this platform to a few functions at once (Harness.few)")
        provisioner = deployed.provider.provisioner({**deployed.settings, **self.harness.few})
        app = new_app()
        try:
            few = Deployed(deployed.provider, provisioner, deployed.settings, provisioner.ensure(app, 1, 1))
            driver = deployed.provider.invoker(few.resources)
            probes = Probes(few, driver, self.harness.starts_s)
            assert driver.limits.concurrency is not None
            for number in range(driver.limits.concurrency):
                probes.expect(f"{key}/{number}", "started", probes.launch(f"{key}/{number}", sleep_s=LONG_S))
            codes = _codes(driver, WORKER, probes, f"{key}/over")
            eventually("THROTTLED", self.harness.starts_s, lambda: next(codes) is Code.THROTTLED)
            driver.close()
            probes.store.driver.close()
        finally:
            provisioner.destroy(app)

    def test_limits_have_a_source(self, driver: InvokeDriver) -> None:
        """The driver's ``limits`` name their source and its date."""
        assert isinstance(driver, InvokeDriver)
        assert driver.limits.source
        assert driver.limits.as_of
        assert driver.limits.payload_bytes >= 4096


def _codes(driver: InvokeDriver, function: str, probes: Probes, key: str) -> Iterator[Code | None]:
    """The code of one launch, without end: of its refusal, or each time from its poll."""
    try:
        launch = driver.invoke(function, probes.payload(key, sleep_s=LONG_S))
    except Exception as error:
        while True:
            yield driver.classify(error)
    while True:
        yield probes.failure(launch)
