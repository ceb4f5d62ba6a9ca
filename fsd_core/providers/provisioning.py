"""The base of every cloud's provisioner: it finds, makes and removes an app; a cloud adds the requests of its own services."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import ClassVar, Generic, TypeVar

import attrs

from fsd_core.common.interrupt import leaving
from fsd_core.driver import Code, ObjectDriver, Provider, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.app_name import check_app, check_size
from fsd_core.providers.package import Package, Recipe, stub
from fsd_core.providers.probes import Pair, probe_function, probe_queues
from fsd_core.providers.promises import REPAIR, Promise
from fsd_core.providers.requests import Requests
from fsd_core.providers.settings import FORGOTTEN, FUNCTION, RETENTION, CloudSettings, read_settings, texts
from fsd_core.storage.store import Store

__all__ = ["LIMIT_S", "AppProvisioner", "remove_store"]

LIMIT_S = 1800.0  # how long making or removing an app may take
AUDIT_S = 300.0  # how long an audit may take
A = TypeVar("A", bound=Requests)
S = TypeVar("S", bound=CloudSettings)


class AppProvisioner(ABC, Generic[A, S]):
    """Implements `fsd_core.driver.Provisioner`. The environment of the app's function holds the record of what was made.

    ``ensure`` makes one request if nothing is missing. Otherwise it makes what is missing, sends a test message to every queue and starts
    the function once. Only then the record says that the app is complete. A subclass makes and removes the resources of its cloud.
    Its class variables:

    - ``kind``: the attrs class of its settings
    - ``recorded``: settings that `Resources.names` holds, beside those of every cloud
    - ``chosen``: settings that `Resources.names` holds unless they are empty
    - ``exclusive``: settings that name a resource which only one app can have
    - ``fixed``: names in `Resources.names` that cannot change after the app was made, and for each the setting that people know
    - ``queued``: names in `Resources.names`; after a change of one of these, all queues are made again or changed
    - ``tried``: names in `Resources.names`; after a change of one of these, the function gets an update and a test launch
    - ``probing``: entries that replace those of `Resources.names` during the test of the queues
    - ``ready_s``: seconds that the permissions of a new function may need to take effect; `None`: see `probe_function`
    """

    kind: type[S]
    recorded: ClassVar[Sequence[str]] = ()
    chosen: ClassVar[Sequence[str]] = ()
    exclusive: ClassVar[Sequence[str]] = ()
    fixed: ClassVar[Mapping[str, str]] = {}
    queued: ClassVar[Sequence[str]] = ()
    tried: ClassVar[Sequence[str]] = ("code", "runtime", "memory_mb")
    probing: ClassVar[Mapping[str, str]] = {}
    ready_s: ClassVar[float | None] = None

    def __init__(self, table: Mapping[str, object], provider: Provider) -> None:
        self.provider = provider
        self.repair = False  # True: `ensure` sets every resource of the app again, also one that the record calls complete
        self.settings = read_settings(self.kind, provider.name, table)

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing for ``slots`` slots of ``ranks`` ranks. An app that has more keeps them. The first call takes minutes.

        Raises `InputError` if a setting, a name or the set-up of credentials is wrong, `DriverError` if a service refuses a request.
        """
        check_size(ranks, slots)
        with self._asking(app) as api:
            had = self.read(api, app)
            if had and had.names.get("engine") == "onnx":
                self.settings = attrs.evolve(self.settings, engine="onnx")  # type: ignore[misc]  # an attrs class, as `kind` says
            wanted = self.wanted()
            if had and had.ranks:
                self.check(had, wanted)
            if had and not self.repair and had.ranks >= ranks and had.slots >= slots and wanted.items() <= had.names.items():
                return had
            _limit(api, "provisioning", "`fsd deploy` continues where it stopped")
            api.tell(f"making what app {app} needs: this may take minutes")
            with leaving(f"app {app} is only partly made: `fsd deploy` continues where it stopped, `fsd destroy` removes it"):
                return self._make(api, had or Resources(app, 0, 0), ranks, slots, wanted)

    def _make(self, api: A, had: Resources, ranks: int, slots: int, wanted: dict[str, str]) -> Resources:
        """Make what is missing, test it, and then record that the app is complete: so a later call continues an interrupted one."""
        settings = self.settings
        code = self.recipe(settings.runtime, settings.engine).build(within_s=api.left()) if settings.package else stub(self.provider.name)
        wanted = wanted | {"package": str(code) if settings.package else "none"} | _forgotten(had.names, wanted)
        had, names = self.begin(api, had, wanted, code, max(ranks, had.ranks), max(slots, had.slots))
        ranks, slots = max(ranks, had.ranks), max(slots, had.slots)
        kept = not self.repair and all(had.names.get(name) == names.get(name) for name in self.queued)
        pairs = [(s, r) for s in range(slots) for r in range(ranks) if not (kept and s < had.slots and r < had.ranks)]
        names |= self.make_queues(api, Resources(had.app, ranks, slots, names), pairs)
        changed = self.repair or any(had.names.get(name) != names.get(name) for name in self.tried)
        unproven = Resources(had.app, had.ranks, had.slots, names | {"code": ""})  # the record gets "code" after the test launch
        names |= self.deploy(api, had, unproven, code, changed)
        made = Resources(had.app, ranks, slots, names)
        probe_queues(self.provider, attrs.evolve(made, names={**names, **self.probing}), pairs, api)
        if changed or not had.ranks:
            probe_function(self.provider, made, api, self.logs(names), None if had.ranks else self.ready_s)
        self.record(api, made, code)
        return made

    def find(self, app: str) -> Resources | None:
        """The resources that `ensure` made; `None` if no `ensure` has ended, or if the app was removed."""
        with self._asking(app) as api:
            found = self.read(api, app)
            return found if found and found.ranks else None

    def audit(self, app: str) -> Sequence[Promise] | None:
        """Compare the app with what this version makes: a promise for each property. Changes nothing.

        `None` if no `ensure` has ended, or if the app was removed. Raises `DriverError` if the credentials may not read what it compares.
        """
        with self._asking(app) as api:
            had = self.read(api, app)
            if had is None or not had.ranks:
                return None
            api.within(AUDIT_S, f"the audit took longer than {AUDIT_S:g} s")
            command = f"fsd deploy --provider {self.provider.name} --app {app} --workers {had.ranks} --slots {had.slots} --repair"
            # An app that an earlier version deployed is compared with the retention that a repair would set.
            had = attrs.evolve(had, names={**texts(self.settings, (RETENTION,)), **had.names})
            return [attrs.evolve(each, advice=each.advice.replace(REPAIR, command)) for each in self.promises(api, had)]

    def sweep(self, app: str) -> Sequence[str]:
        """Remove queues of generations other than the function's: no later `ensure` will use them. Returns a line for each."""
        with self._asking(app) as api:
            had = self.read(api, app)
            _limit(api, "removing queues", "`fsd gc` continues where it stopped")
            return self.remove_queues(api, app, had.names["generation"] if had else None)

    def destroy(self, app: str) -> Sequence[str]:
        """Remove all resources of the app, of every generation. Returns a line for each."""
        with self._asking(app) as api:
            had = self.read(api, app)
            _limit(api, "removing the app", "`fsd destroy` continues where it stopped")
            with leaving(f"app {app} is only partly removed: `fsd destroy` removes the rest"):
                return self.remove(api, app, had)

    def left(self, app: str) -> Resources | None:
        """What is enough to read the objects of an app that `find` does not find: its function is gone, or no `ensure` has ended.

        `None` if the app has no object store.
        """
        with self._asking(app) as api:
            names = self.stored(api, app, self.read(api, app))
            return None if names is None else Resources(app, 0, 0, names)

    def _asking(self, app: str) -> A:
        check_app(app)
        return self.requests()

    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that the settings determine."""
        settings = self.settings
        chosen = (name for name in self.chosen if getattr(settings, name))
        code = self.recipe(settings.runtime, settings.engine).digest if settings.package else "installed"
        engine = {"engine": settings.engine} if settings.engine != "rows" else {}
        return texts(settings, (*FUNCTION, *self.recorded, *chosen)) | engine | {"code": code}

    def check(self, had: Resources, wanted: dict[str, str]) -> None:
        """Raise `InputError` if a setting differs from the setting with which the app was made, and the app cannot change it."""
        for name, setting in self.fixed.items():
            if (found := had.names.get(name)) is not None and found != wanted.get(name, found):
                raise InputError(
                    f"{setting}: app {had.app!r} was made with {found or 'none'}, not {wanted[name]}: "
                    f"expected {found or 'none'}: correct the setting, or destroy the app first"
                )

    @staticmethod
    @abstractmethod
    def recipe(runtime: str, engine: str) -> Recipe:
        """The contents of the function's package for this ``runtime``. ``engine``: "onnx" needs ONNX Runtime in it."""

    @abstractmethod
    def requests(self) -> A:
        """The clients of the services. Raises `InputError` if the SDK is not set up on this machine."""

    @abstractmethod
    def read(self, api: A, app: str) -> Resources | None:
        """The app's resources from the function's environment, with 0 ranks until the app is complete; `None` without a function."""

    @abstractmethod
    def begin(
        self, api: A, had: Resources, wanted: dict[str, str], code: Package, ranks: int, slots: int
    ) -> tuple[Resources, dict[str, str]]:
        """Make what the queues need, and decide the generation: if two clients make a new app at the same time, both get the same one.

        ``had``: the app as recorded; without names if it is new. Returns the app as recorded now, and the names that the app will have.
        """

    @abstractmethod
    def make_queues(self, api: A, resources: Resources, pairs: Sequence[Pair]) -> dict[str, str]:
        """Make or change the queues of ``pairs``. Returns the entries of `Resources.names` that the queues determine."""

    @abstractmethod
    def deploy(self, api: A, had: Resources, unproven: Resources, code: Package, changed: bool) -> dict[str, str]:
        """Bring the function, its roles and its limits up to date. Returns the entries of `Resources.names` that the function determines.

        ``changed``: the function needs the code or the settings of ``unproven``. This method also writes ``unproven`` into the function's
        environment, as the record until `record` is called.
        """

    @abstractmethod
    def logs(self, names: Mapping[str, str]) -> str:
        """Where people find the function's output, for errors: for instance "log group NAME"."""

    @abstractmethod
    def record(self, api: A, made: Resources, code: Package) -> None:
        """Write ``made`` into the function's environment."""

    @abstractmethod
    def promises(self, api: A, had: Resources) -> list[Promise]:
        """The promises about the deployed app ``had``, from requests that only read."""

    @abstractmethod
    def stored(self, api: A, app: str, had: Resources | None) -> dict[str, str] | None:
        """The entries of `Resources.names` that name the app's object store; `None` if the app has none."""

    @abstractmethod
    def remove(self, api: A, app: str, had: Resources | None) -> list[str]:
        """Remove all resources: the function first, the others by their names. Returns a line for each."""

    @abstractmethod
    def remove_queues(self, api: A, app: str, keep: str | None) -> list[str]:
        """Remove the queues of an app, except those of generation ``keep``. Returns a line for each."""


