"""A harness defines how the suite tests a provider: the provider itself, its settings, and its gaps (cases that it cannot pass)."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

from fsd_conformance import emulators
from fsd_conformance.emulators import Emulator
from fsd_core.driver import MessageDriver, ObjectDriver, Provider, Resources

__all__ = ["EmulatedHarness", "Harness", "Kind"]

Kind = Literal["messages", "objects", "functions"]


class Harness(ABC):
    """One provider under test. All groups of cases in a test file that use the same instance share one deployed app.

    The suite calls `start`, then `provider` and `settings`, then `ensure` of the provisioner; at the end `destroy`, then `stop`. Only
    `provider` and `settings` have to be written. Each other method and attribute lets the suite test more: without it, a case is skipped.
    """

    name: str
    gaps: Mapping[str, str] = {}  # for each skipped case the reason, with a link
    few: Mapping[str, object] | None = None  # settings that limit the platform to a few functions at once; None: no such setting
    starts_s = 90.0  # a launched function starts within this time
    max_lease_s = 30.0  # with longer leases, the cases that wait for the end of a lease are skipped

    @abstractmethod
    def provider(self) -> Provider:
        """The provider."""

    @abstractmethod
    def settings(self, folder: Path) -> Mapping[str, object]:
        """The provider's settings. ``folder``: an empty folder, removed at the end. Choose a short lease of messages: several cases wait
        until a lease ends.
        """

    def start(self) -> None:  # noqa: B027  # most harnesses start nothing
        """Start what must run before the deployment, for instance an emulator."""

    def stop(self) -> None:  # noqa: B027
        """Stop what `start` started."""

    def messages_at(self, url: str) -> MessageDriver | None:
        """A driver that uses the service at ``url`` (http://HOST:PORT); None where the driver cannot be sent to another address.

        The service answers 503 to every HTTP request. With any other protocol it closes the connection at the first line, so a driver of
        such a service takes host and port from ``url``.
        """
        return None

    def objects_at(self, url: str) -> ObjectDriver | None:
        """Like `messages_at`, for the object store."""
        return None

    def counted(self) -> AbstractContextManager[Callable[[], Mapping[str, int]] | None]:
        """Within the block: a function that returns the number of requests that reached the services, by the names of the meter.

        None where the harness cannot count.
        """
        return nullcontext(None)

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool | None:
        """Whether the client ``native`` of a driver finds a resource of the app; None where the harness does not know that client.

        The resource is the queue of slot 0 and rank 0, the object with the key ``what``, or the worker function.
        """
        return None

    def refusing(
        self, resources: Resources, *, direct: bool = False
    ) -> AbstractContextManager[tuple[MessageDriver, threading.Event] | None]:
        """A driver of slot 0, made with ``direct`` or without, and an event.

        While the event is set, the service refuses a part of each publish and ack of four entries.

        The service refuses every second entry if it can refuse single entries, otherwise the whole request. None where the harness cannot
        make the service refuse.
        """
        return nullcontext(None)

    def conflicting(self, resources: Resources) -> AbstractContextManager[ObjectDriver]:
        """A driver of the object store, which answers the first 16 creates of each key with "another create runs: try again" if the service
        has such an answer.
        """
        return closing(self.provider().objects(resources))


class EmulatedHarness(Harness):
    """A provider whose SDK uses an emulator, which the harness starts and stops."""

    emulator: ClassVar[type[Emulator]]
    lease_s: ClassVar[float]
    running: Emulator

    def __init__(self) -> None:
        self.until_stop = ExitStack()

    def settings(self, folder: Path) -> Mapping[str, object]:
        """A short lease, and the settings that the emulator needs."""
        return {**self.emulator.settings, "lease_s": self.lease_s}

    def start(self) -> None:
        """Start the emulator."""
        self.running = self.until_stop.enter_context(emulators.own(self.emulator))

    def stop(self) -> None:
        """Stop the emulator, and close what was opened since."""
        self.until_stop.close()
