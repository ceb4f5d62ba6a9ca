"""What holds for all tests of the core."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("audit_cases", "host_cases", "provision_cases", "run_cases")  # they assert for files of tests

# A busy machine is no failure. Continuous integration tries the same examples each time; what is found elsewhere stays as an @example.
settings.register_profile("ours", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("ours")

# A shell's background job ignores the first, what nohup starts the second: what is interrupted here would inherit that.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)


def pytest_collection_modifyitems(items):
    """Files of long tests come first, those of many tests before others: no worker begins a long file when the others are about to end."""
    tests = Counter(item.path for item in items)
    long = {item.path for item in items if {"emulator", "slow"} & {mark.name for mark in item.iter_markers()}}
    items.sort(key=lambda item: (item.path not in long, -tests[item.path]))