def _forgotten(had: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The entry `FORGOTTEN` of an app that gets a longer retention than it ``had``."""
    days = int(had.get(RETENTION, 0))
    if not days or int(wanted[RETENTION]) <= days:
        return {}
    return {FORGOTTEN: str(max(int(had.get(FORGOTTEN, 0)), int(time.time()) - 86400 * days))}


def remove_store(requests: Requests, objects: ObjectDriver, what: str, remove: Callable[[], object]) -> None:
    """Empty a bucket, then remove it with the request ``remove``; close ``objects``. ``what`` names the bucket in errors.

    If a worker that still runs writes an object meanwhile, the service refuses ``remove`` with ALREADY_EXISTS, and this function starts
    again. A bucket that does not exist is no error: an earlier call or another client removed it.
    """

    def removed() -> bool:
        remove()
        return True

    def check() -> bool | None:
        try:
            Store(objects, requests.retry).delete_prefix("")
            return requests.unless(Code.ALREADY_EXISTS, f"removing {what}", removed)
        except DriverError as error:
            if error.code is Code.NOT_FOUND:
                return True
            raise

    with closing(objects):
        requests.until(f"{what} empty", check)


def _limit(api: Requests, what: str, onward: str) -> None:
    """Set the deadline of all later requests to `LIMIT_S` seconds. The error at the deadline names ``what`` and ends with ``onward``."""
    api.within(LIMIT_S, f"{what} took longer than {LIMIT_S:g} s; {onward}")
