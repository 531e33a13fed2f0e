"""What Serve and the board say, and the state that is read from it."""

import pytest

from deployments.board import COLD_START, FAILURE, PROGRESS
from deployments.router.discovery import model_states, scheduling_s, stale
from deployments.router.dispatch import ModelState, State
from models.catalog import load_catalog

MODEL, DEPLOYED = "all-minilm-l6-v2", 1000.0
ARGS = {"model": MODEL, "variant": "onnx", "release": "7"}


def replica(state, name="r1", pid: int | None = 42, started=1001.0):
    return {"replica_id": name, "state": state, "pid": pid, "start_time_s": started}


def application(status, *replicas, lowest=1, built=True):
    config = {"autoscaling_config": {"min_replicas": lowest}}
    return {
        "status": status,
        "last_deployed_time_s": DEPLOYED,
        "deployed_app_config": {"args": ARGS},
        "deployments": {"model": {"replicas": list(replicas), "deployment_config": config}} if built else {},
    }


def state_of(app, facts=None, now=1010.0, before=None) -> ModelState:
    return model_states({MODEL: app}, load_catalog(), before or {}, facts or {}, now)[MODEL]


def progress(name="r1", phase="load", since=1002.0, **more):
    return {PROGRESS.format(app=MODEL, replica=name): {"phase": phase, "since": since, **more}}


def test_a_model_that_runs_is_ready():
    state = state_of(application("RUNNING", replica("RUNNING"), replica("UPDATING", "r2"), replica("STOPPING", "r3")))
    assert (state.state, state.replicas, state.draining) == (State.READY, 2, 1)
    assert (state.variant, state.release, state.since) == ("onnx", "7", DEPLOYED)


def test_a_model_that_starts_tells_its_phase_and_how_far_it_is():
    state = state_of(application("DEPLOYING", replica("STARTING")), progress(fraction=0.25))
    assert state.state is State.LOADING
    assert (state.phase, state.phase_since, state.fraction) == ("load", 1002.0, 0.25)


@pytest.mark.parametrize(("pid", "phase"), [(None, "schedule"), (42, "import")])
def test_before_a_replica_says_anything_its_process_tells(pid, phase):
    state = state_of(application("DEPLOYING", replica("STARTING", pid=pid)))
    assert (state.phase, state.phase_since) == (phase, 1001.0)


def test_a_fraction_that_is_not_known_is_not_guessed():
    assert state_of(application("DEPLOYING", replica("STARTING")), progress()).fraction is None


@pytest.mark.parametrize(
    ("now", "retry_after"), [(1001.0, 40.0), (1021.0, 20.0), (1040.5, 2.0), (1101.0, 10.0), (2601.0, 60.0)]
)
def test_retry_after_comes_from_the_last_start_and_stays_honest_after_it(now, retry_after):
    facts = {COLD_START.format(app=MODEL, variant="onnx"): {"seconds": {"import": 10, "load": 30}}}
    assert state_of(application("DEPLOYING", replica("STARTING")), facts, now).retry_after_s == retry_after


def test_a_failure_has_its_cause_and_remedy():
    said = {FAILURE.format(app=MODEL): {"cause": "It broke.", "remedy": "Mend it.", "at": 1005.0}}
    state = state_of(application("DEPLOY_FAILED"), said)
    assert (state.state, state.cause, state.remedy) == (State.FAILED, "It broke.", "Mend it.")


def test_a_failure_of_an_earlier_deployment_is_forgotten():
    said = {FAILURE.format(app=MODEL): {"cause": "It broke.", "remedy": "Mend it.", "at": DEPLOYED - 1}}
    assert state_of(application("RUNNING", replica("RUNNING")), said).cause is None


def test_a_process_that_died_without_a_word_is_told_of():
    state = state_of(application("DEPLOYING", replica("STARTING", "r2")), progress("r1"))
    assert state.state is State.LOADING
    assert state.cause == "Its process died in the phase load."


def test_a_replica_that_became_ready_and_went_did_not_die_starting():
    assert state_of(application("RUNNING", replica("RUNNING", "r2")), progress("r1", done=True)).cause is None


def test_the_old_version_serves_when_the_new_one_failed():
    said = {FAILURE.format(app=MODEL): {"cause": "It broke.", "remedy": "Mend it.", "at": 1005.0}}
    state = state_of(application("DEPLOY_FAILED", replica("RUNNING")), said)
    assert (state.state, state.cause) == (State.READY, "It broke.")


def test_while_a_new_version_is_built_the_old_state_stands():
    before = {MODEL: ModelState(State.READY, "onnx", replicas=1)}
    assert state_of(application("DEPLOYING", built=False), before=before) == before[MODEL]
    assert state_of(application("DEPLOYING", built=False)).state is State.LOADING
    unbuilt = state_of(application("DEPLOY_FAILED", built=False), before=before)
    assert (unbuilt.state, unbuilt.cause) == (State.READY, "Serve could not build its new version.")
    assert state_of(application("DELETING", built=False), before=before).state is State.DRAINING


def test_scaled_to_zero_and_on_its_way_back():
    asleep = state_of(application("RUNNING", lowest=0))
    waking = state_of(application("RUNNING", replica("STARTING"), lowest=0))
    assert (asleep.state, waking.state) == (State.SCALED_TO_ZERO, State.LOADING)
    assert waking.wakes_on_request


def test_a_model_whose_only_replica_died_is_loading_not_asleep():
    assert state_of(application("RUNNING")).state is State.LOADING


def test_an_application_that_is_deleted_drains():
    assert state_of(application("DELETING", replica("RUNNING"))).state is State.DRAINING


def test_what_says_nothing_any_more_is_stale():
    running = application("RUNNING", replica("RUNNING"))
    old, done, orphan = progress("old", since=1.0), progress("r0", done=True), progress("dead")
    living = progress("r1", since=1.0, done=True)
    facts = {**old, **done, **orphan, **living, "failure/gone": {"at": 2000.0}, "cold_start/gone/onnx": {"seconds": {}}}
    assert set(stale({MODEL: running}, facts)) == {*old, *done, "failure/gone"}
    assert stale({MODEL: application("DEPLOYING", replica("STARTING"))}, {**old, **orphan}) == []


def test_scheduling_is_the_time_before_the_process():
    fact = {COLD_START.format(app=MODEL, variant="onnx"): {"replica": "r1", "process_started": 1003.5, "seconds": {}}}
    assert scheduling_s(MODEL, application("RUNNING", replica("RUNNING")), "onnx", fact) == 2.5
    assert scheduling_s(MODEL, application("RUNNING", replica("RUNNING", "r2")), "onnx", fact) is None
