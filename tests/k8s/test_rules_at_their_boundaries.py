"""Rules over objects that are right but for one thing: the last right value, and the first wrong one."""

import copy
from typing import Any

import pytest

from medley.k8s.operator_rules import INCREMENTAL, operator_problems
from medley.k8s.pod_security import pod_problems
from medley.k8s.scheduling import demand_of

OPTIONS = {"gatewayClassName": "istio", "stepSizePercent": 10, "intervalSeconds": 10, "maxSurgePercent": 100}
SERVICE: dict[str, Any] = {
    "kind": "RayService",
    "metadata": {"name": "medley"},
    "spec": {
        "upgradeStrategy": {"type": INCREMENTAL, "clusterUpgradeOptions": OPTIONS},
        "rayClusterConfig": {
            "rayVersion": "2.60.0",
            "enableInTreeAutoscaling": True,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"template": {"spec": {"containers": [{"name": "ray-head"}]}}},
        },
    },
}
CONTAINER: dict[str, Any] = {
    "name": "ray",
    "image": "medley:1",
    "resources": {"limits": {"memory": "1Gi"}},
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
}
OF_POD = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"stepSizePercent": 1}, True),
        ({"stepSizePercent": 0}, False),
        ({"stepSizePercent": 50, "maxSurgePercent": 50}, True),
        ({"stepSizePercent": 51, "maxSurgePercent": 50}, False),
        ({"maxSurgePercent": 101}, False),
        ({"intervalSeconds": 0}, False),
        ({"gatewayClassName": ""}, False),
    ],
)
def test_an_incremental_upgrade_takes_steps(changes, right):
    service = copy.deepcopy(SERVICE)
    service["spec"]["upgradeStrategy"]["clusterUpgradeOptions"] |= changes
    assert (not list(operator_problems(service))) is right


@pytest.mark.parametrize(("length", "right"), [(47, True), (48, False)])
def test_a_name_leaves_room_for_what_kuberay_adds(length, right):
    service = copy.deepcopy(SERVICE)
    service["metadata"]["name"] = "m" * length
    assert (not list(operator_problems(service))) is right


@pytest.mark.parametrize(
    ("of_pod", "of_container", "where"),
    [
        ({}, {}, None),
        ({"runAsUser": 0}, {}, "runAsUser"),
        ({"runAsUser": 0}, {"runAsUser": 1000}, None),
        ({}, {"runAsUser": 0}, "runAsUser"),
        ({"runAsNonRoot": False}, {}, "runAsNonRoot"),
        ({"runAsNonRoot": False}, {"runAsNonRoot": True}, None),
        ({}, {"runAsNonRoot": False}, "runAsNonRoot"),
        ({"seccompProfile": None}, {}, "seccompProfile"),
        ({"seccompProfile": None}, {"seccompProfile": {"type": "Localhost"}}, None),
    ],
)
def test_what_a_container_does_not_say_the_pod_says(of_pod, of_container, where):
    container = {**CONTAINER, "securityContext": CONTAINER["securityContext"] | of_container}
    spec = {
        "securityContext": OF_POD | of_pod,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    found = [finding.where.rpartition(".")[2] for finding in pod_problems("pod", {"spec": spec})]
    assert found == ([where] if where else [])


@pytest.mark.parametrize(
    ("args", "bundle"),
    [
        ({"model": "bge-m3"}, {"CPU": 2, "GPU": 0.25, "memory": 8 << 30}),
        ({"model": "all-minilm-l6-v2"}, {"CPU": 0.25, "memory": 512 << 20}),
    ],
)
def test_a_replica_demands_all_that_it_needs(args, bundle):
    """Or it would seem to fit where there is no GPU."""
    application = {"name": args["model"], "import_path": "deployments.model:build", "args": args}
    assert demand_of(application).bundles == (bundle,)
