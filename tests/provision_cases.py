"""What making and removing an app must do in every cloud beyond the conformance suite: cases, and what each needs to know of a cloud."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

import fsd_core
from canned import NOBODY
from fsd_core.driver import WORKER, Code, Provider, Provisioner, Resources
from fsd_core.errors import DriverError
from fsd_core.providers import requests as provider_requests
from fsd_core.storage import ledger
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["Cloud", "ProvisionCases"]


@attrs.frozen(kw_only=True)
class Cloud:
    """One cloud: what is there of an app, and the ways in which it differs from the others."""

    provider: Provider
    settings: Mapping[str, object]
    there: Callable[[str], Counter[str]]  # how much of an app is there, by kind
    whole: Counter[str]  # of an app of two ranks and one slot
    lines: Mapping[str, int]  # what `destroy` says that it removed, by kind
    recorded: Callable[[], AbstractContextManager[list[Any]]]  # the calls of a block
    look: Callable[[Any, Resources], bool]  # whether a call is the one request by which an app is looked at
    makes_queue: Callable[[Any], bool] | None  # whether a call makes a queue; None where such calls are not recorded
    parts: Mapping[str, Callable[[Resources], object]]  # what removes one part of an app, as somebody else would
    lose: Callable[[Resources], list[str]]  # makes a queue of another generation; what a sweep says of it
    endpoint: str  # the variable of the service that is asked first
    fits: Callable[[Resources], bool]  # whether all names are within the services' limits
    idle: Callable[[pytest.MonkeyPatch], None]  # deploys a function that ignores its payload
    idle_says: str
    died: str  # part of the reason of a function that died

    def provisioner(self, **settings: object) -> Provisioner:
        return self.provider.provisioner({**self.settings, **settings})

    def app(self) -> Iterator[str]:
        """For a fixture: the name of an app that is gone afterwards."""
        name = f"p{secrets.token_hex(4)}"
        yield name
        self.provisioner().destroy(name)


class ProvisionCases:
    """A subclass in a file of tests says which cloud; the file has a fixture ``app`` of the cloud's."""

    cloud: ClassVar[Cloud]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "part" in metafunc.fixturenames:
            metafunc.parametrize("part", self.cloud.parts)

    def test_what_is_there_costs_one_request(self, app: str) -> None:
        made = self.cloud.provisioner()
        first = made.ensure(app, 2, 1)
        with self.cloud.recorded() as calls:
            assert made.ensure(app, 2, 1) == first
            assert made.ensure(app, 1, 1) == first
            assert made.find(app) == first
        assert [self.cloud.look(call, first) for call in calls] == 3 * [True]

    def test_growing_makes_what_is_missing_alone(self, app: str) -> None:
        small = self.cloud.provisioner().ensure(app, 1, 1)
        with self.cloud.recorded() as calls:
            large = self.cloud.provisioner().ensure(app, 2, 2)
        assert (large.ranks, large.slots) == (2, 2)
        assert large.names == small.names
        assert self.cloud.makes_queue is None or sum(map(self.cloud.makes_queue, calls)) == 3
        assert self.cloud.provisioner().ensure(app, 1, 1) == large

    def test_destroy_leaves_nothing(self, app: str) -> None:
        made = self.cloud.provisioner().ensure(app, 2, 1)
        assert self.cloud.there(app) == self.cloud.whole
        with closing(self.cloud.provider.objects(made)) as objects:
            for number in range(3):
                objects.put(f"left/{number}", b"x")
        lines = self.cloud.provisioner().destroy(app)
        assert Counter(line.rpartition(" ")[0] for line in lines) == self.cloud.lines
        assert self.cloud.there(app) == Counter()
        anew = self.cloud.provisioner().ensure(app, 2, 1)
        assert anew.names["generation"] != made.names["generation"]  # names of what was deleted are blocked for a while

    def test_destroy_of_what_is_half_gone(self, app: str, part: str) -> None:
        self.cloud.parts[part](self.cloud.provisioner().ensure(app, 2, 1))
        assert self.cloud.provisioner().destroy(app)
        assert self.cloud.there(app) == Counter()

    def test_destroy_saves_the_audit_log_of_an_app_without_a_function(self, app: str, tmp_path: Path) -> None:
        """And finds nothing to save where there is nothing, and removes what an interrupted destroy left."""
        made = self.cloud.provisioner().ensure(app, 1, 1)
        with closing(self.cloud.provider.objects(made)) as objects:
            ledger.append(Store(objects, Retry(time.time() + 60, Meter())), {"run": "one"})
        self.cloud.parts["function"](made)
        lines = fsd_core.destroy(self.cloud.provider.name, app, self.cloud.settings, tmp_path)
        assert lines[-1].startswith("audit log of 1 entry, saved as ")
        assert len(fsd_core.read_audit_log(saved=lines[-1].partition(" saved as ")[2]).entries) == 1
        assert self.cloud.there(app) == Counter()
        assert fsd_core.destroy(self.cloud.provider.name, app, self.cloud.settings, tmp_path) == []

    def test_apps_whose_names_begin_alike(self, app: str) -> None:
        made, longer = self.cloud.provisioner(), f"{app}-b"
        made.ensure(app, 1, 1)
        made.ensure(longer, 2, 1)
        made.destroy(app)
        assert self.cloud.there(longer) == self.cloud.whole
        made.destroy(longer)
        assert self.cloud.there(longer) == Counter()

    @pytest.mark.parametrize("app", ["x", "p" + secrets.token_hex(19) + "z", "a--b"], ids=["short", "long", "hyphens"])
    def test_names_fit(self, app: str) -> None:
        try:
            assert self.cloud.fits(self.cloud.provisioner().ensure(app, 1, 1))
        finally:
            self.cloud.provisioner().destroy(app)
        assert self.cloud.there(app) == Counter()

    def test_one_that_was_cut_short_is_taken_up(self, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def cut(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("fsd_core.providers.provisioning.probe_queues", cut)
            with pytest.raises(KeyboardInterrupt):
                self.cloud.provisioner().ensure(app, 2, 1)
        assert self.cloud.provisioner().find(app) is None
        assert self.cloud.there(app) == self.cloud.whole
        made = self.cloud.provisioner().ensure(app, 2, 1)
        assert self.cloud.there(app) == self.cloud.whole  # of one generation
        assert self.cloud.provisioner().find(app) == made

    def test_a_destroy_that_was_cut_short_is_finished(self, app: str) -> None:
        self.cloud.parts["function"](self.cloud.provisioner().ensure(app, 2, 1))
        assert self.cloud.provisioner().find(app) is None
        second = self.cloud.provisioner().ensure(app, 2, 1)
        assert self.cloud.there(app) == self.cloud.whole
        assert self.cloud.provisioner().find(app) == second

    def test_a_sweep_finds_what_nobody_will_take_up(self, app: str) -> None:
        kept = self.cloud.provisioner().ensure(app, 2, 1)
        lost = self.cloud.lose(kept)
        assert self.cloud.provisioner().sweep(app) == lost
        assert self.cloud.there(app) == self.cloud.whole
        assert self.cloud.provisioner().find(app) == kept

    def test_two_at_once_make_one(self, app: str) -> None:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: self.cloud.provisioner().ensure(app, 2, 1), range(2))
        assert first == second == self.cloud.provisioner().find(app)
        assert self.cloud.there(app) == self.cloud.whole

    def test_a_function_that_dies_is_told(self, app: str) -> None:
        """Its launch knows what was seen, taken or not; that a report is taken once is a case of the suite."""
        with closing(self.cloud.provider.invoker(self.cloud.provisioner().ensure(app, 1, 1))) as invoker:
            payload = json.dumps({"app": app, "probe": {"key": "probe/x", "exit": 3}}).encode()
            launch = invoker.invoke(WORKER, payload)
            until = time.monotonic() + 60
            while launch.poll() is None:
                assert time.monotonic() < until
                assert invoker.failures(lambda _: False).taken == []
                time.sleep(0.05)
            assert launch.poll() is Code.UNAVAILABLE
            taken: list[Any] = []
            while not taken:  # a look may hide it for a second
                assert time.monotonic() < until
                taken += invoker.failures(lambda told: bool(json.loads(told)["app"] == app)).taken
                time.sleep(0.05)
            (failure,) = taken
            assert json.loads(failure.payload) == json.loads(payload)
            assert failure.nonce == (getattr(launch, "nonce", None) or launch.request)  # type: ignore[attr-defined]
            assert self.cloud.died in failure.reason

    def test_a_function_that_does_nothing_is_no_deployment(self, app: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud.idle(monkeypatch)
        with pytest.raises(DriverError, match=self.cloud.idle_says.format(app=app)):
            self.cloud.provisioner().ensure(app, 1, 1)
        assert self.cloud.provisioner().find(app) is None

    def test_a_service_that_is_not_there_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(provider_requests, "_FIRST_S", 0.5)
        monkeypatch.setenv(self.cloud.endpoint, NOBODY)
        with pytest.raises(DriverError, match="cannot be reached") as raised:
            self.cloud.provisioner().find("x")
        assert raised.value.code is Code.UNAVAILABLE

    def test_names_are_enough_for_every_driver(self, app: str) -> None:
        made = self.cloud.provisioner().ensure(app, 1, 1)
        provider = self.cloud.provider
        with self.cloud.recorded() as calls:
            for driver in (provider.messages(made, 0), provider.objects(made), provider.invoker(made)):
                driver.close()
        assert not calls
        assert Resources(**json.loads(json.dumps({"app": made.app, "ranks": 1, "slots": 1, "names": dict(made.names)}))) == made
