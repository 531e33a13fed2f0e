"""One cluster of several nodes for the whole group, in namespaces: nothing else on the machine is touched."""

import json
import os
from pathlib import Path

import pytest
from kube_service import Service
from namespaces import Lan, missing
from ray_nodes import Cluster, Redis, document
from under_load import Load, Row


@pytest.fixture(scope="module")
def lan():
    if reason := missing():
        pytest.skip(f"the tests of nodes do not run: {reason}")
    lan = Lan()
    try:
        yield lan
    finally:
        lan.close()


@pytest.fixture(scope="module")
def redis(lan, tmp_path_factory):
    """None where redis-server is not installed."""
    if not Redis.available():
        yield None
        return
    redis = Redis(tmp_path_factory.mktemp("redis"))
    try:
        yield redis
    finally:
        redis.close()


@pytest.fixture(scope="module")
def cluster(lan, redis, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    cluster = Cluster(folder, redis.address if redis else None)
    try:
        cluster.deploy(document())
        yield cluster
    finally:
        cluster.close()
        assert not [name for name, machine in cluster.machines.items() if machine.alive]


@pytest.fixture(scope="module")
def service(cluster):
    service = Service(cluster.workers)
    try:
        yield service
    finally:
        service.close()


@pytest.fixture
def whole(cluster, service):
    """The cluster as it is before each test: two replicas, two routers, and every node of theirs takes requests."""
    cluster.deploy(document(cluster.release))
    cluster.wait_until_whole(lambda: service.ready)
    service.events.clear()
    return cluster


@pytest.fixture
def load(service, tmp_path):
    """Starts load tests; what still runs at the end is ended."""
    started = []

    def start(rate: float, seconds: float) -> Load:
        started.append(Load(tmp_path, service, rate, seconds))
        started[-1].wait_until_under_way()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def table():
    """Rows of the table; written at the end to the file that the environment names, also when a test failed."""
    rows: list[Row] = []
    yield rows
    if name := os.environ.get("MEDLEY_FAILURES_TABLE"):
        Path(name).write_text(json.dumps([row.document() for row in rows], indent=1) + "\n")


@pytest.fixture
def row(request, table):
    """What the test finds out."""
    found = Row(request.node.name.removeprefix("test_").replace("_", " "))
    table.append(found)
    yield found
    print(f"\n{json.dumps(found.document(), indent=1)}")
