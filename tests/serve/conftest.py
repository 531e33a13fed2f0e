"""One real cluster for the whole group: started and stopped by the command line, as a user does it."""

import os
from pathlib import Path

import httpx
import openai
import pytest
import yaml
from otlp_collector import Collector
from starter_cluster import MEDLEY, ROOT, Cluster, run

from medley import cluster as local


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.serve)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    assert not local.processes(), "a cluster is running already: `make stop` ends it"
    folder = tmp_path_factory.mktemp("cluster")
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    collector = Collector()
    # Only requests are traced whose client asks for it.
    tracing = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    try:
        print(run([*MEDLEY, "up", str(config)], env={**os.environ, **tracing}))
        yield Cluster("http://127.0.0.1:8000", document, folder, collector)
    finally:
        run([*MEDLEY, "down"])
        collector.close()
        assert not local.processes()


@pytest.fixture
def client(cluster):
    return openai.OpenAI(base_url=f"{cluster.address}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def http(cluster):
    with httpx.Client(base_url=cluster.address, timeout=120, trust_env=False) as session:
        yield session
