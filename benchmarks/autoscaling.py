"""Steps in the load, and how replicas follow them, on a real Ray: `python -m benchmarks.autoscaling` (half an hour).

The model sleeps instead of working (benchmarks/sleeping.py), so that a machine of two cores can run eight replicas.
Router, admission, server and policy are those of any cluster, so admission and scaling are judged together. The load is
1, 2, 4, 8 times what one replica serves well, and then 1 again. Clients that are refused come back when Retry-After
says. A request is good if its answer is there within LIMIT_S of when it was first sent.

Each case runs under PromisePolicy, under Ray's default policy, and under an oracle, which knows the load beforehand and
has the replicas ready at each step. Cases: from one replica, from none, with two routers, with no room for more than
three replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml

from benchmarks.clusters import free_port
from benchmarks.sleeping import MODEL
from loadtest.bounds import quantile

ROOT = Path(__file__).parents[1]
# A request has 20 to 80 words; a replica serves four of the mean size a second.
WORDS, SECONDS_PER_WORD, LOAD_S = (20, 80), 0.005, 1.0
REQUEST_S = sum(WORDS) / 2 * SECONDS_PER_WORD
MOST, UTILISATION = 8, 0.8
LIMIT_S, WAIT_S = 10.0, 2.5
STEPS = (1, 2, 4, 8, 1)
# Of what one replica can do, at the first step.
LOAD = 0.75
# Before the first step, so that something runs; and after the last, for what is under way.
BEFORE_S, DRAIN_S = 10.0, 20.0
# As the delivered configs have them, but for the way down.
TIMES = {"metrics_interval_s": 0.5, "look_back_period_s": 1, "upscale_delay_s": 1, "downscale_delay_s": 10}
PROMISE = {
    "policy_function": "deployments.autoscaling:PromisePolicy",
    "policy_kwargs": {"wait_s": WAIT_S, "concurrency": 4, "service_s": 1.0},
}
# CPUs of three replicas and of the routers, in whole numbers.
ROOM_FOR_THREE = 4


@dataclass(frozen=True, slots=True)
class Case:
    """
    Attributes:
        least: replicas.
        cpus: that Ray has; a replica takes one, a router a fifth.
    """

    least: int = 1
    routers: int = 1
    cpus: int = 64


CASES = {
    "from one": Case(),
    "from zero": Case(least=0),
    "two routers": Case(routers=2),
    "no room": Case(cpus=ROOM_FOR_THREE),
}
POLICIES = ("promise", "oracle", "Ray's default")


@dataclass(slots=True)
class Attempt:
    """One request, with all its tries.

    Attributes:
        due: seconds after the start. took_s: from then until the answer; None if there was none.
        codes: of refusals, in order. lost: what else it ended in.
    """

    due: float
    took_s: float | None = None
    codes: list[str] | None = None
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    Attributes:
        good: the share of requests that were answered within LIMIT_S of when they were first sent.
        refused: the share that was refused at least once; codes: of all refusals.
        lost: requests that ended in anything but an answer or a refusal, by what it was.
        ordered_s, serving_s: of each step up, from the step until Serve wants more replicas, and until one more serves.
            0: there are enough.
        start_s: the median start of a replica.
        no_room: seconds after the first order that had no place until /readyz said so; None if it never did.
    """

    case: str
    policy: str
    requests: int
    good: float
    refused: float
    codes: dict[str, int]
    lost: dict[str, int]
    p50_s: float
    p99_s: float
    replica_s: float
    most: int
    left: int
    ordered_s: list[float | None]
    serving_s: list[float | None]
    start_s: float | None
    no_room: float | None


def needed(times: float) -> int:
    """Replicas that serve this step with a fifth of their time to spare."""
    return min(MOST, math.ceil(times * LOAD / UTILISATION - 1e-9))


def measure(name: str, policy: str, step_s: float, start_s: float, seed: int) -> Outcome:
    """Run one case under one policy.

    Args:
        start_s: how long before a step the oracle orders what it needs.
    """
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with serving(work, case, policy) as (port, seen):
            began = time.time() + BEFORE_S
            if policy == "oracle":
                orders = [[began + place * step_s - start_s, needed(times)] for place, times in enumerate(STEPS)]
                # It takes replicas away when a step is over, not before.
                orders[-1][0] += start_s
                (work / "orders.json").write_text(json.dumps([*orders, [began + len(STEPS) * step_s, case.least]]))
            attempts = asyncio.run(clients(port, began, arrivals(step_s, seed), seed))
            time.sleep(DRAIN_S)
            looks = [json.loads(line) for line in seen.read_text().splitlines()]
    return outcome((name, policy), attempts, looks, began, step_s)


def arrivals(step_s: float, seed: int) -> list[float]:
    """Poisson's, in seconds after the start."""
    draw, found = random.Random(seed), []
    for place, times in enumerate(STEPS):
        at, rate = place * step_s, times * LOAD / REQUEST_S
        while (at := at + draw.expovariate(rate)) < (place + 1) * step_s:
            found.append(at)
    return found


