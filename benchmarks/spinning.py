"""A server whose requests each take a fixed CPU time: `python -m benchmarks.spinning PORT MILLISECONDS`."""

from __future__ import annotations

import sys
import time
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.vectors import vector_of


def application(work_s: float) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "spinning-embeddings", "task": "embeddings", "state": "ready"}]}

    @app.post("/v1/embeddings")
    async def embeddings(body: dict[str, Any]) -> dict[str, Any]:
        end = time.thread_time() + work_s
        while time.thread_time() < end:
            pass
        return {"data": [{"index": place, "embedding": vector_of(text)} for place, text in enumerate(body["input"])]}

    return app


if __name__ == "__main__":
    uvicorn.run(application(float(sys.argv[2]) / 1000), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
