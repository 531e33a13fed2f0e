"""Models that share cores, with threads that spin or sleep while they wait: `python -m benchmarks.sharing`.

Torch and vLLM use OpenMP threads, which by default spin while they wait for each other. When two models share cores,
one spins on the core that the other needs. So `medley up` starts its processes with OMP_WAIT_POLICY=PASSIVE. This
benchmark starts the starter cluster in turns with both policies. It requests chats and pictures alone, and together
with embeddings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml

from benchmarks.starter import ROOT, starter

BIN = Path(sys.executable).parent
ADDRESS = "http://127.0.0.1:8000"
# GOMP_SPINCOUNT overrides OMP_WAIT_POLICY. This is GNU OpenMP's default if neither is set.
POLICIES = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {}}
CHAT = ("/v1/chat/completions", {"model": "smollm2-135m-instruct", "max_tokens": 64, "ignore_eos": True})
PICTURE = ("/v1/images/generations", {"model": "doodle", "prompt": "a red circle on a blue background"})
VECTORS = ("/v1/embeddings", {"model": "all-minilm-l6-v2"})

Request = tuple[str, dict[str, Any]]


def numbered(request: Request, number: int) -> Request:
    """All requests differ, so that none is answered from a cache."""
    path, body = request
    if request is CHAT:
        return path, {**body, "messages": [{"role": "user", "content": f"Tell me story {number}."}]}
    if request is VECTORS:
        return path, {**body, "input": [f"sentence {number} {part}" for part in range(8)]}
    return path, {**body, "seed": number}


async def closed_loop(http: httpx.AsyncClient, request: Request, clients: int, seconds: float) -> dict[str, float]:
    """The rate of requests that were begun within the time, until the last is answered; and their median seconds."""
    taken: list[float] = []
    began = time.monotonic()

    async def client(place: int) -> None:
        number = place * 100_000
        while time.monotonic() - began < seconds:
            path, body = numbered(request, number)
            started = time.monotonic()
            (await http.post(path, json=body)).raise_for_status()
            taken.append(time.monotonic() - started)
            number += 1

    await asyncio.gather(*(client(place) for place in range(clients)))
    return {"per_s": len(taken) / (time.monotonic() - began), "p50_s": median(taken)}


async def measured(seconds: float) -> dict[str, dict[str, float]]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=ADDRESS, timeout=600, trust_env=False, limits=limits) as http:
        for request in (CHAT, PICTURE, VECTORS):
            await closed_loop(http, request, 1, 1)
        found = {
            "chat alone, 16 clients": await closed_loop(http, CHAT, 16, seconds),
            "pictures alone, 4 clients": await closed_loop(http, PICTURE, 4, seconds),
        }
        together = await asyncio.gather(*(closed_loop(http, one, 4, seconds) for one in (CHAT, PICTURE, VECTORS)))
    names = ("chat", "pictures", "embeddings")
    return found | {f"{name} together, 4 clients each": one for name, one in zip(names, together, strict=True)}


def turn(config: Path, policy: str, seconds: float) -> dict[str, dict[str, float]]:
    env = {**os.environ, **POLICIES[policy]}
    subprocess.run([str(BIN / "medley"), "up", str(config)], env=env, check=True, stdout=subprocess.DEVNULL)
    try:
        return asyncio.run(measured(seconds))
    finally:
        subprocess.run([str(BIN / "medley"), "down"], check=True, stdout=subprocess.DEVNULL)


def everybody_is_let_in(folder: Path) -> Path:
    """The starter cluster without promises, because quick refusals would count as answers."""
    file = folder / "serve_config.yaml"
    file.write_text(yaml.safe_dump(starter(), sort_keys=False))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / f"benchmarks/results/{date.today()}-cpu2-sharing.json")
    options = parser.parse_args()
    turns: dict[str, list[dict[str, dict[str, float]]]] = {policy: [] for policy in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        config = everybody_is_let_in(Path(folder))
        for number in range(options.turns):
            for policy in sorted(POLICIES, reverse=bool(number % 2)):
                print(f"turn {number + 1} of {options.turns}: {policy}", flush=True)
                turns[policy].append(turn(config, policy, options.seconds))
    options.output.write_text(json.dumps({"date": str(date.today()), "cpus": os.cpu_count(), "turns": turns}, indent=1))
    for case in turns["spinning"][0]:
        rates = {policy: [one[case]["per_s"] for one in turns[policy]] for policy in POLICIES}
        ratio = median(rates["sleeping"]) / median(rates["spinning"])
        shown = {policy: " and ".join(f"{rate:.2f}" for rate in some) for policy, some in rates.items()}
        print(f"{case}: {shown['spinning']} a second spinning, {shown['sleeping']} sleeping: {ratio:.2f} times")
    print(options.output)


if __name__ == "__main__":
    main()