async def clients(port: int, began: float, moments: Sequence[float], seed: int) -> list[Attempt]:
    draw = random.Random(seed)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=2 * LIMIT_S, limits=limits, trust_env=False
    ) as http:
        return await asyncio.gather(
            *(one_client(http, began + due, Attempt(due), draw.randint(*WORDS)) for due in moments)
        )


async def one_client(http: httpx.AsyncClient, due: float, attempt: Attempt, words: int) -> Attempt:
    """Ask, and come back when told, as long as a good answer is still possible."""
    await asyncio.sleep(max(0.0, due - time.time()))
    body = {"model": MODEL, "input": " ".join(f"word{number}" for number in range(words))}
    attempt.codes = []
    while True:
        try:
            answer = await http.post("/v1/embeddings", json=body)
        except httpx.HTTPError as error:
            attempt.lost = type(error).__name__
            return attempt
        if answer.status_code == 200:
            attempt.took_s = time.time() - due
            return attempt
        code, again = code_of(answer), answer.headers.get("retry-after")
        if answer.status_code not in (429, 503) or again is None:
            attempt.lost = f"{answer.status_code} {code}"
            return attempt
        attempt.codes.append(code)
        if time.time() + float(again) > due + LIMIT_S:
            return attempt
        await asyncio.sleep(float(again))


def code_of(answer: httpx.Response) -> str:
    try:
        return answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return "no code"


def outcome(
    what: tuple[str, str], attempts: list[Attempt], looks: list[dict[str, Any]], began: float, step_s: float
) -> Outcome:
    name, policy = what
    end = began + len(STEPS) * step_s
    during = [look for look in looks if began <= look["at"] <= end]
    took = [one.took_s for one in attempts if one.took_s is not None]
    before = STEPS[:1] if CASES[name].least else (0,)
    ups = [
        (began + place * step_s, needed(other))
        for place, (one, other) in enumerate(pairwise((*before, *STEPS)))
        if other > one
    ]
    return Outcome(
        case=name,
        policy=policy,
        requests=len(attempts),
        good=sum(one <= LIMIT_S for one in took) / len(attempts),
        refused=sum(bool(one.codes) for one in attempts) / len(attempts),
        codes=dict(Counter(code for one in attempts for code in one.codes or ())),
        lost=dict(Counter(one.lost for one in attempts if one.lost)),
        p50_s=round(quantile(took, 0.5), 2),
        p99_s=round(quantile(took, 0.99), 2),
        replica_s=round(sum(held(look) * (later["at"] - look["at"]) for look, later in pairwise(during)), 1),
        most=max(running(look) for look in during),
        left=running(looks[-1]),
        ordered_s=[after(looks, at, step_s, enough, lambda look: look["target"] or 0) for at, enough in ups],
        serving_s=[after(looks, at, step_s, enough, running) for at, enough in ups],
        start_s=start_of(looks),
        no_room=room_told(looks),
    )


def held(look: dict[str, Any]) -> int:
    """Replicas that hold a place: those that have a process, and those that are about to have one."""
    waiting = bool(look["scaling"].get("no_room"))
    return sum(bool(one["pid"]) or not waiting for one in look["replicas"])


def running(look: dict[str, Any]) -> int:
    return sum(one["state"] == "RUNNING" for one in look["replicas"])


def after(looks: list[dict[str, Any]], at: float, step_s: float, enough: int, count: Any) -> float | None:
    """Seconds after a step until the count is higher than at the step; None if it was not, within the step; 0 if it is
    enough already."""
    before = [count(look) for look in looks if look["at"] <= at][-1]
    if before >= enough:
        return 0.0
    later = (look["at"] - at for look in looks if at < look["at"] < at + step_s and count(look) > before)
    return round(first, 1) if (first := next(later, None)) is not None else None


def start_of(looks: list[dict[str, Any]]) -> float | None:
    """The median of what replicas took from Serve's order until they ran, as far as it was seen from the beginning."""
    began, took = {}, {}
    for look in looks:
        for one in look["replicas"]:
            if one["state"] == "STARTING":
                began[one["replica_id"]] = one["start_time_s"]
            elif one["state"] == "RUNNING" and one["replica_id"] in began:
                took.setdefault(one["replica_id"], look["at"] - began[one["replica_id"]])
    return round(median(took.values()), 1) if took else None


def room_told(looks: list[dict[str, Any]]) -> float | None:
    """Seconds from the start of a replica that never got a process until /readyz said that there is no room."""
    placed = {one["replica_id"] for look in looks for one in look["replicas"] if one["pid"]}
    without = [one["start_time_s"] for look in looks for one in look["replicas"] if one["replica_id"] not in placed]
    told = [look["at"] for look in looks if look["scaling"].get("no_room")]
    return round(told[0] - min(without), 1) if without and told else None


