"""Measures how fast functions of other sizes compute. Makes an app for each size, and removes this app after its measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs

from fsd_core.client.apps import place, reported
from fsd_core.client.job import Progress
from fsd_core.client.result import warn
from fsd_core.common import interrupt
from fsd_core.cost import Tariff, bill
from fsd_core.driver import Provider, Provisioner, Resources
from fsd_core.errors import FsdError, InputError
from fsd_core.measuring.asking import Ask, hour_usd
from fsd_core.measuring.session import Found, Session
from fsd_core.plan.places import outline_of
from fsd_core.providers.outline import Outline

__all__ = ["Size", "sizes_of"]

RANKS, SLOTS = 1, 1  # of an app that only computes
AT_ONCE = 2  # functions of such an app


@attrs.frozen(kw_only=True, eq=False)
class Size:
    """Functions with ``memory_mb`` MiB, in the app ``app``. ``outline``: the limits of that app; `None` if they are not known."""

    name: str  # of the provider
    provider: Provider
    provisioner: Provisioner
    app: str
    memory_mb: int
    outline: Outline | None

    def estimate(self, ask: Ask, tariff: Tariff | None) -> float | None:
        """An upper bound of the USD, with those of the app for an hour; `None` without a tariff."""
        return None if tariff is None else bill(ask.usage(self.outline, self.memory_mb), tariff).total_usd + hour_usd(tariff)

    def check(self) -> None:
        """Raise `InputError` if the app exists: a measurement removes only apps that it made."""
        if self.provisioner.find(self.app) is not None:
            raise InputError(f"memory_mb {self.memory_mb}: app {self.app} exists: expected no app of this name: {self._command}")

    def measure(self, ask: Ask, progress: Callable[[Progress], None]) -> Found | None:
        """Make the app, let one of its functions compute, and remove the app.

        Returns `None`, with a warning that says why, if that fails: the figures of other sizes are paid for.
        """
        said = Progress("measure", 0, 0, f"a function of {self.memory_mb} MB computes")
        try:
            with self._app(progress) as resources:
                progress(said)
                found = Session(self.provider, resources, ask, lambda *_: None).execute()
        except Exception as error:  # of any class: the driver of a provider that is not fsd's may raise others
            words = [str(error), *getattr(error, "__notes__", ()), self.provider.advice(str(error)) or ""]
            warn(f"the kernel of functions of {self.memory_mb} MB was not measured: {'; '.join(filter(None, words))}")
            return None
        found.memory_mb = found.memory_mb or self.memory_mb
        return found

    @contextmanager
    def _app(self, progress: Callable[[Progress], None]) -> Iterator[Resources]:
        """Make the app, and remove it after the block. If it cannot be removed, a warning names the command that removes it."""
        forget = interrupt.leave_note(f"the app {self.app} of the measurement is still there: {self._command}")
        with interrupt.contained():  # this note says what to do, not those of provisioning
            try:
                with reported(progress):
                    made = self.provisioner.ensure(self.app, RANKS, SLOTS)
                yield made
            finally:
                try:
                    with reported(progress):
                        self.provisioner.destroy(self.app)
                except FsdError as error:
                    warn(f"the app {self.app} of the measurement was not removed: {error}: {self._command}")
                forget()

    @property
    def _command(self) -> str:
        emulator = " --emulator" if self.provider.stand_in() else ""
        return f"'fsd destroy --provider {self.name} --app {self.app}{emulator}' removes it"


def sizes_of(provider: str, app: str, settings: Mapping[str, object], memory_mb: Sequence[int]) -> list[Size]:
    """Functions of these sizes in MiB, in apps whose names begin with that of ``app``. Nothing is made yet.

    Their settings are those of ``app``, without the names of resources that only one app can have, and for few functions at once. Raises
    `InputError` if the provider has no functions of a size, or the name of an app is too long.
    """
    found = []
    for size in memory_mb:
        name = f"{app}-measure-{size}mb"
        try:
            own = {**settings, "memory_mb": size} | {key: AT_ONCE for key in ("concurrency",) if key in settings}
            chosen, provisioner = place(provider, name, own)
            own = {key: value for key, value in own.items() if key not in getattr(provisioner, "exclusive", ())}
            chosen, provisioner = place(provider, name, own)
            outline = outline_of(provider, own)
        except InputError as error:
            raise InputError(f"memory_mb {size}: {error}") from None
        found.append(Size(name=provider, provider=chosen, provisioner=provisioner, app=name, memory_mb=size, outline=outline))
    return found
