"""A worker's time by phase, and its timeline."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.common.stopwatch import CELLS, PHASES, Starved, Stopwatch


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


SPANS = st.lists(st.tuples(st.sampled_from(PHASES), st.floats(0, 50)), max_size=40)


@given(SPANS)
def test_all_time_belongs_to_a_phase(spans):
    clock = Clock()
    watch = Stopwatch(clock)
    for phase, seconds in spans:
        watch.enter(phase)
        clock.now += seconds
    watch.enter("other")
    for phase in PHASES:
        assert watch.seconds[phase] == pytest.approx(sum(s for p, s in spans if p == phase), abs=1e-6)
    timeline = watch.timeline()
    assert 0 < len(timeline["phases"]) <= CELLS
    assert set(timeline["phases"]) <= {phase[0] for phase in PHASES}
    total = sum(seconds for _, seconds in spans)
    assert total <= len(timeline["phases"]) * timeline["cell_s"] + 1e-6
    assert (len(timeline["phases"]) - 1) * timeline["cell_s"] <= total + 1e-6


@given(SPANS)
def test_a_cell_has_the_phase_that_took_most_of_it(spans):
    clock = Clock()
    watch = Stopwatch(clock)
    moments, at = [], 0.0
    for phase, seconds in spans:
        watch.enter(phase)
        clock.now += seconds
        moments.append((phase, at, at + seconds))
        at += seconds
    watch.enter("other")
    timeline = watch.timeline()
    width = timeline["cell_s"]
    for cell, letter in enumerate(timeline["phases"]):
        inside = dict.fromkeys(PHASES, 0.0)
        for phase, start, end in moments:
            inside[phase] += max(0.0, min(end, (cell + 1) * width) - max(start, cell * width))
        longest = next(phase for phase in PHASES if phase[0] == letter)
        assert inside[longest] == pytest.approx(max(inside.values()), abs=1e-6)


def test_the_letters_of_the_phases_differ():
    assert len({phase[0] for phase in PHASES}) == len(PHASES)


def test_the_timeline_ends_with_the_last_phase():
    clock = Clock()
    watch = Stopwatch(clock)
    watch.enter("compute")
    clock.now += 0.004
    watch.enter("other")
    assert watch.timeline() == {"cell_s": 0.001, "phases": "cccc"}


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.floats(0, 50), st.floats(0, 1)), max_size=40))
def test_time_without_a_processor_is_apart(spans):
    clock, waits = Clock(), Clock()
    watch = Stopwatch(clock, waits)
    for phase, seconds, share in spans:
        watch.enter(phase)
        clock.now += seconds
        waits.now += share * seconds
    watch.enter("other")
    for phase in PHASES:
        assert watch.seconds[phase] == pytest.approx(sum((1 - share) * s for p, s, share in spans if p == phase), abs=1e-6)
        assert watch.seconds[phase] >= 0
    assert watch.starved == pytest.approx(sum(share * seconds for _, seconds, share in spans), abs=1e-6)


def test_a_clock_that_jumps_makes_no_phase_negative():
    clock, waits = Clock(), Clock()
    watch = Stopwatch(clock, waits)
    watch.enter("compute")
    clock.now, waits.now = clock.now + 1, waits.now + 5
    watch.enter("load")
    clock.now, waits.now = clock.now + 1, waits.now - 3
    watch.enter("other")
    assert (watch.seconds["compute"], watch.seconds["load"], watch.starved) == (0, 1, 1)


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="the system does not count this time")
def test_the_system_counts_the_time_without_a_processor():
    """Two busy threads of processes share one processor: each has none for about half of the time."""
    one = min(os.sched_getaffinity(0))
    busy = f"import os\nos.sched_setaffinity(0, {{{one}}})\nprint(flush=True)\nwhile True: pass"
    mine = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline()
            os.sched_setaffinity(0, {one})
            starved = Starved()
            before, until = starved(), time.thread_time() + 0.3
            began = time.monotonic()
            while time.thread_time() < until:
                pass
            took, waited = time.monotonic() - began, starved() - before
            starved.close()
        finally:
            os.sched_setaffinity(0, mine)
            other.kill()
    assert 0.02 < waited < took - 0.25  # of the rest, 0.3 s are its own; what a hypervisor takes comes on top
    assert starved() == 0
