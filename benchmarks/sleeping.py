"""A model that only sleeps: each request takes a slot and time, but no CPU. For autoscaling on small machines.

As a script it starts its own Ray, serves the model under a policy and writes the number of replicas twice a second:
`python -m benchmarks.sleeping PORT SETTINGS.json REPLICAS.jsonl`. It ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve

from benchmarks.vectors import vector_of
from deployments.router.admission import Admission, AdmissionRequest
from deployments.router.record import RequestRecord
from models.errors import TooBusy
from models.slo import Targets
from models.specs import ModelSpec

MODEL = "sleeping-embeddings"
front = FastAPI()


@serve.deployment
class Sleeper:
    def __init__(self, slots: int, service_s: float, start_s: float):
        time.sleep(start_s)  # like loading weights
        self.slots = asyncio.Semaphore(slots)
        self.draw = random.Random()
        self.service_s = self.measured = service_s

    async def work(self) -> None:
        async with self.slots:
            began = time.monotonic()
            await asyncio.sleep(self.draw.uniform(0.5, 1.5) * self.service_s)
        self.measured += 0.1 * (time.monotonic() - began - self.measured)

    def record_autoscaling_stats(self) -> dict[str, float]:
        return {"service_s": self.measured}


@serve.deployment
@serve.ingress(front)
class Front:
    """
    Args:
        limit_s: refuse requests that would take longer, like Medley's router. None accepts all.
    """

    def __init__(self, model: Any, limit_s: float | None):
        self.model = model
        promise = Targets(duration_s=limit_s, good=0.95, availability=0.99)
        self.admission = Admission({MODEL: promise} if limit_s else None)
        self.replicas = 1
        self.watching = asyncio.get_running_loop().create_task(self.watch())

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            with contextlib.suppress(KeyError):  # before Serve knows of it
                self.replicas = (await asyncio.to_thread(count_replicas))["RUNNING"]

    @front.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "task": "embeddings", "state": "ready"}]}

    @front.post("/v1/embeddings")
    async def embeddings(self, request: Request) -> JSONResponse:
        body, record = await request.json(), RequestRecord("")
        spec = cast(ModelSpec, SimpleNamespace(id=MODEL, task="embeddings"))
        try:
            record.model = MODEL
            with (
                self.admission.admit(spec, self.replicas, AdmissionRequest(), record),
                record.call(spec, "work") as call,
            ):
                await self.model.work.remote()
                call.engine_s = time.perf_counter() - call.called
        except TooBusy as error:
            headers = {"Retry-After": str(round(error.retry_after or 1))}
            return JSONResponse({"error": {"message": error.message, "code": error.code}}, 429, headers)
        data = [{"index": place, "embedding": vector_of(text)} for place, text in enumerate(body["input"])]
        return JSONResponse({"object": "list", "data": data})


def run(port: int, settings: dict[str, Any], watched: Path) -> None:
    ray.init("local", num_cpus=64, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    model = Sleeper.options(  # type: ignore[attr-defined]
        name="model",
        ray_actor_options={"num_cpus": 1},
        max_ongoing_requests=settings["max_ongoing_requests"],
        graceful_shutdown_timeout_s=60,
        autoscaling_config=settings["autoscaling_config"],
    ).bind(settings["slots"], settings["service_s"], settings["start_s"])
    application = Front.options(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10000).bind(
        model, settings["limit_s"]
    )  # type: ignore[attr-defined]
    serve.run(application, name="sleeping", route_prefix="/")
    print("ready", flush=True)
    with watched.open("w") as lines:
        while not stopped():
            states = count_replicas()
            lines.write(
                json.dumps({"at": time.time(), "running": states["RUNNING"], "all": sum(states.values())}) + "\n"
            )
            lines.flush()
    serve.shutdown()
    ray.shutdown()


def count_replicas() -> Counter[str]:
    """Replicas by state. Raises KeyError while Serve does not know the deployment yet."""
    deployment = serve.status().applications["sleeping"].deployments["model"]
    return Counter({str(getattr(state, "value", state)): count for state, count in deployment.replica_states.items()})


def stopped() -> bool:
    """Wait half a second for the end of the input. Returns whether it has ended."""
    import select

    ready, _, _ = select.select([sys.stdin], [], [], 0.5)
    return bool(ready) and not sys.stdin.readline()


if __name__ == "__main__":
    run(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
