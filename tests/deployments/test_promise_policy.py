"""Replicas by the promise."""

import math
import random
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


def working(
    *asked, inside_s=0.0, pending_s=0.0, queued=0.0, target=None, ongoing=1.0, alone_s=0.5, service_s=1.0, state=None
):
    """Replicas that report work, each the share that it was asked."""
    told = {"asked": asked, "inside_s": [inside_s / max(1, len(asked))] * len(asked)}
    told |= {name: [value] * len(asked) for name, value in (("pending_s", pending_s), ("alone_s", alone_s))}
    told["service_s"] = [service_s] * len(asked)
    return SimpleNamespace(
        total_num_requests=ongoing,
        total_queued_requests=queued,
        current_num_replicas=len(asked),
        target_num_replicas=len(asked) if target is None else target,
        policy_state=state,
        aggregated_metrics={name: dict(enumerate(values)) for name, values in told.items()},
    )


def wanted(ctx, wait_s=3.0, **options) -> float:
    found, state = PromisePolicy(wait_s, 4, 1.0, **options)(ctx)
    assert "last_error" not in state
    return found


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


@pytest.mark.parametrize(
    ("ctx", "replicas"),
    [
        # What is asked, refused or not, at four fifths of a replica.
        (working(0.8), 1),
        (working(0.9), 2),
        (working(2.7), 4),
        (working(3.0, 3.0), 8),
        # Few are inside, and many were refused, each of which was told another time in the next half minute.
        (working(0.4, pending_s=60.0, inside_s=4.0), 3),
        (working(0.4, queued=40, alone_s=0.5), 5),
        # What is pending is told to every replica, so it is no sum; what is inside is one.
        (working(0.2, 0.2, pending_s=45.0), 2),
        (working(0.2, 0.2, inside_s=12.0), 3),
        # Nothing is left, but something runs; nothing runs.
        (working(0.005, inside_s=0.0), 1),
        (working(0.005, ongoing=0.0), 0),
        (working(0.0, 0.0, ongoing=0.0), 0),
    ],
)
def test_work_counts_whether_it_was_let_in_or_not(ctx, replicas):
    assert wanted(ctx) == replicas


@given(st.lists(st.floats(0, 8), min_size=1, max_size=4), st.floats(0, 500), st.floats(0, 500), st.integers(0, 20))
def test_it_wants_the_fewest_that_serve_the_work(asked, inside_s, pending_s, target):
    found = wanted(working(*asked, inside_s=inside_s, pending_s=pending_s, target=target))
    # 0.01 is nothing.
    needed = max(sum(asked) / 0.8 + pending_s / 30, inside_s / 4)
    assert found + 0.02 >= needed
    fewer = found - 1
    if fewer >= max(target, 1):
        assert fewer < needed


@pytest.mark.parametrize(("load", "noise"), [(0.3, 0.1), (0.9, 0.1), (1.1, 0.1), (2.5, 0.1), (5.9, 0.05), (0.8, 0.0)])
def test_a_steady_load_settles(load, noise):
    """Even if every decision were carried out at once."""
    draw, policy = random.Random(7), PromisePolicy(3.0, 4, 1.0)
    target, state, targets = 1, {}, []
    for _ in range(300):
        asked = load * draw.uniform(1 - noise, 1 + noise)
        ctx = working(*[asked / target] * target, inside_s=asked * draw.uniform(0.3, 1), state=state)
        found, state = policy(ctx)
        target = int(found)
        targets.append(target)
    assert len(set(targets[30:])) == 1
    assert load / 0.8 - 0.02 <= target <= math.ceil(load * (1 + noise) / 0.8)


@pytest.mark.parametrize("times", [2, 4, 8])
def test_a_step_in_the_load_is_answered_in_one_decision_and_so_is_its_end(times):
    assert wanted(working(0.7 * times)) == math.ceil(0.7 * times / 0.8)
    assert wanted(working(*[0.5 / times] * times)) == 1


def test_a_replica_goes_only_if_the_others_keep_a_margin():
    assert wanted(working(0.38, 0.38)) == 2  # 0.76 of one replica: it would serve it, and the next noise bring it back
    assert wanted(working(0.33, 0.33)) == 1


def test_one_that_reports_no_work_is_of_an_older_version_and_requests_count():
    ctx = working(0.1, 0.1, ongoing=12.0)
    ctx.aggregated_metrics["service_s"][2] = 1.0
    ctx.current_num_replicas = 3
    assert wanted(ctx) == wanted(context(ongoing=12.0, running=3)) == 4
    del ctx.aggregated_metrics["service_s"][2]  # it has just come, and has reported nothing
    assert wanted(ctx) == 1


def test_a_sleeping_model_that_is_asked_gets_what_the_waiting_need():
    """A call waits in Serve for each request that waits for the model."""
    assert wanted(context(ongoing=40.0, running=0)) == 3
    assert wanted(context(ongoing=0.0, running=0)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, None])
@pytest.mark.parametrize("name", ["asked", "inside_s", "pending_s", "alone_s", "service_s"])
def test_a_report_that_makes_no_sense_is_passed_over(bad, name):
    ctx = working(0.9, 0.9)
    ctx.aggregated_metrics[name][1] = bad
    assert wanted(ctx) >= 1
