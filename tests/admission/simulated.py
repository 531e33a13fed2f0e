"""Traffic for replicas on a virtual clock (medley/simulation/replica.py), and what became of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from deployments.servers.calls import Terms
from deployments.servers.pace import Work
from medley.simulation.replica import Asked, Replica
from tests.admission.scenarios import Scenario

# Until there is another replica for one that died.
START_S = 5.0


def run(replica: Replica, asked: Sequence[Asked]) -> None:
    """Everybody is asked when it is due, and the replica works until all is done."""
    for one in sorted(asked, key=lambda one: one.at):
        replica.ask(one, one.at)
    while replica.inside:
        replica.until(replica.due)


def play(scenario: Scenario, times_fits: float, most: int | None = None, seed: int = 0) -> tuple[list[Asked], Replica]:
    """What becomes of a scenario at so many times the rate that fits, and the replica at the end.

    If the replica dies in it, requests wait for the next one, and those that were inside go first.

    Args:
        most: so many may be inside, in place of the admission.
    """
    replica, asked = scenario.replica(most), scenario.asked(times_fits, seed)
    if "death" not in scenario.troubles:
        run(replica, asked)
        return asked, replica
    before = [one for one in asked if one.at < scenario.at]
    for one in before:
        replica.ask(one, one.at)
    replica.until(scenario.at)
    lost, replica = replica.die(), scenario.replica(most)
    up = scenario.at + START_S
    for one in lost:
        one.terms = replace(one.terms, sure=True)
    for one in [*lost, *(one for one in asked if one.at >= scenario.at)]:
        moment = max(up, one.at)
        one.terms = replace(one.terms, waited_s=moment - one.at)
        replica.ask(one, moment)
    while replica.inside:
        replica.until(replica.due)
    return asked, replica


def poisson(rate: float, seconds: float, work: Callable[[random.Random], Work], terms: Terms, seed: int) -> list[Asked]:
    draw, now, found = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        found.append(Asked(now, work(draw), terms))
    return found
