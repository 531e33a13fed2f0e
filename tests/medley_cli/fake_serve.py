"""Serve's REST interface, Ray's cluster status and the router's /readyz, as one small server that plays a script."""

import contextlib
import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.settings import ModelArgs
from medley.checks.config import ClusterConfig, ServedModel

CHAT, EMBEDDINGS = "smollm2-135m-instruct", "all-minilm-l6-v2"
GIB = 1 << 30
NEEDS = {
    CHAT: {"CPU": 1, "GPU": 0, "memory": 4 * GIB},
    EMBEDDINGS: {"CPU": 0.25, "GPU": 0, "memory": GIB // 2},
    "router": {"CPU": 0.2, "memory": 400 << 20},
}
DOCUMENT = yaml.safe_load("""
proxy_location: HeadOnly
http_options: {host: 127.0.0.1, port: 8000}
controller_options: {runtime_env: {env_vars: {RAY_SERVE_ENABLE_HA_PROXY: "1"}}}
logging_config: {encoding: JSON, enable_access_log: false}
applications:
  - name: smollm2-135m-instruct
    route_prefix: null
    import_path: deployments.model:build
    args: {model: smollm2-135m-instruct, variant: vllm-cpu, release: "1"}
    deployments:
      - name: model
        max_ongoing_requests: 64
        max_queued_requests: 64
        backpressure_config: {status_code: 429, retry_after_s: 1}
        graceful_shutdown_timeout_s: 600
        autoscaling_config:
          min_replicas: 1
          max_replicas: 1
          policy:
            policy_function: deployments.autoscaling:ConcurrencyPolicy
            policy_kwargs: {target_ongoing_requests: 32}
  - name: all-minilm-l6-v2
    route_prefix: null
    import_path: deployments.model:build
    args: {model: all-minilm-l6-v2, variant: onnx, release: "1"}
    deployments:
      - name: model
        num_replicas: 1
        max_ongoing_requests: 64
        max_queued_requests: 64
        graceful_shutdown_timeout_s: 600
  - name: router
    route_prefix: /
    import_path: deployments.router.ingress:build
    args: {release: "1"}
    deployments:
      - {name: router, num_replicas: 1, max_ongoing_requests: 1000}
""")


def entry(document: dict[str, Any], app: str) -> dict[str, Any]:
    return next(one for one in document["applications"] if one["name"] == app)


def with_release(release: str, app: str = CHAT, document: dict[str, Any] = DOCUMENT) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    entry(changed, app)["args"]["release"] = release
    return changed


def config(document: dict[str, Any]) -> ClusterConfig:
    """A document as if it was read from a file, unchecked."""
    args = [ModelArgs(**one["args"]) for one in document["applications"] if "model" in one["args"]]
    models = [ServedModel(one.model, one.spec, one.variant_name) for one in args]
    return ClusterConfig(Path("serve_config.yaml"), document, models)


def answer(document: dict[str, Any] | None, replicas: str = "old") -> dict[str, Any]:
    """What Serve answers when all applications of a document run, one replica each, with ids that start as given."""
    if document is None:
        return {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
    schema = ServeDeploySchema.model_validate(copy.deepcopy(document))
    applications = {}
    for one in schema.applications:
        one.logging_config = one.logging_config or schema.logging_config
        deployment = "router" if one.name == "router" else "model"
        applications[one.name] = {
            "name": one.name,
            "status": "RUNNING",
            "message": "",
            "route_prefix": one.route_prefix,
            "source": "declarative",
            "deployed_app_config": json.loads(json.dumps(one.model_dump(mode="json", exclude_unset=True))),
            "deployments": {
                deployment: {
                    "name": deployment,
                    "status": "HEALTHY",
                    "status_trigger": "CONFIG_UPDATE_COMPLETED",
                    "message": "",
                    "target_num_replicas": 1,
                    "required_resources": NEEDS[one.name],
                    "deployment_config": {"rolling_update_percentage": 0.2, "health_check_period_s": 3.0},
                    "replicas": [replica(f"{replicas}-{one.name}")],
                }
            },
        }
    return {
        "controller_info": {"node_id": "one"},
        "proxy_location": schema.proxy_location,
        "http_options": schema.http_options.model_dump(),
        "grpc_options": schema.grpc_options.model_dump(),
        "applications": applications,
    }


def replica(name: str, state: str = "RUNNING") -> dict[str, Any]:
    return {"replica_id": name, "state": state, "pid": 1, "start_time_s": 1795245660.0}


def model(live: dict[str, Any], app: str = CHAT) -> dict[str, Any]:
    """The deployment of an application in an answer, to be changed in place."""
    return next(iter(live["applications"][app]["deployments"].values()))


def status_text(cpus: float, memory_gib: float = 20, gpus: float = 0) -> str:
    """Ray's cluster status with this much free of 8 CPUs, 4 GPUs, 32 GiB."""
    return (
        "Node status\n Active:\n 1 node_83a07a\n\nResources\n---------\nTotal Usage:\n"
        f" {8 - cpus}/8.0 CPU (1.0 used of 1.0 reserved in placement groups)\n {4 - gpus}/4.0 GPU\n"
        f" {32 - memory_gib:.2f}GiB/32.00GiB memory\n 664.25KiB/256.00MiB object_store_memory\n\n"
        "From request_resources:\n (none)\nPending Demands:\n (no resource demands)"
    )


class FakeServe:
    """
    Attributes:
        live: the answers to GET, one after another; the last one stays.
        after_put: the answers from the moment a document is PUT.
        readyz: the router's status and answer; None is ready, with the models there are.
        puts: the documents that were PUT.
        refusal: a text to refuse documents with.
    """

    def __init__(self, document: dict[str, Any] | None):
        self.live = [answer(document)]
        self.after_put: list[dict[str, Any]] = []
        self.readyz: tuple[int, dict[str, Any]] | None = None
        self.free = status_text(cpus=0.5)
        self.puts: list[dict[str, Any]] = []
        self.refusal = ""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.startswith("/readyz"):
                    names = fake.live[0]["applications"].keys() - {"router"}
                    ready = {"ready": True, "models": {name: {"state": "ready"} for name in names}}
                    self.reply(*(fake.readyz or (200, ready)))
                elif self.path.startswith("/api/cluster_status"):
                    self.reply(200, {"result": True, "data": {"clusterStatus": fake.free}})
                else:
                    self.reply(200, fake.live[0] if len(fake.live) == 1 else fake.live.pop(0))

            def do_PUT(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if fake.refusal:
                    return self.reply(400, {"error": fake.refusal})
                fake.puts.append(body)
                fake.live = list(fake.after_put) or [answer(body, f"new{len(fake.puts)}")]
                return self.reply(200, {})

            def reply(self, status: int, document: dict[str, Any]):
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()
