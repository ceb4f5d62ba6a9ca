"""The base of every cloud's provisioner: it finds, makes and removes an app; a cloud adds the requests of its own services."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from fsd_core.common.interrupt import leaving
from fsd_core.driver import Resources
from fsd_core.errors import InputError
from fsd_core.providers.app_name import check_app
from fsd_core.providers.requests import Requests

__all__ = ["LIMIT_S", "AppProvisioner", "check_size"]

LIMIT_S = 1800.0  # how long making or removing an app may take


def check_size(ranks: int, slots: int) -> None:
    """Raise `InputError` unless ``ranks`` and ``slots`` are at least 1."""
    if ranks < 1 or slots < 1:
        raise InputError(f"ranks {ranks}, slots {slots}: expected at least 1 of each")


A = TypeVar("A", bound=Requests)


class AppProvisioner(ABC, Generic[A]):
    """Implements `fsd_core.driver.Provisioner`. The environment of the app's function holds the record of what was made.

    ``ensure`` makes one request if nothing is missing. A subclass makes and removes the resources of its cloud.
    """

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing for ``slots`` slots of ``ranks`` ranks; an app that has more keeps it. The first call takes minutes.

        Raises `InputError` if a setting, a name or the set-up of credentials is wrong, `DriverError` if a service refuses a request.
        """
        check_size(ranks, slots)
        with self._asking(app) as api:
            had, wanted = self.read(api, app), self.wanted()
            if had and had.ranks:
                self.check(had, wanted)
            if had and had.ranks >= ranks and had.slots >= slots and wanted.items() <= had.names.items():
                return had
            _limit(api, "provisioning", "`fsd deploy` goes on where it stopped")
            api.tell(f"making what app {app} needs: this may take minutes")
            with leaving(f"app {app} is made in part: `fsd deploy` goes on where it stopped, `fsd destroy` removes it"):
                return self.make(api, app, ranks, slots, had, wanted)

    def find(self, app: str) -> Resources | None:
        """The resources that `ensure` made; `None` if no `ensure` has ended, or if the app was removed."""
        with self._asking(app) as api:
            found = self.read(api, app)
            return found if found and found.ranks else None

    def sweep(self, app: str) -> Sequence[str]:
        """Remove queues of generations other than the function's: no later `ensure` will use them. Returns a line for each."""
        with self._asking(app) as api:
            had = self.read(api, app)
            _limit(api, "removing queues", "`fsd gc` goes on where it stopped")
            return self.remove_queues(api, app, had.names["generation"] if had else None)

    def destroy(self, app: str) -> Sequence[str]:
        """Remove all resources of the app, of every generation. Returns a line for each."""
        with self._asking(app) as api:
            had = self.read(api, app)
            _limit(api, "removing the app", "`fsd destroy` goes on where it stopped")
            with leaving(f"app {app} is removed in part: `fsd destroy` removes the rest"):
                return self.remove(api, app, had)

    def _asking(self, app: str) -> A:
        check_app(app)
        return self.requests()

    @abstractmethod
    def requests(self) -> A:
        """The clients of the services. Raises `InputError` if the SDK is not set up on this machine."""

    @abstractmethod
    def read(self, api: A, app: str) -> Resources | None:
        """The app's resources from the function's environment, with 0 ranks until the app is complete; `None` without a function."""

    @abstractmethod
    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that the settings determine."""

    def check(self, had: Resources, wanted: dict[str, str]) -> None:
        """Raise `InputError` if a setting differs from the setting with which the app was made, and the app cannot change it."""

    @abstractmethod
    def make(self, api: A, app: str, ranks: int, slots: int, had: Resources | None, wanted: dict[str, str]) -> Resources:
        """Make or change what is missing, probe it, and write the record into the function's environment last."""

    @abstractmethod
    def remove(self, api: A, app: str, had: Resources | None) -> list[str]:
        """Remove all resources: the function first, the others by their names. Returns a line for each."""

    @abstractmethod
    def remove_queues(self, api: A, app: str, keep: str | None) -> list[str]:
        """Remove the queues of an app, except those of generation ``keep``. Returns a line for each."""


def _limit(api: Requests, what: str, onward: str) -> None:
    """Set the deadline of all later requests to `LIMIT_S`. If it passes, the error names ``what`` and gives the advice ``onward``."""
    api.within(LIMIT_S, f"{what} took longer than {LIMIT_S:g} s; {onward}")
