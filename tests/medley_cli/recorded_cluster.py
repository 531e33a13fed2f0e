"""A cluster as it was recorded when all was well, to be made ill in a test, behind a client without sockets."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
from httpx import Client  # also when a test replaces httpx.Client

from medley.look.live import Live, look

SAMPLES = Path(__file__).parent / "samples"
CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
TRACEBACK = """The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or \
initial health check failing. See controller logs for details. Error:
ray::ServeReplica:smollm2-135m-instruct:model.initialize_and_get_metadata()
  File "models/engines/chat_vllm.py", line 31, in load
    raise MemoryError("cannot allocate 4 GiB")
MemoryError: cannot allocate 4 GiB
"""


def sample(name: str) -> dict[str, Any]:
    return json.loads((SAMPLES / name).read_text())


class RecordedCluster:
    """
    Attributes:
        now: the time, which stands still.
        down: of "serve", "router", "edge", "ray" and "nodes", those that do not answer. "edge" is HAProxy alone.
        metrics: Prometheus' text by target.
        answer: status, headers and body of every request to a model.
        asked: bodies of the requests to models.
    """

    def __init__(self):
        self.serve = sample("serve_applications.json")
        self.ready = sample("readyz.json")
        self.cluster_status = sample("cluster_status.json")
        self.nodes = sample("nodes.json")
        self.now = 1795250000.0
        self.down: set[str] = set()
        self.metrics: dict[str, str] = {}
        self.answer: tuple[int, dict[str, str], dict[str, Any]] = (200, {}, {"choices": []})
        self.asked: list[dict[str, Any]] = []

    def client(self, **_: Any) -> httpx.Client:
        return Client(base_url="http://127.0.0.1:8265", transport=httpx.MockTransport(self._reply))

    def live(self) -> Live:
        with self.client() as client:
            return dataclasses.replace(look(client, client), now=self.now)

    def application(self, app: str = CHAT) -> dict[str, Any]:
        return self.serve["applications"][app]

    def model(self, app: str = CHAT) -> dict[str, Any]:
        return self.application(app)["deployments"]["model"]

    def replica(self, app: str = CHAT) -> dict[str, Any]:
        return self.model(app)["replicas"][0]

    def free(self, cpus: float, memory_gib: float) -> None:
        """So much of 2 CPUs and 8 GiB is not reserved by anybody."""
        self.cluster_status["data"]["clusterStatus"] = (
            f"Resources\nTotal Usage:\n {2 - cpus}/2.0 CPU\n {8 - memory_gib}GiB/8.00GiB memory\n\nPending Demands:\n"
        )

    def loads(self, phase: str | None = "load", since: float = 0, app: str = CHAT, **more: Any) -> None:
        """Its only replica is starting."""
        self.application(app)["status"] = "DEPLOYING"
        self.model(app)["status"] = "UPDATING"
        self.replica(app)["state"] = "STARTING"
        told = {"state": "loading", "variant": "vllm-cpu", "release": "1", "replicas": 0, "retry_after_s": 10.0}
        self.ready = {"ready": False, "models": {**self.ready["models"], app: {**told, **more}}}
        if phase:
            self.ready["models"][app] |= {"phase": phase, "since": since}

    def waits_for_room(self, app: str = CHAT) -> None:
        self.loads("schedule", app=app)
        self.replica(app)["pid"] = None

    def failed(self, app: str = CHAT, cause: str = "There was not enough memory.", remedy: str = "Free some.") -> None:
        """Its replica could not start three times, so that Serve does not try again."""
        self.application(app)["status"] = "DEPLOY_FAILED"
        self.model(app).update(status="DEPLOY_FAILED", message=TRACEBACK, replicas=[])
        told = {"state": "failed", "variant": "vllm-cpu", "release": "1", "replicas": 0, "cause": cause}
        self.ready = {"ready": False, "models": {**self.ready["models"], app: {**told, "remedy": remedy}}}

    def not_built(self, app: str = CHAT) -> None:
        message = "Deploying app failed with exception:\nTraceback ...\nModuleNotFoundError: No module named 'x'\n"
        self.application(app).update(status="DEPLOY_FAILED", message=message, deployments={})

    def add_replica(self, app: str = CHAT, **fields: Any) -> dict[str, Any]:
        added = copy.deepcopy(self.replica(app)) | {"replica_id": "newone"} | fields
        self.model(app)["replicas"].append(added)
        return added

    def _reply(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/metrics":
            text = self.metrics.get(f"{request.url.host}:{request.url.port}")
            return httpx.Response(200, text=text) if text is not None else self._refuse("metrics", request)
        routes = {
            "/api/serve/applications/": ("serve", self.serve),
            "/api/cluster_status": ("ray", self.cluster_status),
            "/nodes": ("nodes", self.nodes),
            "/readyz": ("router", self.ready),
        }
        if path in routes:
            who, document = routes[path]
            status = 503 if who == "router" and not self.ready["ready"] else 200
            down = who in self.down or (who == "router" and "edge" in self.down and request.url.port == 8000)
            return self._refuse(who, request) if down else httpx.Response(status, json=document)
        if "router" in self.down:
            return self._refuse("router", request)
        self.asked.append(json.loads(request.content))
        status, headers, body = self.answer
        return httpx.Response(status, headers=headers, json=body)

    def _refuse(self, who: str, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"{who} is down", request=request)
