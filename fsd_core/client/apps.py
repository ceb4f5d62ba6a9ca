"""Makes and removes the resources of an app."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs

from fsd_core.client.job import Progress
from fsd_core.client.saving import explain, forget, save
from fsd_core.common import arguments, interrupt
from fsd_core.driver import Provider, Provisioner, Resources
from fsd_core.errors import InputError, RunFailed
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
    - ``engine``: onnx adds ONNX Runtime to the functions. An ONNX model needs it, unless the model is a chain of layers. Default: rows.
    - ``repair``: also set every existing resource of the app again to the settings of this version of fsd. Use it if `audit` finds
      promises that do not hold. No run should be active.
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
    - ``audit_log``: save, the default: first write the audit log of the app into a file below ``home``/audit. delete: remove the log
      without saving it.

    Returns one line of text for each removed resource; the last line names the file of the audit log. Raises the errors of `deploy`. If
    `destroy` cannot save the log, it removes nothing.
    """
    found, provisioner = place(provider, app, settings)
    folder = arguments.home(home)
    saving = arguments.one_of("audit_log", audit_log, ("save", "delete")) == "save"
    with reported(progress):
        resources = provisioner.find(app)
        if resources is None and isinstance(provisioner, AppProvisioner):
            try:
                resources = provisioner.left(app)
            except RunFailed as error:  # to remove an app may need fewer permissions than to look into its store
                if saving:
                    explain(error, app)
                    raise
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

    Returns the promises: encryption at rest and in transit, no public access, roles that allow only the actions that fsd uses, logs and how
    long they are kept, the deletion of old objects. Each `Promise` says what was found, what was expected, and whether it holds.

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
        raise InputError(f"app {app} on {provider}: is not deployed, or not completely: expected a complete app: run '{command}' first")
    return list(found)


def place(provider: str, app: str, settings: Mapping[str, object] | None) -> tuple[Provider, Provisioner]:
    """The provider and its provisioner. Raises `InputError` if an argument is wrong."""
    check_app(arguments.text("app", app))
    found = find(arguments.text("provider", provider))
    return found, found.provisioner(arguments.table("settings", settings))


def with_engine(provisioner: Provisioner, engine: str) -> Provisioner:
    """Let the functions of apps that ``provisioner`` makes have an engine. Returns ``provisioner``.

    On a provider whose functions use the packages of this machine, as local, the engine has to be installed here.
    """
    if engine == "onnx" and isinstance(provisioner, AppProvisioner):
        provisioner.settings = attrs.evolve(provisioner.settings, engine=engine)
    return provisioner


def check_engine(found: Resources, engine: str, provider: str) -> None:
    """Raise `InputError` if the functions of an app do not have the engine. The error names the command that adds it."""
    if engine == "onnx" and found.names.get("code", "installed") != "installed" and found.names.get("engine") != "onnx":
        command = f"fsd deploy --provider {provider} --app {found.app} --engine onnx"
        raise InputError(
            f"app {found.app} on {provider}: its functions have no ONNX Runtime: expected it for this model: run '{command}' first"
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
