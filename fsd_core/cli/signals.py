"""SIGINT, SIGTERM and SIGHUP end a command within `interrupt.LIMIT_S`. The command cleans up first, if the time is enough.

The first signal raises `Interrupted` in the main thread. Later signals change nothing, so that they do not stop the clean-up. A second
thread reads the interpreter's wake-up descriptor, which works even while the main thread is in a long call of a C library. If the main
thread does not end the process in time, this second thread ends it. A signal that was ignored when the process started (``nohup``) stays
ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from fsd_core.common import interrupt

__all__ = ["Interrupted", "Signals"]

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
SPARE_S = 0.4  # the part of the limit that is kept for the last line and the end of the process

AGAIN_S = 0.01


class Interrupted(KeyboardInterrupt):
    """A signal arrived. ``code``: the exit code, 128 and the number of the signal; ``word``: its name for people."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.code = 128 + number
        self.word = WORDS[signal.Signals(number)]


class Signals:
    """Handles the signals from `start` to `stop`. Calls ``last_words`` with `Interrupted` before it ends the process by force."""

    def __init__(self, last_words: Callable[[Interrupted], object]) -> None:
        self.came: Interrupted | None = None
        self._last_words = last_words
        self._over = False
        self._stopped = threading.Event()
        self._before: dict[int, object] = {}

    def start(self) -> None:
        """Set the handlers. Does nothing outside the main thread, where Python handles no signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._woken, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        self._wakeup = signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        for number in WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        with contextlib.suppress(RuntimeError):  # the system has no more threads: then only the main thread handles signals
            threading.Thread(target=self._watch, name="fsd-signals", daemon=True).start()

    def stop(self) -> None:
        """Restore the earlier handlers, for a process that continues after the command."""
        if not self._before:
            return
        self._stopped.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned
        sys.unraisablehook = self._hook
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._wakes)  # ends the thread
        interrupt.end()

    def over(self) -> None:
        """Call this when the command has written its last line: from now on, a first signal ends the process at once."""
        self._over = True
        if self.came:
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)

    def _take(self, number: int, frame: FrameType | None) -> None:
        interrupt.begin()
        if self._over:
            os._exit((self.came or Interrupted(number)).code)
        if self.came is None and not interrupt.postponed(number):
            self.came = Interrupted(number)
            raise self.came

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        """Python drops an exception of a finalizer or of a weak reference's callback: if it is `Interrupted`, send the signal again."""
        if isinstance(what.exc_value, Interrupted):
            number, self.came = what.exc_value.code - 128, None
            again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            self._hook(what)

    def _watch(self) -> None:
        """The second thread: end the process when the limit is reached."""
        first: Interrupted | None = None
        while first is None:
            woke = os.read(self._woken, 64)
            if not woke:  # stopped
                os.close(self._woken)
                return
            first = next((Interrupted(number) for number in woke if number in self._before), None)
        interrupt.begin()
        if self._stopped.wait(interrupt.remaining() - SPARE_S):
            os.close(self._woken)
            return
        came = self.came or first
        with contextlib.suppress(RuntimeError):
            speaking = threading.Thread(target=self._last_words, args=(came,), name="fsd-last-words", daemon=True)
            speaking.start()
            speaking.join(SPARE_S / 2)  # the reader of the answer may not read it
        os._exit(came.code)
