"""The CPU cost of metrics, logs and traces per embedding request: `python -m benchmarks.observability`.

One cluster runs only the embedding model. Every setting takes a turn in every round, so that disturbances of the
machine affect all of them. Traces are on when the client asks for them (a sampled traceparent), and go to a sink.
Written to benchmarks/results/<date>-cpu<N>-observability.json. About ten minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import aiohttp
import yaml

from benchmarks import load
from benchmarks.run import EMBEDDINGS, MEDLEY, cpu_by_role, running
from benchmarks.starter import ROOT, starter

COMMAND = str(Path(sys.executable).parent / "medley")
SINK = "http://127.0.0.1:8125"
ROUNDS, REQUESTS, CLIENTS = 3, 1200, 8

# Arguments of the router and the model, and whether requests are traced.
SETTINGS = {
    "all off": ({"metrics": False, "access_log": False}, False),
    "metrics": ({"metrics": True, "access_log": False}, False),
    "logs": ({"metrics": False, "access_log": True}, False),
    "traces": ({"metrics": False, "access_log": False}, True),
    "metrics and logs (default)": ({"metrics": True, "access_log": True}, False),
    "all on": ({"metrics": True, "access_log": True}, True),
}


def document_with(args: dict[str, bool]) -> dict:
    document = starter(EMBEDDINGS)
    for application in document["applications"]:
        application["args"] |= args
    return document


def traced(send):
    """The same request, in a trace of its own."""

    async def send_traced(session: aiohttp.ClientSession, number: int) -> load.Sample:
        session.headers["traceparent"] = f"00-{number + 1:032x}-{number + 1:016x}-01"
        return await send(session, number)

    return send_traced


def measure(tracing: bool) -> dict[str, float]:
    """CPU milliseconds per request by role, and requests per second."""
    send = load.embedding(MEDLEY, EMBEDDINGS)
    send = traced(send) if tracing else send
    asyncio.run(load.run_clients(CLIENTS, 300, send))
    before, started = cpu_by_role(), time.monotonic()
    result = asyncio.run(load.run_clients(CLIENTS, REQUESTS, send))
    time.sleep(1)  # what is written behind
    after, seconds = cpu_by_role(), time.monotonic() - started
    time.sleep(seconds)
    idle = cpu_by_role()
    assert not result.failures
    used = {role: (2 * after[role] - before.get(role, 0) - idle.get(role, 0)) / REQUESTS * 1000 for role in after}
    return {**{role: round(value, 4) for role, value in used.items()}, "per_s": round(result.rate(), 1)}


def main() -> None:
    tracing = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": SINK,
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    sink = [sys.executable, "-m", "uvicorn", "benchmarks.sink:app", "--port", "8125", "--log-level", "critical"]
    with tempfile.TemporaryDirectory() as folder, running(sink, SINK, dict(os.environ)):
        config = Path(folder) / "observability.yaml"
        config.write_text(yaml.safe_dump(document_with(SETTINGS["all off"][0]), sort_keys=False))
        try:
            up = [COMMAND, "up", str(config), "--cpus", "4"]
            subprocess.run(up, check=True, env={**os.environ, **tracing}, stdout=subprocess.DEVNULL)
            for number in range(ROUNDS):
                for name, (args, traces) in SETTINGS.items():
                    config.write_text(yaml.safe_dump(document_with(args), sort_keys=False))
                    subprocess.run([COMMAND, "deploy", "--yes", str(config)], check=True, stdout=subprocess.DEVNULL)
                    rounds[name].append(measure(traces))
                    print(f"round {number + 1}, {name}: {rounds[name][-1]}")
        finally:
            subprocess.run([COMMAND, "down"], check=True, stdout=subprocess.DEVNULL)
    write(rounds)


def write(rounds: dict[str, list[dict[str, float]]]) -> None:
    """Medians over the rounds, as JSON and as a table on the screen."""
    medians = {
        name: {role: round(median(one.get(role, 0.0) for one in ones), 3) for role in ones[0]}
        for name, ones in rounds.items()
    }
    report = {
        "date": str(date.today()),
        "machine": f"{os.cpu_count()} CPUs, {platform.platform()}",
        "requests": REQUESTS,
        "clients": CLIENTS,
        "cpu_ms_per_request": medians,
        "rounds": rounds,
    }
    file = ROOT / "benchmarks" / "results" / f"{report['date']}-cpu{os.cpu_count()}-observability.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    for name, values in medians.items():
        total = sum(value for role, value in values.items() if role != "per_s")
        print(f"{name:28} total {total:.2f} ms  {values}")


if __name__ == "__main__":
    main()
