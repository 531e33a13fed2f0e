"""Compares PromisePolicy with Ray's default policy on one trace, in a real Serve: `python -m benchmarks.autoscaling`.

The model sleeps instead of working (benchmarks/sleeping.py), so that a machine with two cores can run many replicas.
The benchmark measures only the control: how soon replicas follow, for how many requests the promise is kept, and how
many replica-seconds that takes. The result of `medley simulate` for the same trace is shown beside each run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from deployments.autoscaling import PromisePolicy
from loadtest import records
from loadtest.bounds import quantile
from medley.simulation.cluster import Run, Settings, simulate
from models.registry import import_string

ROOT = Path(__file__).parents[1]
SLOTS, SERVICE_S, START_S, WAIT_S = 4, 1.0, 3.0, 1.0
LIMIT_S = WAIT_S + 1.5 * SERVICE_S
BOUNDS = {"min_replicas": 1, "max_replicas": 8}
DELAYS = {"upscale_delay_s": 1, "downscale_delay_s": 10, "metrics_interval_s": 1, "look_back_period_s": 3}
PROMISE = {
    "policy_function": "deployments.autoscaling:PromisePolicy",
    "policy_kwargs": {"wait_s": WAIT_S, "concurrency": SLOTS, "service_s": SERVICE_S},
}
# Ray's own policy, with as many requests per replica as it has slots, and with Ray's default of two.
# The last one refuses requests that would be answered too late, like the router.
ADMITTING = "promise, with admission"
POLICIES: dict[str, dict[str, Any]] = {
    "promise": {"policy": PROMISE},
    "Ray's default, target 4": {"target_ongoing_requests": SLOTS},
    "Ray's default, target 2": {"target_ongoing_requests": 2},
    ADMITTING: {"policy": PROMISE},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    Attributes:
        lost: requests that were neither answered nor refused.
        good: the share of requests that were answered within LIMIT_S.
        p99_s: from a request's due time to its answer; answered requests only.
        followed_s: from the start of the spike until there were enough replicas for it.
    """

    policy: str
    requests: int
    refused: int
    lost: int
    good: float
    p99_s: float
    replica_s: float
    most: int
    followed_s: float | None
    simulated_good: float
    simulated_replica_s: float
    simulated_most: int


def scenario(base: float, spike: float, quiet_s: float, spike_s: float) -> dict[str, Any]:
    return {
        "proves": "Replicas follow a spike, and leave without a loss.",
        "stages": [
            {"rate": base, "seconds": quiet_s},
            {"rate": spike, "seconds": spike_s},
            {"rate": base, "seconds": quiet_s * 2},
        ],
        "parts": [{"task": "embeddings", "options": {"max_inputs": 1}, "good": 0.5}],
        "drain_s": 60,
        "warm_up": 1,
    }


