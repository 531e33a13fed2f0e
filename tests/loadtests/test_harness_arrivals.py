"""Schedules: when requests are due."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import exponential, gamma, kstest

from loadtest.arrivals import Arrival, Stage, digest, of_stages, of_trace, share


def gaps(arrivals):
    return np.diff([0.0, *(one.at for one in arrivals)])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaps_of_poisson_arrivals_are_exponential(seed):
    arrivals = of_stages([Stage(20, 100)], seed)
    assert len(arrivals) == pytest.approx(2000, abs=5 * math.sqrt(2000))
    assert kstest(gaps(arrivals), exponential(1 / 20)) > 0.01


@pytest.mark.parametrize("burstiness", [0.25, 4])
def test_burstiness_is_the_shape_of_a_gamma_distribution(burstiness):
    found = gaps(of_stages([Stage(10, 400)], 5, burstiness))
    assert kstest(found, gamma(burstiness, 0.1)) > 0.01
    assert (found.std() / found.mean()) ** 2 == pytest.approx(1 / burstiness, rel=0.25)
    assert kstest(found, exponential(0.1)) < 0.001


def test_without_burstiness_arrivals_are_evenly_spaced():
    arrivals = of_stages([Stage(4, 10)], 1, math.inf)
    assert len(arrivals) == 40
    assert np.allclose(gaps(arrivals)[1:], 0.25)


def test_a_ramp_is_a_poisson_process_of_its_rate():
    """Brought to the time in which one arrival is expected per unit, its gaps are exponential too."""
    arrivals = of_stages([Stage(2, 50, to=40), Stage(40, 20), Stage(0, 5), Stage(40, 50, to=2)], 3)
    assert not [one for one in arrivals if 70 <= one.at < 75]
    first = [one.at for one in arrivals if one.at < 50]
    rescaled = np.diff([0, *(2 * at + (40 - 2) / 50 * at**2 / 2 for at in first)])
    assert kstest(rescaled, exponential(1)) > 0.01
    second = sum(25 <= at < 50 for at in first) / sum(at < 25 for at in first)
    assert second == pytest.approx((21 + 40) / (2 + 21), rel=0.2)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 20), st.none() | st.floats(0, 30)), min_size=1, max_size=5),
    st.integers(0, 9),
    st.sampled_from([0.3, 1.0, math.inf]),
)
@settings(max_examples=60, deadline=None)
def test_arrivals_are_in_order_within_the_stages_and_repeat(rows, seed, burstiness):
    stages = [Stage(*row) for row in rows]
    arrivals = of_stages(stages, seed, burstiness)
    times = [one.at for one in arrivals]
    assert times == sorted(times)
    assert all(0 <= at <= sum(stage.seconds for stage in stages) + 1e-6 for at in times)
    assert digest(arrivals) == digest(of_stages(stages, seed, burstiness))


def test_workers_share_a_schedule_without_changing_it():
    arrivals = of_stages([Stage(5, 20)], 1)
    shares = [share(list(enumerate(arrivals)), worker, 3) for worker in range(3)]
    assert sorted(pair for part in shares for pair in part) == list(enumerate(arrivals))


def trace(tmp_path, *rows):
    file = tmp_path / "trace.csv"
    file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    return file


def test_a_trace_keeps_its_times_and_lengths(tmp_path):
    file = trace(
        tmp_path,
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:50.6805900,396,109",
        "2023-11-16 18:16:50.0,9,1",
    )
    assert of_trace(file, 2, most=2) == [Arrival(0, 374, 44), Arrival(2, 396, 109)]
    assert of_trace(file, 1, skip=2) == [Arrival(0, 9, 1)]
    with pytest.raises(ValueError, match="no rows"):
        of_trace(file, 1, skip=3)


@pytest.mark.parametrize("row", ["yesterday,1,2", "2023-11-16 18:15:46,many,2", "2023-11-16 18:15:46"])
def test_a_row_that_is_none_is_named(tmp_path, row):
    with pytest.raises(ValueError, match="line 2"):
        of_trace(trace(tmp_path, row), 1)
