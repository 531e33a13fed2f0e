"""When requests are due: schedules of an open loop, drawn from a seed.

An open loop sends each request when it is due, whatever became of those before it. A closed loop waits for answers. So
it sends less to a server that stalls, and does not see the stall (coordinated omission).
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

Scheduled = TypeVar("Scheduled")


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    Attributes:
        at: seconds from the start of the schedule.
        prompt_tokens, output_tokens: as a trace has them; None where the task's own mix decides.
    """

    at: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """`rate` requests per second for some seconds; where `to` is given, the rate goes there in a straight line."""

    rate: float
    seconds: float
    to: float | None = None

    def at(self, moment: float) -> float:
        return self.rate if self.to is None else self.rate + (self.to - self.rate) * moment / self.seconds


def of_stages(stages: Sequence[Stage], seed: int, burstiness: float = 1.0) -> list[Arrival]:
    """Arrivals with gaps of a gamma distribution, its mean following the stages.

    Gaps are drawn for a rate of 1 and stretched to the rate of the moment (time rescaling), which keeps the burstiness
    whatever the rate.

    Args:
        burstiness: shape of the gamma distribution, as in vLLM's `bench serve`: 1 is Poisson, below 1 comes in bursts,
            and the squared coefficient of variation of the gaps is its inverse; infinite is evenly spaced.
    """
    draw = random.Random(seed)
    arrivals, began, wanted = [], 0.0, 0.0
    due = gap(draw, burstiness) if math.isfinite(burstiness) else 0.5
    for stage in stages:
        end = wanted + expected(stage, stage.seconds)
        while due < end:
            arrivals.append(Arrival(began + moment_of(stage, due - wanted)))
            due += gap(draw, burstiness)
        began, wanted = began + stage.seconds, end
    return arrivals


def gap(draw: random.Random, burstiness: float) -> float:
    return draw.gammavariate(burstiness, 1 / burstiness) if math.isfinite(burstiness) else 1.0


def expected(stage: Stage, moment: float) -> float:
    """Requests expected until a moment of a stage."""
    return (stage.rate + stage.at(moment)) / 2 * moment


def moment_of(stage: Stage, count: float) -> float:
    """The moment of a stage until which `count` requests are expected: `expected`, solved for the moment."""
    if stage.to is None or stage.to == stage.rate:
        return count / stage.rate
    slope = (stage.to - stage.rate) / stage.seconds
    return (math.sqrt(max(0.0, stage.rate**2 + 2 * slope * count)) - stage.rate) / slope


def of_trace(file: Path, speed: float, most: int | None = None, skip: int = 0) -> list[Arrival]:
    """Arrivals of a recorded trace, a CSV with columns TIMESTAMP, ContextTokens and GeneratedTokens as Azure publishes
    them, `speed` times as fast as they were.

    Args:
        skip: how many rows to leave out at the beginning. most: how many of the others to take.

    Raises:
        ValueError: a column is missing or a row has no such values; the message has the row.
    """
    with file.open(newline="") as lines:
        rows = itertools.islice(enumerate(csv.DictReader(lines), start=2), skip, None if most is None else skip + most)
        arrivals = [arrival_of(row, f"{file}, line {number}") for number, row in rows]
    if not arrivals:
        raise ValueError(f"{file} has no rows after the first {skip}")
    first = min(arrival.at for arrival in arrivals)
    moved = [Arrival((one.at - first) / speed, one.prompt_tokens, one.output_tokens) for one in arrivals]
    return sorted(moved, key=lambda arrival: arrival.at)


def arrival_of(row: dict[str, str], where: str) -> Arrival:
    try:
        moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
        return Arrival(moment.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a row with TIMESTAMP, ContextTokens, GeneratedTokens ({error})") from None


def digest(arrivals: Sequence[Arrival]) -> str:
    """A short hash of a schedule, for reports: runs with the same one sent the same requests at the same times."""
    text = "\n".join(f"{one.at:.6f} {one.prompt_tokens} {one.output_tokens}" for one in arrivals)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def share(schedule: Sequence[Scheduled], worker: int, workers: int) -> Sequence[Scheduled]:
    """What one of several workers sends."""
    return schedule[worker::workers]