@contextlib.contextmanager
def serving(folder: Path, case: Case, policy: str) -> Iterator[tuple[int, Path]]:
    """The sleeping model on a Ray of its own. Yields the port of the router and the file of what was seen."""
    port, seen = free_port(), folder / "seen.jsonl"
    (folder / "catalog").mkdir()
    (folder / "catalog" / "embeddings.yaml").write_text(yaml.safe_dump({"models": [row()]}))
    targets = {"duration_s": LIMIT_S, "good": 0.95, "availability": 0.99}
    (folder / "slo.yaml").write_text(yaml.safe_dump({"profiles": {"steps": {"tasks": {"embeddings": targets}}}}))
    settings = {"port": port, "cpus": case.cpus, "document": document(folder, case, policy)}
    (folder / "settings.json").write_text(json.dumps(settings))
    starter = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    variables = starter["controller_options"]["runtime_env"]["env_vars"]
    environment = {
        **os.environ,
        **{name: value for name, value in variables.items() if "HA" not in name and "CALLBACK" not in name},
        "PYTHONPATH": str(ROOT),
        "MEDLEY_CATALOG": str(folder / "catalog"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "benchmarks.sleeping", str(folder / "settings.json"), str(seen)]
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
        yield port, seen
    finally:
        assert process.stdin
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def row() -> dict[str, Any]:
    """The model's, in the catalog."""
    return {
        "id": MODEL,
        "task": "embeddings",
        "title": "Sleeping",
        "owner": "nobody",
        "licence": "MIT",
        "source": {"kind": "none"},
        "limits": {"context_tokens": 1000},
        "settings": {"dimensions": {"native": 8, "smallest": 2}},
        "default_variant": "fake",
        "variants": {
            "fake": {
                "backend": "fake",
                "precision": "fp32",
                "needs": {"cpus": 1, "memory_gib": 0.1},
                "engine": {"seconds_per_token": SECONDS_PER_WORD, "load_s": LOAD_S},
            }
        },
    }


def document(folder: Path, case: Case, policy: str) -> dict[str, Any]:
    """The serve config: as serve_config.yaml has them, the sleeping model and the router."""
    timetable = {"file": str(folder / "orders.json"), "first": case.least}
    scaling: dict[str, dict[str, Any]] = {
        "promise": {**TIMES, "policy": PROMISE},
        "oracle": {
            **TIMES,
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "policy": {"policy_function": "benchmarks.sleeping:Timetable", "policy_kwargs": timetable},
        },
        # As many requests as a replica serves within a quarter of the limit.
        "Ray's default": {**TIMES, "target_ongoing_requests": 2},
    }
    model = {
        "name": "model",
        "max_ongoing_requests": 64,
        "max_queued_requests": 256,
        "graceful_shutdown_timeout_s": 60,
        "autoscaling_config": {"min_replicas": case.least, "max_replicas": MOST, **scaling[policy]},
    }
    router = {"name": "router", "num_replicas": case.routers, "max_ongoing_requests": 1000, "max_queued_requests": -1}
    arguments = {"promises": "steps", "slo": str(folder / "slo.yaml"), "access_log": False}
    return {
        "applications": [
            {
                "name": MODEL,
                "route_prefix": None,
                "import_path": "deployments.model:build",
                "args": {"model": MODEL, "access_log": False},
                "deployments": [model],
            },
            {
                "name": "router",
                "route_prefix": "/",
                "import_path": "deployments.router.ingress:build",
                "args": arguments,
                "deployments": [router],
            },
        ]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-s", type=float, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", choices=CASES, action="append", help="one case; nothing is written")
    parser.add_argument("--policy", choices=POLICIES, action="append", help="one policy; nothing is written")
    parser.add_argument("--start-s", type=float, default=8, help="for the oracle, until a start has been measured")
    given = parser.parse_args()
    found: list[Outcome] = []
    start_s = given.start_s
    for case in given.case or CASES:
        for policy in given.policy or POLICIES:
            found.append(measure(case, policy, given.step_s, start_s, given.seed))
            print(json.dumps(asdict(found[-1])), flush=True)
            if policy == "promise":
                start_s = found[-1].start_s or start_s
    print(table(found))
    if given.case or given.policy:
        return
    settings = {"step_s": given.step_s, "load": LOAD, "steps": STEPS, "limit_s": LIMIT_S, "times": TIMES}
    file = ROOT / "benchmarks" / "results" / f"{date.today().isoformat()}-cpu{os.cpu_count()}-autoscaling.json"
    file.write_text(json.dumps({**settings, "runs": [asdict(one) for one in found]}, indent=1) + "\n")
    print(f"written: {file}")


def table(found: list[Outcome]) -> str:
    """As docs/performance.md has it: goodput and replica-seconds also as shares of the oracle's in the same case."""
    lines = ["| case | policy | good | of the oracle's | replica-seconds | of the oracle's | most | ordered after |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---|")
    for one in found:
        oracle = next((other for other in found if (other.case, other.policy) == (one.case, "oracle")), None)
        good, seconds = ("", "") if oracle is None else (one.good / oracle.good, one.replica_s / oracle.replica_s)
        shares = [f"{share:.2f}" if share else "" for share in (good, seconds)]
        ordered = ", ".join("-" if at is None else f"{at:g} s" for at in one.ordered_s)
        cells = (one.case, one.policy, f"{one.good:.1%}", shares[0], one.replica_s, shares[1], one.most, ordered)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
