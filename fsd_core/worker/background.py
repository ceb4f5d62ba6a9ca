"""The background tasks of a worker: it watches the lease, its children, and the platform's reports of failures."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fsd_core.channel import Channel
from fsd_core.driver import Code
from fsd_core.errors import RunFailed

__all__ = ["Background"]


class Background:
    """Runs each task on its own thread until the event ``over`` is set. An error of a task ends the run."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: RunFailed | None = None
        self._channel: Channel | None = None

    def start(self, name: str, task: Callable[[], None]) -> None:
        """Run ``task``, which returns once ``over`` is set. ``name`` is for the thread and for errors."""

        def guarded() -> None:
            try:
                task()
            except Exception as error:
                self.error = error if isinstance(error, RunFailed) else RunFailed(Code.UNKNOWN, f"{name}: {type(error).__name__}: {error}")
                self._interrupt()

        threading.Thread(target=guarded, name=name, daemon=True).start()

    def connect(self, channel: Channel) -> None:
        """From now on, an error of a task also ends all waits in ``channel``."""
        self._channel = channel
        self._interrupt()  # for a task that failed before there was a channel

    def _interrupt(self) -> None:
        if self.error is not None and self._channel is not None and not self.over.is_set():
            self._channel.mailbox.fail(self.error)
