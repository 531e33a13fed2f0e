"""Hostile requests of all kinds beside a client that behaves well: it must not notice much, and nothing may break."""

import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import hostile
import pytest
from figures import asking, broken, table
from judging import faults_of, own_replies
from lasting import lasting, memory_gib
from patience import slowness, wait_until
from sending import Exchange, Request, exchange

from medley.local import cluster as local

pytestmark = pytest.mark.adversary

ALONE_S, HOSTILE_S, AT_ONCE, MEMBERS = 40, 200, 8, 7
# What may be left of an attack: allocators keep some pages.
GROWTH, GROWTH_GIB = 0.10, 0.1


def test_a_client_that_behaves_well_is_served_beside_hostile_ones(cluster, seed, tmp_path):
    print(f"\nseed {seed}, a machine {slowness():.1f} times as slow as that of the promises")
    with asking(cluster.address, tmp_path / "warm"):
        time.sleep(5)
    began = lasting()
    with asking(cluster.address, tmp_path / "alone") as alone:
        time.sleep(ALONE_S)
    before, replicas = {process: name for process, name in lasting().items() if process in began}, cluster.pids()
    memory = memory_gib(replicas)
    with asking(cluster.address, tmp_path / "beside") as beside:
        done = attack(cluster.address, hostile.plan(seed, MEMBERS))
    gone = [name for process, name in before.items() if not local.lives(process)]
    peak = memory_gib(replicas)
    limit = memory * (1 + GROWTH) + GROWTH_GIB
    with contextlib.suppress(AssertionError):
        wait_until(lambda: memory_gib(replicas) <= limit, "the memory to come back", seconds=60, every=5)
    after = memory_gib(replicas)

    print(table(alone, beside))
    print(f"memory (PSS, GiB): {memory:.2f} before, {peak:.2f} at once after, {after:.2f} later")
    print(counts(done))
    faults = [f"{name} {number}: {fault}\n    {request}" for name, number, request, _, found in done for fault in found]
    print(*faults, sep="\n")
    assert not faults, (
        f"{len(faults)} answers are wrong; python tests/adversary/hostile.py ADDRESS KIND SEED repeats one"
    )
    assert gone == [], "processes have ended"
    assert broken(beside) == []
    assert after <= limit


Done = tuple[str, int, Request, list[Exchange], list[str]]


def attack(address: str, plan: list[tuple[str, int]]) -> list[Done]:
    """Send the planned requests, some at a time, over minutes."""
    began = time.monotonic()

    def one(place: int) -> Done:
        name, number = plan[place]
        time.sleep(max(0.0, began + place * HOSTILE_S / len(plan) - time.monotonic()))
        request = hostile.made(name, number)
        with ThreadPoolExecutor(request.connections) as pool:
            tries = [pool.submit(exchange, address, request) for _ in range(request.connections)]
        errors = [f"{error!r}" for one in tries if (error := one.exception())]
        found = [one.result() for one in tries if not one.exception()]
        return name, number, request, found, [*errors, *(fault for one in found for fault in faults_of(request, one))]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(len(plan))))


def counts(done: list[Done]) -> str:
    """How the hostile requests were answered, by kind."""
    lines = [f"{len(done)} hostile requests on {sum(len(found) for _, _, _, found, _ in done)} connections:"]
    for kind in hostile.KINDS:
        mine = [(request, one) for name, _, request, found, _ in done if name == kind for one in found]
        statuses = Counter(answer.status for _, one in mine for answer in one.answers)
        statuses[0] += sum(not one.answers for _, one in mine)
        own = sum(len(own_replies(request, one)) for request, one in mine)
        said = ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(statuses.items()) if count)
        lines.append(f"  {kind}: {said}" + (f" ({own} of HAProxy's own)" if own else ""))
    return "\n".join(lines)
