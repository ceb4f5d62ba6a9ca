"""What holds for all tests of the core."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; what is interrupted here would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
