"""Pictures per second of Medley and of a naive server, on the same model, in one run: `python -m benchmarks.images`.

The naive server (benchmarks/naive_images.py) is FastAPI around one diffusers pipeline, called inside the handler. Both
make the same pictures: same weights, size, steps, guidance and seeds. Both run at the same time and take turns, each
with 1, 4 and 16 clients, so that disturbances of the machine affect both.

Then the Server-Timing header shows where a picture's time goes in Medley: router, queue or engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml

from benchmarks.run import running
from benchmarks.starter import ROOT, starter
from models.catalog import load_catalog
from models.tasks.images import TASK
from models.weights import locate

MEDLEY, NAIVE = "http://127.0.0.1:8000", "http://127.0.0.1:8125"
MODEL = "doodle"
CLIENTS = (1, 4, 16)


def medley_request(seed: int) -> tuple[str, dict[str, Any]]:
    body = {"model": MODEL, "prompt": "a red circle on a blue background", "seed": seed}
    return f"{MEDLEY}/v1/images/generations", body


def naive_request(seed: int) -> tuple[str, dict[str, Any]]:
    settings = TASK.settings_of(load_catalog()[MODEL])
    body = {
        "prompt": "a red circle on a blue background",
        "seed": seed,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "side": settings.width,
    }
    return f"{NAIVE}/generate", body


async def pictures_a_second(make_request: Any, clients: int, seconds: float) -> tuple[float, list[dict[str, float]]]:
    """Run a closed loop of `clients`. Counts pictures that were requested and finished within the time."""
    timings: list[dict[str, float]] = []
    finished = 0

    async def client(number: int, http: httpx.AsyncClient) -> None:
        nonlocal finished
        seed = number * 1000
        while time.monotonic() < end:
            url, body = make_request(seed)
            response = await http.post(url, json=body)
            response.raise_for_status()
            finished += 1
            seed += 1
            if "server-timing" in response.headers:
                timings.append(parts_of(response.headers["server-timing"]))

    async with httpx.AsyncClient(timeout=600, trust_env=False, limits=httpx.Limits(max_connections=64)) as http:
        started = time.monotonic()
        end = started + seconds
        await asyncio.gather(*(client(number, http) for number in range(clients)))
        # The time ends when the last picture that was begun within it is finished.
        return finished / (time.monotonic() - started), timings


def parts_of(header: str) -> dict[str, float]:
    """`router;dur=1.2, engine;dur=3` as milliseconds by name."""
    parts = (part.strip().split(";dur=") for part in header.split(","))
    return {part[0]: float(part[1]) for part in parts if len(part) == 2}


async def compare(rounds: int, seconds: float) -> dict[str, Any]:
    rates: dict[str, dict[int, list[float]]] = {
        "medley": {count: [] for count in CLIENTS},
        "naive": {count: [] for count in CLIENTS},
    }
    timings: dict[int, list[dict[str, float]]] = {count: [] for count in CLIENTS}
    for number in range(rounds):
        for count in CLIENTS:
            sides = [("medley", medley_request), ("naive", naive_request)]
            for name, make_request in sides if number % 2 == 0 else reversed(sides):
                rate, parts = await pictures_a_second(make_request, count, seconds)
                rates[name][count].append(rate)
                timings[count] += parts
                print(f"round {number + 1}: {name} with {count} clients: {rate:.2f} pictures/s", flush=True)
    return {
        "pictures_per_second": rates,
        "ratio": {
            count: median(
                ours / theirs for ours, theirs in zip(rates["medley"][count], rates["naive"][count], strict=True)
            )
            for count in CLIENTS
        },
        "milliseconds_of_a_picture": {
            count: {name: round(median(part[name] for part in timings[count]), 2) for name in timings[count][0]}
            for count in CLIENTS
            if timings[count]
        },
    }


def encoding_milliseconds() -> dict[str, float]:
    """The time to write one picture to a file, including metadata."""
    import numpy as np

    from models.media.encoding import GENERATED, encode_image
    from models.media.formats import Output

    chance = np.random.default_rng(0)
    smooth = np.kron(chance.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    result = {}
    for side in (64, 512, 1024):
        pixels = np.tile(smooth, (side // 64, side // 64, 1))
        for kind in ("png", "jpeg", "webp"):
            times = []
            for _ in range(7):
                started = time.perf_counter()
                encode_image(pixels, Output(kind), {"model": MODEL}, digital_source=GENERATED)  # type: ignore[arg-type]
                times.append((time.perf_counter() - started) * 1000)
            result[f"{kind} {side}x{side}"] = round(median(times), 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of one measurement")
    parser.add_argument("--host", default="cpu2", help="name of the machine in the result's file name")
    arguments = parser.parse_args()
    config = ROOT / "bench-images.yaml"
    config.write_text(yaml.safe_dump(starter(MODEL), sort_keys=False))
    medley = str(Path(sys.executable).parent / "medley")
    spec = load_catalog()[MODEL]
    environment = {**os.environ, "MODEL_FOLDER": str(locate(spec, spec.variant(None)))}
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "benchmarks.naive_images:app",
        "--port",
        "8125",
        "--log-level",
        "warning",
    ]
    try:
        subprocess.run([medley, "up", str(config)], cwd=ROOT, check=True)
        with running(command, f"{NAIVE}/healthz", environment):
            result = asyncio.run(compare(arguments.rounds, arguments.seconds))
    finally:
        subprocess.run([medley, "down"], cwd=ROOT, check=False)
        config.unlink(missing_ok=True)
    result |= {"date": str(date.today()), "host": arguments.host, "encoding_ms": encoding_milliseconds()}
    target = ROOT / "benchmarks" / "results" / f"{date.today()}-{arguments.host}-images.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("ratio", "milliseconds_of_a_picture", "encoding_ms")}, indent=1))
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
