"""A model that only sleeps, behind our router on a Ray of its own: `python -m benchmarks.sleeping SETTINGS.json SEEN`.

Everything but the engine is as on any cluster: the router with its admission, the server with its batches, the policy.
The engine takes time for each word, but no CPU, so a machine of two cores can run many replicas. Ray's CPUs are made
up.

Twice a second it writes what Serve and the router say to SEEN, as lines of JSON. It ends when its standard input ends.
"""

from __future__ import annotations

import json
import logging
import select
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from deployments.autoscaling import GuardedPolicy

MODEL = "sleeping-embeddings"
LOOK_S = 0.5
PATIENCE_S = 120


class Timetable(GuardedPolicy):
    """What somebody orders who knows the load beforehand.

    Args:
        file: with [[Unix time, replicas], ...], ascending; while it is not there, `first` replicas.
    """

    def __init__(self, file: str, first: int):
        self.file = file
        self.first = first

    def desired(self, ctx: Any, state: dict[str, Any]) -> float:
        import json
        from pathlib import Path

        file = Path(self.file)
        orders = json.loads(file.read_text()) if file.exists() else []
        due = [replicas for at, replicas in orders if at <= ctx.current_time]
        return due[-1] if due else self.first


def run(settings: dict[str, Any], seen: Path) -> None:
    ray.init(
        "local",
        num_cpus=settings["cpus"],
        _memory=64 << 30,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": settings["port"]})
    client = _get_global_client()
    assert client
    client.deploy_apps(ServeDeploySchema.model_validate(settings["document"]))
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    ready, deadline = False, time.monotonic() + PATIENCE_S
    with seen.open("w") as lines:
        while not ended():
            now = look(controller, settings["port"])
            lines.write(json.dumps(now) + "\n")
            lines.flush()
            if not ready and now["status"] == 200:
                ready = True
                print("ready", flush=True)
            if not ready and time.monotonic() > deadline:
                raise SystemExit(f"the model did not start: {now}")
    serve.shutdown()
    ray.shutdown()


def look(controller: Any, port: int) -> dict[str, Any]:
    """The model's replicas by Serve, and what /readyz says of it."""
    details: Any = ray.get(controller.get_serve_instance_details.remote())
    deployment = details["applications"].get(MODEL, {}).get("deployments", {}).get("model", {})
    told = [{key: one.get(key) for key in KEPT} for one in deployment.get("replicas", [])]
    status, document = readyz(port)
    model = document.get("models", {}).get(MODEL, {})
    return {
        "at": time.time(),
        "target": deployment.get("target_num_replicas"),
        "replicas": told,
        "status": status,
        "state": model.get("state"),
        "scaling": model.get("scaling", {}),
    }


KEPT = ("replica_id", "state", "pid", "start_time_s")


def readyz(port: int) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            return error.code, json.load(error)
        except ValueError:
            return error.code, {}
    except OSError:
        return 0, {}


def ended() -> bool:
    """Wait a moment for the end of the input. Whether it has ended."""
    readable, _, _ = select.select([sys.stdin], [], [], LOOK_S)
    return bool(readable) and not sys.stdin.readline()


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
