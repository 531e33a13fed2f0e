"""How fast a replica is: learnt from a few steps, and followed."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.servers.pace import FIRST, Pace, nearest

POSITIVE = st.floats(1e-4, 10)


def taught(machine, steps=60, noise=0.0, pace=None, seed=1) -> Pace:
    """A pace that has seen so many mixed steps of a machine with these three figures."""
    pace, draw = pace or Pace(), random.Random(seed)
    for _ in range(steps):
        did = (1.0, draw.choice((0, 1, 4, 16)), draw.choice((0, 0, 64, 128)))
        pace.learn(float(np.dot(machine, did)) * math.exp(draw.gauss(0, noise)), *did)
    return pace


@given(st.tuples(POSITIVE, POSITIVE, POSITIVE))
def test_three_figures_are_found_in_a_few_steps(machine):
    pace = Pace()
    for did in ((1, 0, 64), (1, 1, 0), (1, 8, 0)):
        assert not pace.known
        pace.learn(float(np.dot(machine, did)), *did)
    assert pace.known
    assert (pace.base, pace.per_width, pace.per_read) == pytest.approx(machine, rel=1e-3)
    assert pace.seconds(10, 40, 128) == pytest.approx(float(np.dot(machine, (10, 40, 128))), rel=1e-3)


def test_what_is_learnt_survives_noise():
    pace = taught((0.02, 0.004, 0.003), steps=500, noise=0.2)
    assert pace.seconds(1, 16, 0) == pytest.approx(0.084, rel=0.15)
    assert pace.seconds(1, 0, 128) == pytest.approx(0.404, rel=0.15)


@pytest.mark.parametrize("times", [3.0, 1 / 3])
def test_a_machine_that_gets_slower_or_faster_is_followed(times):
    machine = np.array((0.02, 0.004, 0.003))
    pace = taught(machine, steps=100, noise=0.05)
    taught(machine * times, steps=100, noise=0.05, pace=pace)
    assert pace.seconds(1, 8, 64) == pytest.approx(times * float(machine @ (1, 8, 64)), rel=0.15)


def test_what_was_not_seen_lately_changes_with_the_machine():
    """Nobody sends a prompt while it becomes three times as slow."""
    machine = np.array((0.02, 0.004, 0.003))
    pace = taught(machine, steps=100, noise=0.05)
    for _ in range(100):
        pace.learn(3 * 0.052, 1, 8, 0)
    assert 0.003 * 1.5 < pace.per_read < 0.003 * 4


def test_what_was_never_seen_is_learnt_at_once():
    pace = Pace()
    for width in (1, 4, 8, 16) * 5:
        pace.learn(0.02 + 0.004 * width, 1, width, 0)
    pace.learn(0.02 + 0.3, 1, 0, 100)
    assert pace.seconds(1, 0, 100) == pytest.approx(0.32, rel=0.1)


def test_a_pause_says_little_about_the_next_step():
    pace = taught((0.02, 0.004, 0.003), steps=100, noise=0.05)
    before = pace.seconds(1, 8, 0)
    pace.learn(20.0, 1, 8, 0)
    assert pace.seconds(1, 8, 0) < 2 * before
    for _ in range(30):
        pace.learn(before, 1, 8, 0)
    assert pace.seconds(1, 8, 0) == pytest.approx(before, rel=0.1)


def test_a_pause_in_the_first_steps_is_outgrown():
    pace = Pace()
    pace.learn(20.0, 1, 8, 0)
    taught((0.02, 0.004, 0.003), steps=200, noise=0.05, pace=pace)
    assert pace.seconds(1, 8, 0) == pytest.approx(0.052, rel=0.2)


@pytest.mark.parametrize("done", [(0, 1, 1, 1), (-1, 1, 1, 1), (math.inf, 1, 1, 1), (math.nan, 1, 1, 1), (1, 0, 0, 0)])
def test_what_says_nothing_is_not_learnt(done):
    pace = Pace()
    pace.learn(*done)
    assert pace.seen == 0


# Some of each, more than are fitted together, so both ways of learning are tried.
OBSERVED = st.tuples(
    st.floats(1e-4, 1e3), st.integers(1, 100), st.integers(0, 1000), st.sampled_from((0.0, 0.001, 7.0, 1e5))
)


@settings(max_examples=50)
@given(st.lists(OBSERVED, min_size=FIRST, max_size=3 * FIRST))
def test_nothing_that_is_learnt_breaks_the_arithmetic(observed):
    pace = Pace()
    for one in observed:
        pace.learn(*one)
    assert np.isfinite(pace.state).all()
    assert (pace.state >= 0).all()
    assert np.isfinite(pace.spread).all()
    slower = [pace.seconds(1, width, 10 * width) for width in (1, 10, 100)]
    assert slower == sorted(slower)


@given(st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE), min_size=1, max_size=8))
def test_no_other_choice_comes_nearer(rows):
    rows = np.array(rows)
    wanted = np.ones(len(rows))
    found = nearest(rows, wanted)
    assert (found >= 0).all()
    error = np.sum((rows @ found - wanted) ** 2)
    draw = random.Random(1)
    for _ in range(20):
        other = np.maximum(0, found * [draw.uniform(0.5, 2) for _ in found] + [draw.uniform(-0.1, 0.1) for _ in found])
        assert error <= np.sum((rows @ other - wanted) ** 2) + 1e-6
