"""A replica on a virtual clock: an engine that works in steps, as vLLM does, behind the real Admission."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deployments.servers.admission import Admission, Job
from deployments.servers.calls import Terms
from deployments.servers.forecast import Stepwise
from deployments.servers.pace import Pace, Work
from models.errors import ServingError


@dataclass(frozen=True)
class Machine:
    """What a step takes: `base + per_width * width + per_read * read`, times `slowness` of the moment, with noise."""

    base: float = 0.02
    per_width: float = 0.004
    per_read: float = 0.003
    noise: float = 0.1
    chunk: int = 128
    budget: int = 256
    slowness: Callable[[float], float] = lambda now: 1.0


@dataclass
class Asked:
    at: float
    work: Work
    terms: Terms
    tried: int = 0
    first: float | None = None
    end: float | None = None
    refused: ServingError | None = None
    wrote: float = 0.0
    read: float = 0.0
    job: Job | None = None

    def good(self) -> bool:
        if self.end is None or self.first is None:
            return False
        gaps = (self.end - self.first) / (self.work.steps - 1) if self.work.steps > 1 else 0.0
        terms = self.terms
        return self.first - self.at <= terms.first_s and gaps <= terms.piece_s and self.end - self.at <= terms.whole_s


class Replica:
    """
    Args:
        room: decides instead of the admission how many may be inside; None for the admission.
    """

    def __init__(self, machine: Machine, seed: int = 0, most: int | None = None, full: float = 16):
        self.machine = machine
        self.draw = random.Random(seed)
        self.most = most
        self.admission = Admission(Pace(), Stepwise(machine.chunk, machine.budget // machine.chunk, full))
        self.running: list[Asked] = []
        self.now = 0.0
        self.measure()

    def step_s(self, width: float, read: float) -> float:
        machine = self.machine
        seconds = machine.base + machine.per_width * width + machine.per_read * read
        return seconds * machine.slowness(self.now) * math.exp(self.draw.gauss(0, machine.noise))

    def measure(self) -> None:
        for width, read in ((0, 128), (0, 128), (1, 0), (1, 0), (8, 0), (8, 0), (4, 64)):
            self.admission.did(self.step_s(width, read), 1, width, read, self.now)

    def ask(self, asked: Asked) -> None:
        if self.most is not None:
            if len(self.running) >= self.most:
                asked.refused = ServingError("full")
            else:
                asked.read = asked.work.read
                self.running.append(asked)
            return
        try:
            asked.job = self.admission.enter(asked.work, asked.terms, self.now, shows=True)
        except ServingError as error:
            asked.refused = error
            return
        asked.read = asked.work.read
        self.running.append(asked)

    def step(self) -> float:
        """Do one step. Returns its seconds."""
        budget, width, read = self.machine.budget, 0.0, 0.0
        parts: list[tuple[Asked, float]] = []
        for one in self.running:
            if one.read > 0:
                part = min(one.read, self.machine.chunk, budget)
                budget -= part
                read += part
                parts.append((one, part))
            else:
                width += one.work.width
                parts.append((one, 0.0))
        seconds = self.step_s(width, read)
        end = self.now + seconds
        self.admission.did(seconds, 1, width, read, end)
        for one, part in parts:
            if part:
                one.read -= part
                if one.read > 0:
                    continue
            elif one.read > 0:
                continue
            one.first = one.first if one.first is not None else end
            one.wrote += 1
            if one.job:
                self.admission.wrote(one.job, 1, end)
            if one.wrote >= one.work.steps:
                one.end = end
                self.running.remove(one)
                if one.job:
                    self.admission.leave(one.job, end, kept=True)
        return seconds


def run(replica: Replica, asked: Sequence[Asked], patience_s: float = math.inf) -> None:
    """Everybody is asked when it is due, and the replica works until all is done."""
    coming = sorted(asked, key=lambda one: one.at)
    place = 0
    while place < len(coming) or replica.running:
        if not replica.running:
            replica.now = coming[place].at
            replica.ask(coming[place])
            place += 1
            continue
        begun = replica.now
        seconds = replica.step()
        end = begun + seconds
        while place < len(coming) and coming[place].at <= end:
            replica.now = max(begun, coming[place].at)
            replica.ask(coming[place])
            place += 1
        replica.now = end


def poisson(rate: float, seconds: float, work: Callable[[random.Random], Work], terms: Terms, seed: int) -> list[Asked]:
    draw, now, found = random.Random(seed), 0.0, []
    while (now := now + draw.expovariate(rate)) < seconds:
        found.append(Asked(now, work(draw), terms))
    return found
