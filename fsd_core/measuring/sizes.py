"""Measures how fast functions of other sizes compute. Each size gets an app of its own, which is removed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import attrs

from fsd_core.client.apps import place, reported
from fsd_core.client.job import Progress
from fsd_core.client.result import warn
from fsd_core.common import interrupt
from fsd_core.driver import Provider, Provisioner, Resources
from fsd_core.errors import FsdError, InputError
from fsd_core.measuring.asking import Ask
from fsd_core.measuring.session import Found, Session
from fsd_core.providers.outline import Outline

__all__ = ["Size", "sizes_of"]

RANKS, SLOTS = 1, 1  # of an app that only computes


@attrs.frozen(kw_only=True, eq=False)
class Size:
    """Functions with ``memory_mb`` MiB, in the app ``app``. ``outline``: the limits of that app; `None` if they are not known."""

    name: str  # of the provider
    provider: Provider
    provisioner: Provisioner
    app: str
    memory_mb: int
    outline: Outline | None

    def measure(self, ask: Ask, progress: Callable[[Progress], None]) -> Found | None:
        """Make the app if it does not exist, let one of its functions compute, and remove the app again if this made it.

        Returns `None`, with a warning that says why, if that fails: the figures of other sizes are paid for.
        """
        text = f"a function of {self.memory_mb} MB computes"
        try:
            with self._app(progress) as resources:
                return Session(self.provider, resources, ask, lambda *_: progress(Progress("measure", 0, 0, text))).execute()
        except FsdError as error:
            warn(f"the kernel of functions of {self.memory_mb} MB was not measured: {error}")
            return None

    @contextmanager
    def _app(self, progress: Callable[[Progress], None]) -> Iterator[Resources]:
        with reported(progress):
            existed = self.provisioner.find(self.app) is not None
        with nullcontext() if existed else self._removing(progress):
            with reported(progress):
                made = self.provisioner.ensure(self.app, RANKS, SLOTS)
            yield made

    @contextmanager
    def _removing(self, progress: Callable[[Progress], None]) -> Iterator[None]:
        """Remove the app after the block. If that fails, the user is told the command."""
        command = f"'fsd destroy --provider {self.name} --app {self.app}' removes it"
        forget = interrupt.leave_note(f"the app {self.app} of the measurement is still there: {command}")
        try:
            yield
        finally:
            try:
                with reported(progress):
                    self.provisioner.destroy(self.app)
            except FsdError as error:
                warn(f"the app {self.app} of the measurement was not removed: {error}: {command}")
            forget()


def sizes_of(provider: str, app: str, settings: Mapping[str, object], memory_mb: Sequence[int]) -> list[Size]:
    """Functions of these sizes in MiB, in apps whose names begin with that of ``app``. Nothing is made yet.

    Raises `InputError` if the provider has no functions of a size, or the name of an app is too long.
    """
    found = []
    for size in memory_mb:
        own = {**settings, "memory_mb": size}
        try:
            chosen, provisioner = place(provider, f"{app}-{size}mb", own)
            outline = getattr(chosen, "outline", lambda table: None)(own)  # a provider need not have it
        except InputError as error:
            raise InputError(f"memory_mb {size}: {error}") from None
        found.append(Size(name=provider, provider=chosen, provisioner=provisioner, app=f"{app}-{size}mb", memory_mb=size, outline=outline))
    return found
