"""Hostile requests of all kinds beside a client that behaves well: it must not notice much, and nothing may break."""

import contextlib
import json
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hostile
import pytest
from figures import asking, broken, never, table
from judging import faults_of, own_replies
from lasting import lasting, memory_gib
from local_cluster import Cluster
from patience import slowness, wait_until
from polite import Asked
from sending import Exchange, Request, exchange

from medley.local import cluster as local

pytestmark = pytest.mark.adversary

ALONE_S, MEMBERS, AT_ONCE = 40, 7, 8
# Between two hostile requests.
PAUSE_S = 0.9
# What may be left of an attack: allocators keep some pages.
GROWTH, GROWTH_GIB = 0.10, 0.1
# What the client that behaves well saw, and when which hostile request was sent.
RECORDS = Path(__file__).parents[2] / "build" / "adversary"


@pytest.fixture(scope="module")
def alone(cluster):
    """What the client sees on a cluster that nobody else asks."""
    shutil.rmtree(RECORDS, ignore_errors=True)
    RECORDS.mkdir(parents=True)
    with asking(cluster.address, RECORDS / "warm.jsonl"):
        time.sleep(5)
    with asking(cluster.address, RECORDS / "alone.jsonl") as asked:
        time.sleep(ALONE_S)
    return asked


def test_a_client_that_behaves_well_is_served_beside_hostile_ones(cluster, seed, alone):
    beside, wrong = besieged(cluster, alone, "attacks", hostile.plan(seed, MEMBERS, hostile.ATTACKS))
    assert_none({**wrong, "promises": broken(beside)})


def test_nothing_breaks_under_much_work_that_is_allowed(cluster, seed, alone):
    """It takes two cores, so promises cannot be kept to all: those who ask are refused in time."""
    _, wrong = besieged(cluster, alone, "work", hostile.plan(seed, MEMBERS, hostile.MUCH_WORK))
    assert_none(wrong)


Plan = list[tuple[str, int]]


def besieged(cluster: Cluster, alone: list[Asked], name: str, plan: Plan) -> tuple[list[Asked], dict[str, list[str]]]:
    """Send what is planned beside the client. Returns what that saw, and what is wrong with the rest."""
    print(f"\n{name}, on a machine {slowness():.1f} times as slow as that of the promises:")
    before, replicas = lasting(), cluster.pids()
    time.sleep(2)
    before = {process: title for process, title in before.items() if local.lives(process)}
    memory = memory_gib(replicas)
    with asking(cluster.address, RECORDS / f"{name}-client.jsonl") as beside:
        done = attack(cluster.address, plan, RECORDS / f"{name}.jsonl")
    gone = [title for process, title in before.items() if not local.lives(process)]
    peak = memory_gib(replicas)
    limit = sum(memory.values()) * (1 + GROWTH) + GROWTH_GIB
    with contextlib.suppress(AssertionError):
        wait_until(lambda: sum(memory_gib(replicas).values()) <= limit, "the memory to come back", 60, every=5)
    after = memory_gib(replicas)
    sums = [sum(one.values()) for one in (memory, peak, after)]
    print(table(alone, beside))
    print(f"the client stood still for up to {max(one.behind_s for one in beside):.2f} s")
    print("memory (PSS, GiB): {:.2f} before, {:.2f} at once after, {:.2f} later".format(*sums))
    print(*grown(memory, after), sep="\n")
    print(counts(done))
    return beside, {
        "answers": [f"{one.kind} {one.seed}: {fault}\n    {one.request}" for one in done for fault in one.faults],
        "never": never(beside),
        "processes that ended": gone,
        "memory": [f"{sums[-1]:.2f} GiB"] if sums[-1] > limit else [],
    }


def assert_none(wrong: dict[str, list[str]]) -> None:
    """All that is wrong at once. `python tests/adversary/hostile.py ADDRESS KIND SEED` sends one request again."""
    assert not any(wrong.values()), "\n".join(f"{what}: {line}" for what, lines in wrong.items() for line in lines)


def grown(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Processes that have taken more memory, most first."""
    more = {name: gib - before.get(name, 0.0) for name, gib in after.items()}
    return [f"  {gib:+.2f} GiB {name}" for name, gib in sorted(more.items(), key=lambda one: -one[1]) if gib > 0.02]


@dataclass
class Done:
    """A hostile request, and what came back on each of its connections."""

    kind: str
    seed: int
    request: Request
    at: float
    found: list[Exchange]
    faults: list[str]


def attack(address: str, plan: Plan, record: Path) -> list[Done]:
    """Send the planned requests, some at a time."""
    began = time.monotonic()

    def one(place: int) -> Done:
        kind, seed = plan[place]
        time.sleep(max(0.0, began + place * PAUSE_S - time.monotonic()))
        request, at = hostile.made(kind, seed), time.time()
        with ThreadPoolExecutor(request.connections) as pool:
            tries = [pool.submit(exchange, address, request) for _ in range(request.connections)]
        found = [one.result() for one in tries if not one.exception()]
        faults = [f"{error!r}" for one in tries if (error := one.exception())]
        faults += [fault for one in found for fault in faults_of(request, one)]
        line = {"at": at, "s": time.time() - at, "kind": kind, "seed": seed, "bytes": len(request.raw)}
        line["statuses"] = [[answer.status for answer in one.answers] for one in found]
        with lock, record.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        return Done(kind, seed, request, at, found, faults)

    lock = threading.Lock()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(len(plan))))


def counts(done: list[Done]) -> str:
    """How the hostile requests were answered, by kind."""
    lines = [f"{len(done)} hostile requests on {sum(len(one.found) for one in done)} connections:"]
    for kind in sorted({one.kind for one in done}):
        mine = [(one.request, found) for one in done if one.kind == kind for found in one.found]
        statuses = Counter(answer.status for _, one in mine for answer in one.answers)
        statuses[0] += sum(not one.answers for _, one in mine)
        own = sum(len(own_replies(request, one)) for request, one in mine)
        said = ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(statuses.items()) if count)
        lines.append(f"  {kind}: {said}" + (f" ({own} of HAProxy's own)" if own else ""))
    return "\n".join(lines)
