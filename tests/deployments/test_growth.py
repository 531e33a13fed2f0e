"""How many replicas a model could have, what is asked of them, and whether more come."""

import pytest

from deployments.board import COLD_START, LOAD
from deployments.router.discovery import model_states, stale
from deployments.router.dispatch import ModelState
from deployments.router.growth import Demand, Growth, free_by_node, has_room
from models.catalog import load_catalog

MODEL, NOW = "all-minilm-l6-v2", 1010.0
SMALL = {"n1": {"CPU": 0.5, "memory": 4e9}}
LARGE = {**SMALL, "n2": {"CPU": 2.0, "memory": 4e9}}


def running(name="r1", node="n1"):
    return {"replica_id": name, "state": "RUNNING", "pid": 42, "node_id": node, "start_time_s": 900.0}


def starting(name="r2", waited=6.0, node=None):
    placed = {"pid": 43, "node_id": node} if node else {"pid": None, "node_id": None}
    return {"replica_id": name, "state": "STARTING", "start_time_s": NOW - waited, **placed}


def application(*replicas, wanted=1, most=2, cpus=0.4):
    deployment = {
        "replicas": list(replicas),
        "target_num_replicas": wanted,
        "deployment_config": {"autoscaling_config": {"min_replicas": 1, "max_replicas": most}},
        "required_resources": {"CPU": cpus, "GPU": 0, "memory": 1e9},
    }
    args = {"model": MODEL, "variant": "onnx"}
    config = {"last_deployed_time_s": 800.0, "deployed_app_config": {"args": args}}
    return {"status": "RUNNING", "deployments": {"model": deployment}, **config}


def state_of(app, facts=None, nodes=None) -> ModelState:
    took = {COLD_START.format(app=MODEL, variant="onnx"): {"seconds": {"load": 20.0}}}
    return model_states({MODEL: app}, load_catalog(), {}, took | (facts or {}), NOW, nodes=nodes)[MODEL]


def load(name="r1", at=NOW - 1, asked=1.5, inside_s=2.0, pending_s=3.0):
    fact = {"asked": asked, "inside_s": inside_s, "pending_s": pending_s, "at": at}
    return {LOAD.format(app=MODEL, replica=name): fact}


CASES = {
    "all that is wanted runs": (application(running()), SMALL, Growth()),
    "it is wanted, and not there yet": (application(running(), wanted=2), SMALL, Growth(True, 20.0)),
    "it starts": (application(running(), starting(node="n1"), wanted=2), SMALL, Growth(True, 14.0)),
    "it has room, and no process yet": (application(running(), starting(), wanted=2), LARGE, Growth(True, 20.0)),
    "nobody knows what is free": (application(running(), starting(), wanted=2), None, Growth(True, 20.0)),
    "it has just been asked for": (application(running(), starting(waited=2), wanted=2), SMALL, Growth(True, 20.0)),
    "no node has room": (application(running(), starting(), wanted=2), SMALL, Growth(no_room=True)),
    "it waits for ever": (application(running(), starting(waited=31), wanted=2), LARGE, Growth(no_room=True)),
    "one starts, another has no room": (
        application(running(), starting(node="n1"), starting("r3"), wanted=3, most=4, cpus=0.2),
        {"n1": {"CPU": 0.5, "memory": 4e9}},
        Growth(True, 14.0, no_room=True),
    ),
    "the most": (application(running(), running("r2", "n2"), wanted=2), LARGE, Growth(at_most=True)),
    "there may be one": (application(running(), most=1), SMALL, Growth(at_most=True)),
    "an upgrade beside the old one": (application(running(), starting(node="n1")), SMALL, Growth()),
    "an upgrade without room": (application(running(), starting()), SMALL, Growth()),
    "from zero": (application(starting(node="n1"), wanted=1), SMALL, Growth(True, 14.0)),
    "from zero without room": (application(starting(), wanted=1, cpus=1), SMALL, Growth(no_room=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_whether_more_come(case):
    app, nodes, expected = CASES[case]
    assert state_of(app, nodes=nodes).growth == expected


def test_the_room_is_what_placed_replicas_leave_whether_they_run_or_stop():
    stopping = running("r2") | {"state": "STOPPING"}
    free = free_by_node({MODEL: application(running(), stopping, starting("r3"), cpus=0.2)}, SMALL)
    assert free["n1"]["CPU"] == pytest.approx(0.1)
    assert not has_room([{"CPU": 0.2}], free)


def test_a_placement_group_needs_room_for_each_bundle():
    free = {"n1": {"CPU": 2.0, "GPU": 1.0}, "n2": {"CPU": 2.0, "GPU": 1.0}}
    assert has_room([{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}], free)
    assert not has_room([{"CPU": 1, "GPU": 1}] * 3, free)
    assert not has_room([{"CPU": 0.1, "GPU": 2}], free)
    assert free["n1"]["GPU"] == 1  # it is only asked


def test_demand_is_the_sum_of_what_replicas_say_and_what_is_pending_is_told_to_each():
    app = application(running(), running("r2"), wanted=2)
    assert state_of(app).scale.demand is None
    facts = load() | load("r2", asked=0.5, inside_s=1.0, pending_s=4.0) | load("gone", asked=9.0)
    assert state_of(app, facts).scale.demand == Demand(2.0, 3.0, 4.0)
    assert state_of(app, load() | load("r2", at=NOW - 11)).scale.demand == Demand(1.5, 2.0, 3.0)
    assert state_of(app, load(at=NOW - 11)).scale.demand is None


def test_what_a_replica_said_goes_with_it():
    app = application(running(), starting(), wanted=2)
    facts = load() | load("gone")
    assert stale({MODEL: app}, facts) == list(load("gone"))
    assert stale({MODEL: app | {"deployments": {}}}, facts) == []  # while a new version is built
    assert set(stale({}, facts)) == set(facts)


def test_readyz_tells_it():
    short = state_of(application(running(), starting(), wanted=2), load(asked=2.718), SMALL)
    assert short.document()["scaling"] == {"wanted": 2, "most": 2, "demand": 2.72, "no_room": True}
    grows = state_of(application(running(), starting(node="n1"), wanted=2), nodes=SMALL)
    assert grows.document()["scaling"] == {"wanted": 2, "most": 2, "growing": True, "ready_in_s": 14.0}
    full = state_of(application(running(), most=1), load(asked=1.0))
    assert full.document()["scaling"] == {"wanted": 1, "most": 1, "demand": 1.0, "at_most": True}
