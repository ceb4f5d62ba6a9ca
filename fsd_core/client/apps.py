"""Makes and removes the resources of an app."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from fsd_core.client.job import Progress
from fsd_core.client.saving import forget, save
from fsd_core.common import arguments, interrupt
from fsd_core.driver import Provider, Provisioner, Resources
from fsd_core.errors import InputError
from fsd_core.protocol.runconfig import ENGINES
from fsd_core.providers.app_name import check_app
from fsd_core.providers.promises import Auditor, Promise
from fsd_core.providers.provisioning import AppProvisioner
from fsd_core.providers.registry import find
from fsd_core.providers.requests import reporting_to

__all__ = ["audit", "check_engine", "deploy", "destroy", "place", "reported", "with_engine"]


@interrupt.heard()
def deploy(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    *,
    workers: int = 8,
    slots: int = 4,
    engine: str = "rows",
    repair: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Resources:
    """Make the missing resources of an app: the function, the object store, and the queues. A second call changes nothing.

    - ``provider``, ``app``, ``settings``: those of `run`.
    - ``workers``: for how many workers there are queues in each slot.
    - ``slots``: the number of runs that can be active at once.
    - ``engine``: onnx if the functions shall have ONNX Runtime, as ONNX models need it that are no chains of layers. Default: rows.
    - ``repair``: also set every existing resource of the app again, as this version of fsd sets it: for an app of which `audit` says that
      promises do not hold. No run should be active.
    - ``progress``: called with a `Progress` of phase provision about every 5 s; its ``text`` names the current request.

    Returns the `Resources` of the app. `run` makes an app by itself if it does not exist.

    Raises `InputError` if an argument is wrong or the provider's SDK is not set up on this machine, and `RunFailed` if a service refuses.
    """
    workers, slots = arguments.whole("workers", workers, 1), arguments.whole("slots", slots, 1)
    engine = arguments.one_of("engine", engine, ENGINES)
    _, provisioner = place(provider, app, settings)
    provisioner = with_engine(provisioner, engine)
    if arguments.yes_or_no("repair", repair) and isinstance(provisioner, AppProvisioner):
        provisioner.repair = True
    with reported(progress):
        return provisioner.ensure(app, workers, slots)


@interrupt.heard()
def destroy(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    *,
    audit_log: str = "save",
    progress: Callable[[Progress], None] | None = None,
) -> list[str]:
    """Remove all resources of an app. Does nothing if the app does not exist.

    The arguments are those of `deploy`, and:

    - ``home``: that of `run`.
    - ``audit_log``: save, the default: first write the audit log of the app into a file below ``home``/audit. delete: it is lost.

    Returns a line for each removed resource, for people; the last one names the file of the audit log. Raises the errors of `deploy`. If
    the log cannot be saved, it removes nothing.
    """
    found, provisioner = place(provider, app, settings)
    folder = arguments.home(home)
    saving = arguments.one_of("audit_log", audit_log, ("save", "delete")) == "save"
    with reported(progress):
        resources = provisioner.find(app)
        if resources is None and isinstance(provisioner, AppProvisioner):
            resources = provisioner.left(app)
        line = save(found, resources, folder) if saving and resources else None
        removed = list(provisioner.destroy(app))
    if resources:
        forget(found, resources, folder)
    return [*removed, line] if line else removed


@interrupt.heard()
def audit(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> list[Promise]:
    """Compare a deployed app with the security that this version of fsd promises. Changes nothing.

    A `Promise` says what was found, what was expected, and whether it holds: encryption at rest and in transit, no public access, roles
    that hold exactly the actions that are used, logs and how long they are kept, the deletion of old objects.

    The arguments are those of `deploy`. Raises `InputError` if nothing is deployed under this name or the provider has no audit, and
    `RunFailed` if a service refuses, for instance because the credentials may not read a policy.
    """
    _, provisioner = place(provider, app, settings)
    if not isinstance(provisioner, Auditor):
        raise InputError(f"provider {provider!r} has no audit: expected a provider whose provisioner has the method audit")
    with reported(progress):
        found = provisioner.audit(app)
    if found is None:
        command = f"fsd deploy --provider {provider} --app {app}"
        raise InputError(f"app {app} on {provider}: nothing is deployed, or not all of it: expected a complete app: '{command}'")
    return list(found)


def place(provider: str, app: str, settings: Mapping[str, object] | None) -> tuple[Provider, Provisioner]:
    """The provider and its provisioner. Raises `InputError` if an argument is wrong."""
    check_app(arguments.text("app", app))
    found = find(arguments.text("provider", provider))
    return found, found.provisioner(arguments.table("settings", settings))


def with_engine(provisioner: Provisioner, engine: str) -> Provisioner:
    """A provisioner whose new apps have an engine. Functions that run what is installed beside them have what is installed there."""
    if engine == "onnx" and isinstance(provisioner, AppProvisioner):
        provisioner.settings = attrs.evolve(provisioner.settings, engine=engine)
    return provisioner


def check_engine(found: Resources, engine: str, provider: str) -> None:
    """Raise `InputError` if the functions of an app do not have an engine: the line says which command adds it."""
    if engine == "onnx" and found.names.get("code", "installed") != "installed" and found.names.get("engine") != "onnx":
        command = f"fsd deploy --provider {provider} --app {found.app} --engine onnx"
        raise InputError(
            f"app {found.app} on {provider}: its functions have no ONNX Runtime, which this model needs: expected '{command}' first"
        )


@contextmanager
def reported(progress: Callable[[Progress], None] | None) -> Iterator[None]:
    """Within the block, provisioning calls ``progress`` about every 5 s."""
    tell = arguments.callback("progress", progress)
    if tell is None:
        yield
        return
    with reporting_to(lambda text: tell(Progress("provision", 0, 0, text))):
        yield
