"""Replicas by the promise."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.autoscaling import PromisePolicy


def context(ongoing=0.0, running=1, measured=None, state=None):
    metrics = {"service_s": dict(enumerate(measured))} if measured is not None else None
    return SimpleNamespace(
        total_num_requests=ongoing,
        total_queued_requests=0,
        current_num_replicas=running,
        target_num_replicas=running,
        policy_state=state,
        aggregated_metrics=metrics,
    )


def wait(ongoing, replicas, concurrency, service_s):
    return max(0.0, ongoing - replicas * concurrency) * service_s / (replicas * concurrency)


@given(st.floats(0, 5000), st.integers(1, 200), st.floats(0.05, 20), st.floats(0.01, 60), st.integers(1, 64))
def test_it_wants_the_fewest_that_keep_the_wait(ongoing, running, wait_s, service_s, concurrency):
    wanted, state = PromisePolicy(wait_s, concurrency, service_s, utilisation=1)(context(ongoing, running))
    assert "last_error" not in state
    if wanted:
        assert wait(ongoing, wanted, concurrency, service_s) <= wait_s * 1.0001
    fewer = wanted - 1
    if fewer * concurrency > min(ongoing, running * concurrency):  # else it is wanted for the load
        assert fewer < 1 or wait(ongoing, fewer, concurrency, service_s) > wait_s * 0.9999


def test_a_long_queue_is_answered_at_once():
    wanted, _ = PromisePolicy(wait_s=1, concurrency=4, service_s=2)(context(ongoing=120, running=1))
    assert wanted == 20  # 120 in 20 replicas of 4: 40 wait for half a turn of 2 s


def test_busy_replicas_call_for_more_before_anybody_waits():
    policy = PromisePolicy(wait_s=10, concurrency=4, service_s=0.5, utilisation=0.8)
    assert policy(context(ongoing=8, running=2))[0] == 3
    assert policy(context(ongoing=6, running=2))[0] == 2
    assert policy(context(ongoing=0, running=2))[0] == 0


def test_what_replicas_measure_takes_the_place_of_the_guess():
    policy = PromisePolicy(wait_s=1, concurrency=1, service_s=1)
    guessed, _ = policy(context(ongoing=30, running=5))
    slower, state = policy(context(ongoing=30, running=5, measured=[9.0, 11.0, 0.0]))
    assert slower > guessed
    assert state["service_s"] == 10
    assert policy(context(ongoing=30, running=5, state=state))[0] == slower  # while none reports


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, None])
def test_a_measure_that_makes_no_sense_is_passed_over(bad):
    wanted, state = PromisePolicy(1, 1, 2)(context(ongoing=3, running=1, measured=[bad]))
    assert state["service_s"] == 2
    assert wanted == 2


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1, 0), (1, 1, 1, 1.5)])
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="must be above 0"):
        PromisePolicy(*arguments)