def measure(name: str, asked: dict[str, Any]) -> Outcome:
    """Run one policy on the trace of a scenario, and simulate it (without admission, which the simulator lacks)."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with serving(work, POLICIES[name], LIMIT_S if name == ADMITTING else None) as (address, watched):
            (work / "spike.yaml").write_text(yaml.safe_dump(asked))
            limits = {"embeddings": {"duration_s": LIMIT_S, "good": 0.95}}
            (work / "slo.yaml").write_text(yaml.safe_dump({"profiles": {"cpu": {"tasks": limits}}}))
            began, code = load(address, work)
            if code not in (0, 1, 3):
                raise SystemExit(f"the load test ended with {code}")
            attempts = list(records.read(work / "report" / "records.jsonl"))
            seen = [json.loads(line) for line in watched.read_text().splitlines()]
    return outcome(name, asked, attempts, seen, began)


def load(address: str, work: Path) -> tuple[float, int]:
    """Returns the approximate Unix time at which the schedule began, and the exit code."""
    command = [
        sys.executable, "-m", "loadtest", "run", str(work / "spike.yaml"), "--host", address,
        "--slo", str(work / "slo.yaml"), "--report", str(work / "report"),
    ]  # fmt: skip
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    document = json.loads((work / "report" / "report.json").read_text())
    return document["began"], code


def outcome(name: str, asked: dict[str, Any], attempts: list[Any], seen: list[dict[str, Any]], began: float) -> Outcome:
    quiet, spike = asked["stages"][0], asked["stages"][1]
    end = sum(stage["seconds"] for stage in asked["stages"])
    during = [each for each in seen if began <= each["at"] <= began + end]
    needed = spike["rate"] * SERVICE_S / SLOTS
    after = [each["at"] - began - quiet["seconds"] for each in during if each["at"] > began + quiet["seconds"]]
    enough = [each["running"] >= needed for each in during if each["at"] > began + quiet["seconds"]]
    took = [record.last - record.due for record in attempts if record.answered]
    simulated = simulation(name, sorted(record.due for record in attempts))
    return Outcome(
        policy=name,
        requests=len(attempts),
        refused=sum(record.refused for record in attempts),
        lost=sum(not record.answered and not record.refused for record in attempts),
        good=sum(one <= LIMIT_S for one in took) / len(attempts),
        p99_s=quantile(took, 0.99),
        replica_s=sum(each["all"] * (later["at"] - each["at"]) for each, later in pairwise(during)),
        most=max(each["running"] for each in during),
        followed_s=next((at for at, yes in zip(after, enough, strict=True) if yes), None),
        simulated_good=sum(wait <= WAIT_S for wait in simulated.waits) / len(simulated.waits),
        simulated_replica_s=simulated.replica_seconds,
        simulated_most=max(each[1] for each in simulated.replicas),
    )


def simulation(name: str, arrivals: list[float]) -> Run:
    chosen = POLICIES[name]
    settings = Settings(
        slots=SLOTS,
        start_s=START_S + 2,  # a process of Python
        **BOUNDS,
        upscale_delay_s=DELAYS["upscale_delay_s"],
        downscale_delay_s=DELAYS["downscale_delay_s"],
        look_back_s=DELAYS["look_back_period_s"],
        target_ongoing_requests=chosen.get("target_ongoing_requests", SLOTS),
    )
    rays = import_string("ray.serve.autoscaling_policy:_core_replica_queue_length_policy")
    policy = PromisePolicy(**PROMISE["policy_kwargs"]) if "policy" in chosen else rays
    return simulate(arrivals, [SERVICE_S] * len(arrivals), policy, settings)


@contextlib.contextmanager
def serving(folder: Path, policy: dict[str, Any], limit_s: float | None = None) -> Iterator[tuple[str, Path]]:
    """The sleeping model on a Ray of its own. Yields its address and the file of replicas.

    Args:
        limit_s: refuse requests that would take longer.
    """
    port, settings, watched = free_port(), folder / "settings.json", folder / "replicas.jsonl"
    scaling = {**BOUNDS, **DELAYS, **policy}
    facts = {
        "slots": SLOTS,
        "service_s": SERVICE_S,
        "start_s": START_S,
        "max_ongoing_requests": SLOTS,
        "limit_s": limit_s,
    }
    settings.write_text(json.dumps({**facts, "autoscaling_config": scaling}))
    command = [sys.executable, "-m", "benchmarks.sleeping", str(port), str(settings), str(watched)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_SERVE_LOG_TO_STDERR": "0"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        if not any(line.strip() == "ready" for line in process.stdout):
            raise SystemExit("the sleeping model did not start")
        time.sleep(1)
        yield f"http://127.0.0.1:{port}", watched
    finally:
        assert process.stdin
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=float, default=2)
    parser.add_argument("--spike", type=float, default=10)
    parser.add_argument("--quiet-s", type=float, default=30)
    parser.add_argument("--spike-s", type=float, default=60)
    parser.add_argument("--only", choices=POLICIES, help="one policy, and nothing is written")
    given = parser.parse_args()
    asked = scenario(given.base, given.spike, given.quiet_s, given.spike_s)
    found = [measure(name, asked) for name in ([given.only] if given.only else POLICIES)]
    for one in found:
        print(one)
    if given.only:
        return
    document = {
        "scenario": asked,
        "slots": SLOTS,
        "service_s": SERVICE_S,
        "limit_s": LIMIT_S,
        "runs": [asdict(one) for one in found],
    }
    file = ROOT / "benchmarks" / "results" / f"{date.today().isoformat()}-cpu{os.cpu_count()}-autoscaling.json"
    file.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    main()
