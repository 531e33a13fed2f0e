"""Traffic for replicas on a virtual clock (medley/simulation/replica.py), and what became of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from deployments.servers.calls import Terms
from deployments.servers.pace import Work
from medley.simulation.replica import Asked, Replica


def run(replica: Replica, asked: Sequence[Asked]) -> None:
    """Everybody is asked when it is due, and the replica works until all is done."""
    for one in sorted(asked, key=lambda one: one.at):
        replica.ask(one, one.at)
    while replica.inside:
        replica.until(replica.due)


def poisson(rate: float, seconds: float, work: Callable[[random.Random], Work], terms: Terms, seed: int) -> list[Asked]:
    draw, now, found = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        found.append(Asked(now, work(draw), terms))
    return found
