import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.autoscaling import ConcurrencyPolicy, GuardedPolicy

numbers = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
states = st.none() | st.just({"before": 1}) | st.just({}) | st.just(5) | st.text(max_size=3)


def context(**values) -> SimpleNamespace:
    defaults = {
        "total_num_requests": 0,
        "total_queued_requests": 0,
        "current_num_replicas": 1,
        "target_num_replicas": 2,
        "policy_state": None,
    }
    return SimpleNamespace(**(defaults | values))


class Fixed(GuardedPolicy):
    def __init__(self, answer):
        self.answer = answer

    def desired(self, ctx, state):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@given(requests=numbers, queued=numbers, running=numbers, state=states)
def test_a_policy_gives_a_usable_number_whatever_it_is_told(requests, queued, running, state):
    ctx = context(
        total_num_requests=requests, total_queued_requests=queued, current_num_replicas=running, policy_state=state
    )
    wanted, kept = ConcurrencyPolicy(4)(ctx)
    assert math.isfinite(wanted)
    assert wanted >= 0
    assert isinstance(kept, dict)
    if "last_error" in kept:
        assert wanted == ctx.target_num_replicas


@pytest.mark.parametrize(
    "answer", [math.nan, math.inf, -math.inf, -1, None, "many", [], ValueError("no"), KeyError(), ZeroDivisionError()]
)
def test_a_policy_that_fails_keeps_the_target_and_says_why(answer):
    wanted, state = Fixed(answer)(context(policy_state={"before": 1}))
    assert wanted == 2
    assert state["before"] == 1
    assert 0 < len(state["last_error"]) <= 200


def test_a_context_without_the_numbers_keeps_the_target():
    wanted, state = ConcurrencyPolicy(4)(SimpleNamespace(target_num_replicas=3))
    assert wanted == 3
    assert "AttributeError" in state["last_error"]


def test_a_policy_works_again_after_a_failure_and_its_last_error_can_still_be_read():
    policy = Fixed(ValueError("no"))
    _, state = policy(context())
    policy.answer = 1
    assert policy(context(policy_state=state)) == (1, {"last_error": "ValueError('no')"})


def test_the_state_it_is_given_is_not_changed():
    before = {"before": 1}
    Fixed(ValueError("no"))(context(policy_state=before))
    assert before == {"before": 1}


@pytest.mark.parametrize(
    ("requests", "queued", "running", "wanted"),
    [
        (0, 0, 1, 0),
        (1, 0, 1, 1),
        (4, 0, 1, 1),
        (5, 0, 1, 2),
        (4.1, 0, 1, 2),
        (40, 0, 2, 10),
        (4, 1, 1, 1),  # one queued request for each replica is tolerated
        (4, 2, 1, 2),
        (8, 3, 3, 2),
        (8, 4, 3, 4),
        (40, 30, 2, 10),
        (2, 2, 0, 2),  # nothing runs: one replica for the load, and one for the queue
    ],
)
def test_replicas_follow_the_load_and_the_queue(requests, queued, running, wanted):
    ctx = context(total_num_requests=requests, total_queued_requests=queued, current_num_replicas=running)
    assert ConcurrencyPolicy(4)(ctx) == (wanted, {})


@given(load=st.integers(0, 10_000), more=st.integers(0, 10_000), running=st.integers(0, 50))
def test_more_load_never_wants_fewer_replicas(load, more, running):
    policy = ConcurrencyPolicy(4)
    less_wanted, _ = policy(context(total_num_requests=load, current_num_replicas=running))
    more_wanted, _ = policy(context(total_num_requests=load + more, current_num_replicas=running))
    assert less_wanted <= more_wanted


@pytest.mark.parametrize("target", [0, -1, math.nan])
def test_a_target_that_means_nothing_is_refused_when_the_policy_is_made(target):
    with pytest.raises(ValueError, match="above 0"):
        ConcurrencyPolicy(target)


def test_the_module_imports_only_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import deployments.autoscaling;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['deployments']"
