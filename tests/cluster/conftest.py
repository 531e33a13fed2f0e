"""The one real cluster of every commit: the starter models, started and ended by the command line, as a user does it.

Its tests run in the order in which they are written, alone on the machine."""

from pathlib import Path

import httpx
import openai
import pytest
from local_cluster import REQUEST_S, running, starter
from patience import patience


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(1800))  # a start on a slow machine; each wait has its own patience


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    # Ray publishes metrics every ten seconds; a test need not wait so long.
    with running(starter("cpu-ci"), tmp_path_factory.mktemp("cluster"), RAY_metrics_report_interval_ms="1000") as one:
        yield one


@pytest.fixture
def client(cluster):
    return openai.OpenAI(base_url=f"{cluster.address}/v1", api_key="none", max_retries=0, timeout=patience(REQUEST_S))


@pytest.fixture
def http(cluster):
    with httpx.Client(base_url=cluster.address, timeout=patience(REQUEST_S), trust_env=False) as session:
        yield session
