"""A worker's time by phase, and its timeline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.common.stopwatch import CELLS, PHASES, Stopwatch


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
