"""When everybody inside has the first piece and the last, against the engine's work step by step."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.servers.forecast import Batches, InTurn, Left, Stepwise
from deployments.servers.pace import Pace, Work

CHUNK = 100


def pace(base=0.0, per_width=0.0, per_read=0.0) -> Pace:
    made = Pace()
    made.state, made.seen = np.array((base, per_width, per_read)), 100
    return made


def left(*works, start=0.0) -> list[Left]:
    return [Left(one.read, one.steps, one.width, one.items, start=start) for one in works]


def foreseen(schedule, figures, *works, start=0.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The first piece of each, and the end of each."""
    first_s, ends_s, _ = zip(*schedule.times(figures, left(*works, start=start)), strict=True)
    return first_s, ends_s


def stepped(schedule: Stepwise, pace: Pace, works) -> list[tuple[float, float]]:
    """First piece and end of each, of an engine that does one step after the other."""
    read, steps = [work.read for work in works], [work.steps for work in works]
    first, end, now = [0.0] * len(works), [0.0] * len(works), 0.0
    while any(steps):
        reading = [index for index, rest in enumerate(read) if rest > 0][: schedule.readers]
        writing = [index for index, rest in enumerate(steps) if rest > 0 and read[index] <= 0]
        now += pace.seconds(1, sum(works[index].width for index in writing), schedule.chunk * len(reading))
        for index in reading:
            read[index] -= schedule.chunk
            if read[index] <= 0:
                first[index] = now
        for index in [*writing, *(index for index in reading if read[index] <= 0)]:
            steps[index] -= 1
            end[index] = now
    return list(zip(first, end, strict=True))


WORKS = st.builds(
    Work,
    read=st.integers(0, 5).map(lambda chunks: float(chunks * CHUNK)),
    steps=st.integers(1, 8).map(float),
    width=st.sampled_from((1.0, 4.0)),
)


@given(st.lists(WORKS, min_size=1, max_size=8), st.integers(1, 3))
def test_steps_are_foreseen_as_they_are_made(works, readers):
    schedule, figures = Stepwise(CHUNK, readers), pace(0.1, 0.02, 0.003)
    first_s, ends_s = foreseen(schedule, figures, *works)
    made = stepped(schedule, figures, works)
    # The step that runs when a newcomer comes may have to end first.
    slack = 0.0 if len(works) == 1 else 0.5 * schedule.longest_step_s(figures, left(*works))
    for (first, end), expected_first, expected_end in zip(made, first_s, ends_s, strict=True):
        assert first - 1e-9 <= expected_first <= first + slack + 1e-9
        assert end - 1e-9 <= expected_end <= end + slack + 1e-9


def test_reading_and_writing_slow_each_other_down():
    figures, alone, prompt = pace(0.1, 0.02, 0.003), Work(0, 10, 1), Work(1000, 1, 1)
    schedule = Stepwise(CHUNK)
    _, (by_itself,) = foreseen(schedule, figures, alone)
    first_s, ends_s = foreseen(schedule, figures, alone, prompt)
    assert by_itself == pytest.approx(1.2)
    assert ends_s[0] >= 10 * (0.1 + 0.02 + 0.3)
    assert first_s[1] >= 10 * (0.1 + 0.02 + 0.3)


def test_prompts_are_read_one_behind_the_other():
    first_s, _ = foreseen(Stepwise(CHUNK), pace(per_read=0.001), *[Work(500, 1, 1)] * 3)
    assert np.diff(first_s) == pytest.approx([0.5, 0.5])


def test_what_begins_later_ends_later():
    schedule, figures = Stepwise(CHUNK), pace(0.1)
    _, (now_s,) = foreseen(schedule, figures, Work(100, 5))
    _, (later_s,) = foreseen(schedule, figures, Work(100, 5), start=20.0)
    assert later_s == pytest.approx(now_s + 20 * 0.1)


def test_many_share_the_time_of_a_step():
    """What a fully used replica spends on each is what it takes for all."""
    schedule, figures, work = Stepwise(CHUNK, full=16), pace(0.1, 0.02, 0.003), Work(0, 10, 1)
    _, ends_s = foreseen(schedule, figures, *[work] * 16)
    assert 16 * schedule.cost_s(figures, work) == pytest.approx(max(ends_s), rel=0.1)
    assert schedule.cost_s(figures, Work(100, 10)) > schedule.cost_s(figures, work) + 0.3


def test_a_short_request_passes_a_long_one_in_its_batches():
    schedule, figures = Batches(items=64, units=100), pace(0.01, 0.01)
    long, short = Work(steps=10_000, items=1000), Work(steps=10, items=1)
    _, (long_s, short_s) = foreseen(schedule, figures, long, short)
    assert short_s < 3
    assert long_s > 100
    _, (first_s, second_s) = foreseen(schedule, figures, short, long)
    assert first_s < 3
    assert second_s == pytest.approx(long_s, rel=0.02)


def test_a_batch_is_full_by_its_items_or_by_its_units():
    figures = pace(1.0)
    for schedule in (Batches(items=4, units=1e9), Batches(items=1e9, units=40)):
        _, (end_s,) = foreseen(schedule, figures, Work(steps=200, items=20))
        assert end_s == pytest.approx(5.0)
        assert schedule.cost_s(figures, Work(steps=200, items=20)) == pytest.approx(5.0)


def test_one_after_the_other():
    schedule, figures = InTurn(), pace(0.5, 0.1, 0.01)
    first_s, ends_s = foreseen(schedule, figures, Work(100, 5), Work(0, 10, 2))
    assert ends_s == pytest.approx([2.0, 4.5])
    assert first_s == pytest.approx([1.5, 2.5])
    assert schedule.cost_s(figures, Work(100, 5)) == pytest.approx(2.0)


@pytest.mark.parametrize("schedule", [Stepwise(CHUNK), Batches(64, 100), InTurn()])
@given(works=st.lists(WORKS, min_size=1, max_size=6), more=WORKS)
def test_nobody_is_earlier_with_one_more_behind(schedule, works, more):
    figures = pace(0.1, 0.02, 0.003)
    before = foreseen(schedule, figures, *works)
    after = foreseen(schedule, figures, *works, more)
    for earlier, later in zip(before, after, strict=True):
        assert all(one <= other + 1e-9 for one, other in zip(earlier, later, strict=False))
        assert np.isfinite(later).all()
    assert all(first <= end + 1e-9 for first, end in zip(*after, strict=True))
    assert 0 < schedule.cost_s(figures, more) < math.inf
    assert schedule.longest_step_s(figures, left(*works)) > 0
