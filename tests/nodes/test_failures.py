"""Nodes leave, die and come while requests are sent: nothing is lost that was not on a node that died.

The cluster is Ray on machines made of namespaces (namespaces.py), deployed to and probed as KubeRay does it.
`python -m benchmarks.failures` runs these tests and keeps what they find.
"""

import sys
import time

import pytest
from ray_nodes import MODEL, ROUTER, document

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(600)]

DEADLINE_S = 90
START_S = 90  # for a node and a replica on it; a quarter of it when nothing else runs


def test_a_gpu_node_is_drained_and_stopped(whole, service, load, row):
    row.before = whole.replicas(MODEL)
    running = load(8, 55)
    leaving, staying = row.before
    node = whole.node_at(leaving[0])
    began = time.monotonic()
    row.facts["said"] = whole.drain(node, DEADLINE_S)
    row.facts["drain_s"] = time.monotonic() - began
    # Nobody took it out of the Service but its own readiness probe.
    assert node.address not in service.ready
    whole.stop(node)
    whole.wait("another replica", lambda: len(whole.replicas(MODEL)) == 2, START_S)
    row.recovery_s = time.monotonic() - began
    row.after = whole.replicas(MODEL)
    row.count(running.attempts(), service.events)
    assert row.failed == row.refused == 0
    assert row.requests > 350
    assert "empty after" in row.facts["said"]
    assert row.facts["drain_s"] < DEADLINE_S
    assert staying in row.after
    assert leaving not in row.after
    assert row.slowest_s < 15


def test_a_gpu_node_is_killed(whole, service, load, row):
    row.before = whole.replicas(MODEL)
    running = load(8, 60)
    lost, staying = row.before
    node = whole.node_at(lost[0])
    time.sleep(3)
    # So that it dies with requests in its hands: they answer within milliseconds otherwise.
    node.run("kill", "-STOP", str(lost[1]))
    time.sleep(1)
    whole.kill(node)
    began = time.monotonic()
    whole.wait("the loss is noticed", lambda: lost not in whole.replicas(MODEL), START_S)
    row.facts["noticed_s"] = time.monotonic() - began
    whole.wait("another replica", lambda: len(whole.replicas(MODEL)) == 2, START_S)
    row.recovery_s = time.monotonic() - began
    row.after = whole.replicas(MODEL)
    attempts = running.attempts()
    row.count(attempts, service.events)
    row.facts["taken_over"] = sum(one.answered and one.last - one.due > 0.9 for one in attempts)
    # Those that the node's own proxy was forwarding ended without an answer. There is nobody to send them again.
    assert row.failed <= row.events.get("no answer", 0) <= 8
    assert row.refused == 0
    assert row.facts["taken_over"] >= 1
    assert row.requests > 350
    assert staying in row.after
    # gRPC gives a connection to an address that is gone 20 s; then the router asks another replica.
    assert row.slowest_s < 45


def test_a_gpu_node_is_cut_off(whole, service, load, row):
    """Nothing tells those that wait for it: no connection is closed, no packet refused."""
    row.before = whole.replicas(MODEL)
    running = load(8, 120)
    lost, staying = row.before
    node = whole.node_at(lost[0])
    time.sleep(3)
    # So that it vanishes with requests in its hands.
    node.run("kill", "-STOP", str(lost[1]))
    time.sleep(1)
    node.cut()
    began = time.monotonic()
    whole.wait("the loss is noticed", lambda: lost not in whole.replicas(MODEL), 2 * START_S)
    row.facts["noticed_s"] = time.monotonic() - began
    whole.wait("another replica", lambda: len(whole.replicas(MODEL)) == 2, START_S)
    row.recovery_s = time.monotonic() - began
    whole.kill(node)  # no cloud leaves it there for ever, and its GPU would be free
    row.after = whole.replicas(MODEL)
    attempts = running.attempts()
    row.count(attempts, service.events)
    row.facts["taken_over"] = sum(one.answered and one.last - one.due > 0.9 for one in attempts)
    # Those that had been sent to the node's own proxy hang there.
    assert row.failed <= 16
    assert row.refused == 0
    assert row.facts["taken_over"] >= 1
    assert row.requests > 700
    assert staying in row.after
    assert row.slowest_s < 60


def test_the_head_is_killed_and_comes_back(whole, redis, service, load, row):
    if redis is None:
        pytest.skip("redis-server is not installed, where the head would keep its state")
    row.before, routers = whole.replicas(MODEL), whole.replicas(ROUTER)
    running = load(8, 60)
    whole.kill(whole.machines["head"])
    began = time.monotonic()
    time.sleep(10)
    assert not whole.applications()
    whole.start_head()
    row.facts["head_answers_s"] = time.monotonic() - began
    whole.wait("Serve is as it was", lambda: whole.replicas(MODEL) == row.before, START_S)
    row.recovery_s = time.monotonic() - began
    row.after = whole.replicas(MODEL)
    row.count(running.attempts(), service.events)
    assert row.failed == row.refused == 0
    assert row.requests > 350
    assert row.after == row.before
    assert whole.replicas(ROUTER) == routers
    assert row.slowest_s < 15


def test_a_release_and_then_every_node_is_replaced(whole, service, load, row):
    row.before = whole.replicas(MODEL)
    old = whole.nodes("cpu")
    running = load(6, 100)
    began = time.monotonic()
    whole.release = "2"
    whole.deploy(document("2"))
    # Surge: the new release comes up on new GPU nodes, and those of the old one are given back.
    whole.wait("the new release", lambda: is_replaced(whole, row.before), 2 * START_S)
    row.facts["release_s"] = time.monotonic() - began
    for node in old:
        new = whole.add("cpu")
        whole.wait(f"{new.name} is up", lambda node=new: node_is_up(node), START_S)
        whole.drain(node, DEADLINE_S)
        whole.stop(node)
    row.recovery_s = time.monotonic() - began
    row.after = whole.replicas(MODEL)
    row.count(running.attempts(), service.events)
    assert row.failed == row.refused == 0
    assert row.requests > 500
    assert not set(row.before) & set(row.after)
    assert {address for address, _ in whole.replicas(ROUTER)}.isdisjoint(node.address for node in old)
    assert row.slowest_s < 15


def test_a_model_sleeps_without_a_node_and_is_woken(whole, service, load, row):
    row.before = whole.replicas(MODEL)
    whole.deploy(document(whole.release, replicas=0))
    row.facts["to_zero_s"] = whole.wait("no GPU node is left", lambda: is_asleep(whole), 120)
    began = time.monotonic()
    running = load(2, 30)
    row.recovery_s = whole.wait("a replica on a new node", lambda: whole.replicas(MODEL), START_S)
    row.after = whole.replicas(MODEL)
    row.count(running.attempts(), service.events)
    row.facts["back_to_zero_s"] = whole.wait("no GPU node is left again", lambda: is_asleep(whole), 120)
    assert time.monotonic() - began > row.recovery_s
    assert row.failed == row.refused == 0
    assert row.requests > 40
    assert row.slowest_s < START_S
    assert not {address for address, _ in row.before} & {address for address, _ in row.after}


def is_replaced(cluster, before) -> bool:
    after = cluster.replicas(MODEL)
    return len(after) == 2 and not set(before) & set(after) and cluster.applications()[MODEL]["status"] == "RUNNING"


def is_asleep(cluster) -> bool:
    return not cluster.replicas(MODEL) and not cluster.nodes("gpu")


def node_is_up(node) -> bool:
    return node.run(sys.executable, "-m", "medley.node.ready", "--without-proxy").returncode == 0
