"""What holds for all tests of the core."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# A busy machine is no failure. Continuous integration tries the same examples each time; what is found elsewhere stays as an @example.
settings.register_profile("ours", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("ours")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; what is interrupted here would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
