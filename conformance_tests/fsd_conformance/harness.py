"""What a provider gives the suite: who it is, its settings, and what it cannot do."""

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
    """One provider under test. One instance is deployed once in a file of tests, however many groups of cases use it."""

    name: str
    gaps: Mapping[str, str] = {}  # name of a case -> why it is skipped, with a link
    few: Mapping[str, object] | None = None  # settings of a platform that runs only a few functions at once, if it can be told so
    starts_s = 90.0  # a function that was told to run has started by then
    lease_most_s = 30.0  # cases that wait for a lease to end are skipped where it is longer

    @abstractmethod
    def provider(self) -> Provider:
        """The provider."""

    @abstractmethod
    def settings(self, folder: Path) -> Mapping[str, object]:
        """Its settings; ``folder`` is empty, and gone at the end. A short lease of messages saves minutes."""

    def start(self) -> None:  # noqa: B027  # most have nothing to start
        """Start what must run before anything is deployed, an emulator for instance."""

    def stop(self) -> None:  # noqa: B027
        """Stop what `start` started."""

    def messages_at(self, url: str) -> MessageDriver | None:
        """A driver whose service is at ``url``, an address that answers 503 to all; None where there is no such thing."""
        return None

    def objects_at(self, url: str) -> ObjectDriver | None:
        """Like `messages_at`, of the object store."""
        return None

    def counted(self) -> AbstractContextManager[Callable[[], Mapping[str, int]] | None]:
        """Within the block: what tells the requests that the services saw so far, by the meter's names; None where nobody counts."""
        return nullcontext(None)

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool | None:
        """Whether ``native`` of a driver of the app, asked itself, finds what is there; None where the harness does not know that client.

        It is asked for the queue of slot 0 and rank 0, for the object ``what``, for the worker function.
        """
        return None

    def refusing(self, resources: Resources) -> AbstractContextManager[tuple[MessageDriver, threading.Event] | None]:
        """The queues of slot 0, whose service refuses, while the event is set, what it can of a publish and of an ack of four.

        That is each second entry where it refuses entries alone, else a request as a whole. None where it cannot be made to.
        """
        return nullcontext(None)

    def conflicting(self, resources: Resources) -> AbstractContextManager[ObjectDriver]:
        """The object store; to the first 16 creates of each key it answers "another is under way: try again", where it has such a word."""
        return closing(self.provider().objects(resources))


class EmulatedHarness(Harness):
    """A provider whose SDK is pointed at an emulator of the harness's own while that runs."""

    emulator: ClassVar[type[Emulator]]
    lease_s: ClassVar[float]
    running: Emulator

    def __init__(self) -> None:
        self.until_stop = ExitStack()

    def settings(self, folder: Path) -> Mapping[str, object]:
        """A short lease, and what the emulator needs."""
        return {**self.emulator.settings, "lease_s": self.lease_s}

    def start(self) -> None:
        """Start the emulator."""
        self.running = self.until_stop.enter_context(emulators.own(self.emulator))

    def stop(self) -> None:
        """End it, and what was opened meanwhile."""
        self.until_stop.close()
