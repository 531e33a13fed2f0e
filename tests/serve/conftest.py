"""One real cluster for the whole group, with the starter models, other variants of them and fakes: asked, deployed,
scaled, broken and watched at length, where the cluster of every commit (tests/cluster) tries each once."""

import copy
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from patience import patience

sys.path.append(str(Path(__file__).parents[1] / "cluster"))  # what starts a cluster, and clients of it

from fake_models import with_fakes, write_catalog, write_promises
from local_cluster import CHAT, COMMAND_S, EMBEDDINGS, MEDLEY, REQUEST_S, Cluster, application, end, run, starter
from otlp_collector import Collector

from medley.local import cluster as local
from models import weights

# Served beside the starter models, from sleep.
VARIANTS = (
    "doodle-turbo@onnx-int8",
    "realesr-animevideov3@onnx-int8",
    "magenta-styles@onnx-fused",
    f"{EMBEDDINGS}@onnx-int8",
)
# By Ray's count, which is only of its books: two versions of a model and all its variants fit beside each other.
CPUS = 4


def pytest_collection_modifyitems(items):
    """In the order in which they are written: the cluster is shared, and what takes long to recover from comes last."""
    places = [place for place, item in enumerate(items) if Path(__file__).parent in item.path.parents]
    mine = sorted((items[place] for place in places), key=lambda item: (item.path.name, item.reportinfo()[1]))
    for place, item in zip(places, mine, strict=True):
        item.add_marker(pytest.mark.serve)
        item.add_marker(pytest.mark.timeout(1800))  # of all waits together; each has its own patience
        items[place] = item


def served(folder: Path) -> dict[str, Any]:
    """The document that all tests begin with."""
    document = with_fakes(starter("tests"))
    application(document, "router")["args"] |= {"slo": str(write_promises(folder))}
    # Chat in 8 bits: as good for what is tested here, and the starter's own form is what tests/cluster asks.
    application(document, CHAT)["args"] |= {"variant": "vllm-cpu-int8"}
    embeddings = application(document, EMBEDDINGS)["deployments"][0]
    # While another replica starts, two busy cores answer slowly: what comes meanwhile can wait. And one replica, or its
    # process id would say nothing.
    embeddings["max_queued_requests"] = 2000
    embeddings["autoscaling_config"]["max_replicas"] = 1
    for name in VARIANTS:
        beside = copy.deepcopy(application(document, name.partition("@")[0]))
        beside |= {"name": name, "args": {"model": name, "release": "1"}}
        beside["deployments"][0]["autoscaling_config"] |= {"min_replicas": 0, "max_replicas": 1}
        document["applications"].insert(-1, beside)
    return document


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """The cluster, with a home of its own, so that the history of who runs the tests is left alone. Weights are his:
    those that are made here are not made again."""
    assert not local.processes(), "a cluster is running already: `make stop` ends it"
    home, models = weights.home() / "serve-tests", weights.home() / "models"
    models.mkdir(parents=True, exist_ok=True)
    collector = Collector()
    with pytest.MonkeyPatch.context() as patch:  # for every command, not just the one that starts it
        patch.setenv("MEDLEY_HOME", str(home))
        run([*MEDLEY, "down"])  # what a run that was killed has left
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (home / "models").symlink_to(models)
        patch.setenv("MEDLEY_CATALOG", str(write_catalog(folder)))
        document = served(folder)
        config = folder / "serve_config.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        # Ray publishes metrics every ten seconds; a test need not wait so long.
        environment = collector.environment | {"RAY_metrics_report_interval_ms": "1000"}
        words = [*MEDLEY, "up", str(config), "--cpus", str(CPUS), "--patience", f"{patience(COMMAND_S):.0f}"]
        try:
            print(run(words, env={**os.environ, **environment}))
            yield Cluster("http://127.0.0.1:8000", document, folder, collector)
        finally:
            try:
                end()
            finally:
                collector.close()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    with running(tmp_path_factory.mktemp("serve")) as one:
        yield one


@pytest.fixture
def client(cluster):
    return openai.OpenAI(base_url=f"{cluster.address}/v1", api_key="none", max_retries=0, timeout=patience(REQUEST_S))


@pytest.fixture
def http(cluster):
    with httpx.Client(base_url=cluster.address, timeout=patience(REQUEST_S), trust_env=False) as session:
        yield session
