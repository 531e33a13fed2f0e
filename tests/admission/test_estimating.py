"""What is said of a request before it is asked, against what it then takes, on a machine like the starter cluster's."""

import random
from dataclasses import replace
from statistics import median

import pytest

from deployments.servers.admission import Admission
from deployments.servers.calls import Terms
from deployments.servers.forecast import Batches, InTurn, Stepwise
from deployments.servers.pace import Pace, Work
from medley.simulation.replica import Asked, Machine, Replica
from medley.simulation.router import Router

MACHINE = Machine(base=0.02, per_width=0.002, per_read=0.0004, attention=0.2, noise=0.3)
TERMS = Terms(first_s=2.5, piece_s=0.25, whole_s=120.0)
SECONDS = 120.0


def mixed(draw: random.Random) -> Work:
    """Seven of ten chats are short."""
    read, wrote = (30, 16) if draw.random() < 0.7 else (400, 48)
    return Work(float(round(read * draw.uniform(0.75, 1.25))), float(round(wrote * draw.uniform(0.75, 1.25))))


def said_and_took(rate: float, known: float = 1.0) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Seconds to the first piece and to the last one, of all that were answered.

    Args:
        known: as so much of what it is, a prompt's length is taken.
    """
    draw, replica, now, asked = random.Random(f"estimates {rate}"), Replica(MACHINE), 0.0, []
    replica.measure()
    router = Router([replica])
    while (now := now + draw.expovariate(rate)) < SECONDS:
        work = mixed(draw)
        one = Asked(now, work, TERMS, said=replace(work, read=known * work.read))
        replica.until(now)
        said = replica.admission.times(replica.said(one), TERMS, now)
        router.ask(one, now)
        asked.append((said, one))
    while replica.inside:
        replica.until(replica.due)
    return [
        ((said.first_s, said.whole_s), (one.first - one.at, one.end - one.at))
        for said, one in asked
        if one.first is not None and one.end is not None
    ]


@pytest.mark.parametrize("rate", [4.0, 8.0, 12.0])
def test_estimates_are_near_what_requests_take(rate):
    pairs = said_and_took(rate)
    assert len(pairs) > 300
    for which in (0, 1):
        ratios = [said[which] / took[which] for said, took in pairs]
        assert median(abs(ratio - 1) for ratio in ratios) <= 0.25
        assert sum(0.5 <= ratio <= 2 for ratio in ratios) >= 0.9 * len(ratios)


@pytest.mark.parametrize("known", [0.85, 1.05])
def test_an_error_of_a_length_does_not_add_up(known):
    """The replica is busy for two minutes. It deducts what the engine reads from the prompts that came first."""
    pairs = said_and_took(12.0, known)
    for part in (pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]):
        ratios = [said[0] / took[0] for said, took in part]
        assert median(abs(ratio - 1) for ratio in ratios) <= 0.25
        assert 0.8 <= median(ratios) <= 1.25


@pytest.mark.parametrize(
    ("schedule", "delayed"), [(Stepwise(chunk=128), True), (Batches(64, 512), False), (InTurn(), False)]
)
def test_who_comes_later_delays_those_with_whom_it_shares_steps(schedule, delayed):
    """The engine has been full of others lately, and nobody is inside."""
    admission, work = Admission(Pace(), schedule), Work(read=20, steps=50)
    for width in (1, 2, 4, *[30] * 40):
        admission.did(0.02 + 0.004 * width, 1, width, 0, now=1.0)
    expected_s, alone_s = admission.times(work, TERMS, 1.0).whole_s, admission.alone(work).whole_s
    assert expected_s > 1.5 * alone_s if delayed else expected_s == pytest.approx(alone_s)
