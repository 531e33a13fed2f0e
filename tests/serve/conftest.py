"""One real cluster for the whole group: started and stopped by the command line, as a user does it."""

import copy
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import yaml

from medley import cluster as local

ROOT = Path(__file__).parents[2]
MEDLEY = [str(Path(sys.executable).parent / "medley")]
CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.serve)
            item.add_marker(pytest.mark.timeout(600))


@dataclass
class Cluster:
    """The running cluster, and the document it was started with."""

    address: str
    document: dict[str, Any]
    folder: Path
    started_in_s: dict[str, float] = field(default_factory=dict)

    def deploy(self, document: dict[str, Any]) -> None:
        """Bring the cluster to another document and wait until it is ready."""
        config = self.folder / "changed.yaml"
        config.write_text(yaml.safe_dump(document, sort_keys=False))
        run([*MEDLEY, "deploy", str(config)])

    def without(self, app: str) -> dict[str, Any]:
        document = copy.deepcopy(self.document)
        document["applications"] = [entry for entry in document["applications"] if entry["name"] != app]
        return document

    def with_variant(self, app: str, variant: str) -> dict[str, Any]:
        document = copy.deepcopy(self.document)
        for entry in document["applications"]:
            if entry["name"] == app:
                entry["args"]["variant"] = variant
        return document

    def pids(self) -> dict[str, list[int]]:
        return local.pids_by_application()

    def replica(self, app: str) -> psutil.Process:
        (pid,) = self.pids()[app]
        return psutil.Process(pid)


def run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    assert not local.processes(), "a cluster is running already: `make stop` ends it"
    folder = tmp_path_factory.mktemp("cluster")
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))
    try:
        print(run([*MEDLEY, "up", str(config)]))
        yield Cluster("http://127.0.0.1:8000", document, folder)
    finally:
        run([*MEDLEY, "down"])
        assert not local.processes()


@pytest.fixture
def client(cluster):
    return openai.OpenAI(base_url=f"{cluster.address}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture
def http(cluster):
    with httpx.Client(base_url=cluster.address, timeout=120, trust_env=False) as session:
        yield session
