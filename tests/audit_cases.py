"""What an audit must say in every cloud: green on a fresh deployment, red for each planted fault, green again after a repair."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import attrs
import pytest

import fsd_core
from fsd_core import Promise, Resources

__all__ = ["AuditCases", "Audited", "Fault"]


@attrs.frozen
class Fault:
    """A fault that somebody plants: ``plant`` makes it, ``breaks`` names the promise, ``says`` is a pattern of what the audit finds.

    ``undo``: removes what a repair leaves as it is; `None` if a repair is enough.
    """

    plant: Callable[[Resources], object]
    breaks: str
    says: str
    undo: Callable[[Resources], object] | None = None


@attrs.frozen
class Audited:
    """One cloud. ``emulator``: the context in which it runs; ``settings``: the provider's table; ``faults``: by what they are."""

    provider: str
    settings: Mapping[str, Any]
    emulator: Callable[[], AbstractContextManager[object]]
    faults: Mapping[str, Fault]
    size: Mapping[str, int] = attrs.field(factory=lambda: {"workers": 2, "slots": 1})


class AuditCases:
    """A subclass in a file of tests says which cloud. The faults stay planted, so each case looks only at its own promise."""

    cloud: ClassVar[Audited]
    APP = "audited"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "fault" in metafunc.fixturenames:
            metafunc.parametrize("fault", self.cloud.faults.values(), ids=self.cloud.faults.keys())

    @pytest.fixture(scope="class")
    @classmethod
    def fresh(cls) -> Iterator[tuple[Resources, list[Promise]]]:
        """A fresh deployment, and its first audit."""
        cloud = cls.cloud
        with cloud.emulator():
            made = cls.deploy()
            yield made, cls.audit()
            fsd_core.destroy(cloud.provider, cls.APP, cloud.settings)

    @classmethod
    def deploy(cls, repair: bool = False) -> Resources:
        return fsd_core.deploy(cls.cloud.provider, cls.APP, cls.cloud.settings, **cls.cloud.size, repair=repair)

    @classmethod
    def audit(cls) -> list[Promise]:
        return fsd_core.audit(cls.cloud.provider, cls.APP, cls.cloud.settings)

    def test_a_fresh_deployment_keeps_every_promise(self, fresh: tuple[Resources, list[Promise]]) -> None:
        _, promises = fresh
        assert [each for each in promises if not each.holds] == []
        assert len({each.name for each in promises}) == len(promises)
        assert {fault.breaks for fault in self.cloud.faults.values()} <= {each.name for each in promises}

    def test_a_planted_fault_is_found(self, fresh: tuple[Resources, list[Promise]], fault: Fault) -> None:
        fault.plant(fresh[0])
        (promise,) = (each for each in self.audit() if each.name == fault.breaks)
        assert not promise.holds
        assert re.search(fault.says, promise.found), promise
        assert promise.expected != promise.found
        assert promise.advice

    def test_a_repair_keeps_every_promise_again(self, fresh: tuple[Resources, list[Promise]]) -> None:
        cloud, (made, before) = self.cloud, fresh
        for fault in cloud.faults.values():
            fault.plant(made)
        assert {each.name for each in self.audit() if not each.holds} == {fault.breaks for fault in cloud.faults.values()}
        for fault in cloud.faults.values():
            if fault.undo:
                fault.undo(made)
        assert self.deploy(repair=True) == made
        assert [each.name for each in before] == [each.name for each in self.audit() if each.holds]

    def test_what_is_not_deployed_has_no_audit(self, fresh: tuple[Resources, list[Promise]]) -> None:
        with pytest.raises(fsd_core.InputError, match="is not deployed, or not completely: expected a complete app: run 'fsd deploy "):
            fsd_core.audit(self.cloud.provider, "nothing", self.cloud.settings)
