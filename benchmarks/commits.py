"""This tree beside an earlier commit, in one cluster: `python -m benchmarks.commits COMMIT` (about ten minutes).

Both versions of the router and of three models run at the same time, each from its own code, and take turns, so that
what else the machine does falls on both. The models of the earlier commit are called MODEL@VARIANT. It measures the
router's CPU for an embedding, tokens a second with 8 streams, and pictures a second with 4 clients. A ratio is today's
figure by the earlier one, the median over the rounds. Written to benchmarks/results/<date>-cpu<cores>-commits.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import yaml

from benchmarks import load
from benchmarks.images import pictures_a_second
from benchmarks.run import TOKENS, measure, wait_until_answered
from benchmarks.starter import ROOT, starter
from medley.local import cluster
from medley.local.home import client_environment
from medley.local.preflight import DASHBOARD_PORT

NOW, BEFORE = "http://127.0.0.1:8000", "http://127.0.0.1:8000/before"
CHAT, EMBEDDINGS, PICTURES = "smollm2-135m-instruct", "all-minilm-l6-v2", "doodle"
CLIENTS_OF_PICTURES = 4

Versions = dict[str, float]


def document_of_both(earlier: Path) -> dict[str, Any]:
    """The starter cluster with three models and the router, each twice, without promises."""
    document = starter(CHAT, EMBEDDINGS, PICTURES)
    for application in copy.deepcopy(document["applications"]):
        application["runtime_env"] = {"env_vars": {"PYTHONPATH": str(earlier)}}
        if application["name"] == "router":
            application |= {"name": "router-before", "route_prefix": "/before"}
        else:
            name = f"{application['name']}@{application['args']['variant']}"
            application |= {"name": name, "args": {**application["args"], "model": name}}
        document["applications"].append(application)
    return document


@contextlib.contextmanager
def both_versions(commit: str) -> Iterator[dict[str, str]]:
    """A cluster with both. Yields the names of the earlier models by those of today's."""
    with tempfile.TemporaryDirectory() as folder:
        earlier, config = Path(folder) / "earlier", Path(folder) / "both.yaml"
        subprocess.run(["git", "worktree", "add", "--detach", earlier, commit], cwd=ROOT, check=True)
        medley, serve = (str(Path(sys.executable).with_name(name)) for name in ("medley", "serve"))
        document = document_of_both(earlier)
        alone = {**document, "applications": [one for one in document["applications"] if "runtime_env" not in one]}
        try:
            config.write_text(yaml.safe_dump(alone, sort_keys=False))
            subprocess.run([medley, "up", str(config), "--cpus", "8"], cwd=ROOT, check=True)
            config.write_text(yaml.safe_dump(document, sort_keys=False))
            # Ray's own command: ours deploys nothing but this version's applications.
            environment = {**os.environ, **client_environment(DASHBOARD_PORT)}
            subprocess.run([serve, "deploy", str(config)], cwd=ROOT, check=True, env=environment)
            wait_until_answered(f"{BEFORE}/readyz")
            variants = {one["name"]: one["args"].get("variant") for one in alone["applications"]}
            yield {name: f"{name}@{variants[name]}" for name in (CHAT, EMBEDDINGS, PICTURES)}
        finally:
            subprocess.run([medley, "down"], cwd=ROOT, check=True)
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT, check=False)


def in_turns(rounds: int, measured: Callable[[str], float]) -> dict[str, Any]:
    """A figure of both versions, round by round, each version first in every other round."""
    found: dict[str, list[float]] = {"now": [], "before": []}
    for number in range(rounds):
        for version in ("now", "before") if number % 2 else ("before", "now"):
            found[version].append(measured(version))
        print(f"  round {number + 1}: now {found['now'][-1]:.4g}, before {found['before'][-1]:.4g}", flush=True)
    ratios = [now / before for now, before in zip(found["now"], found["before"], strict=True)]
    return {
        **{name: [round(value, 4) for value in values] for name, values in found.items()},
        "ratio": round(median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def cpu_of(application: str) -> float:
    """CPU seconds that an application's replicas have used."""
    seconds = 0.0
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            if f"ServeReplica:{application}:" in " ".join(process.cmdline()):
                times = process.cpu_times()
                seconds += times.user + times.system
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("commit")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--only", default="", help="figures whose name begins so; the result is printed, not written")
    given = options.parse_args()
    with both_versions(given.commit) as names:
        addresses = {"now": NOW, "before": BEFORE}
        models = {"now": {name: name for name in names}, "before": names}
        routers = {"now": "router", "before": "router-before"}

        def router_ms(version: str) -> float:
            send, requests = load.embedding(addresses[version], models[version][EMBEDDINGS]), 1000
            used = cpu_of(routers[version])
            measure(8, requests, send)
            return (cpu_of(routers[version]) - used) / requests * 1000

        def tokens_a_second(version: str) -> float:
            return measure(8, 24, load.chat_stream(addresses[version], models[version][CHAT], TOKENS)).rate()

        def pictures(version: str) -> float:
            def request(seed: int) -> tuple[str, dict[str, Any]]:
                body = {"model": models[version][PICTURES], "prompt": "a red circle on a blue background", "seed": seed}
                return f"{addresses[version]}/v1/images/generations", body

            return asyncio.run(pictures_a_second(request, CLIENTS_OF_PICTURES, 8))[0]

        report: dict[str, Any] = {"commit_before": given.commit, "date": date.today().isoformat()}
        for name, measured in {
            "router_cpu_ms_per_embedding": router_ms,
            "tokens_per_s_at_8": tokens_a_second,
            "pictures_per_s_at_4": pictures,
        }.items():
            if not name.startswith(given.only):
                continue
            print(name, flush=True)
            measured("now"), measured("before")  # to warm up
            report[name] = in_turns(given.rounds, measured)
    print(json.dumps(report, indent=1))
    if not given.only:
        file = ROOT / "benchmarks" / "results" / f"{date.today()}-cpu{os.cpu_count()}-commits.json"
        file.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written to {file}")


if __name__ == "__main__":
    main()
