"""What holds for all tests of the core."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("host_cases", "provision_cases", "run_cases")  # they assert for files of tests

# A busy machine is no failure. Continuous integration tries the same examples each time; what is found elsewhere stays as an @example.
settings.register_profile("ours", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("ours")

# A shell's background job ignores the first, what nohup starts the second: what is interrupted here would inherit that.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)
