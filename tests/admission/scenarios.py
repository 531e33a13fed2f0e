"""Machines and traffic, drawn at random, that nobody tuned the admission for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from deployments.servers.admission import Admission
from deployments.servers.calls import Terms
from deployments.servers.pace import Pace, Work
from medley.simulation.replica import Asked, Machine, Replica, engine_of

Draw = random.Random
# What else may happen, besides a steady stream of requests.
TROUBLES = (
    "slower", "faster", "pause", "death", "short answers", "cached prompts", "wrong counts", "bursts", "flood",
    "batch jobs", "other mixture", "cold", "slow spell",
)  # fmt: skip


@dataclass
class Scenario:
    """
    Attributes:
        work: draws a request. usual: a middling one. fits: requests a second that the machine does at full use.
        troubles: some of TROUBLES.
        at: when the trouble begins. seconds: for which is asked.
    """

    seed: int
    machine: Machine
    work: Callable[[Draw], Work]
    terms: Terms
    fits: float
    service_s: float
    seconds: float
    troubles: frozenset[str] = frozenset()
    full: float = 16

    @property
    def at(self) -> float:
        return self.seconds / 2

    def __str__(self) -> str:
        one = self.machine
        return (
            f"{self.seed} {one.kind} base {one.base:.3g} width {one.per_width:.2g} read {one.per_read:.2g} "
            f"noise {one.noise:.2f} crowd {one.crowding:.3f} chunk {one.chunk} fits {self.fits:.2f}/s "
            f"service {self.service_s:.2f} s "
            f"promise {self.terms.first_s:.2f} {self.terms.piece_s:.3f} {self.terms.whole_s:.1f} "
            f"for {self.seconds:.0f} s {sorted(self.troubles)}"
        )

    def replica(self, most: int | None = None) -> Replica:
        found = Replica(self.machine, self.seed, most, self.full)
        if "cold" not in self.troubles:
            found.measure()
        return found

    def asked(self, times_fits: float, seed: int = 0) -> list[Asked]:
        """What is asked at so many times the rate that fits."""
        draw, now, found = random.Random(f"{self.seed} {seed} {times_fits}"), 0.0, []
        rate = times_fits * self.fits
        while (now := now + draw.expovariate(rate)) < self.seconds:
            several = 64 if "bursts" in self.troubles and draw.random() < 1 / 64 else 1
            if "bursts" in self.troubles and several == 1 and draw.random() < 0.5:
                continue
            found += [self.one(draw, now) for _ in range(several)]
        return found

    def one(self, draw: Draw, now: float) -> Asked:
        work, terms, said, limit = self.work(draw), self.terms, None, None
        troubles = self.troubles
        if "other mixture" in troubles and now > self.at:
            work = replace(work, read=work.read * 2, steps=max(1.0, float(round(work.steps * 2))))
        if "short answers" in troubles and self.machine.kind == "stepwise":
            said, work = work, replace(work, steps=float(max(1, round(work.steps * draw.uniform(0.1, 1)))))
            limit = int(said.steps)
        if "cached prompts" in troubles and draw.random() < 0.5:
            said, work = said or work, replace(work, read=max(1.0, work.read / 10))
        if "wrong counts" in troubles:
            factor = draw.choice((0.5, 1, 2))
            said = replace(said or work, read=(said or work).read * factor)
            if self.machine.kind == "batches":
                said = replace(said, steps=said.steps * factor)
        client = f"10.0.0.{draw.randrange(5)}"
        if "flood" in troubles and draw.random() < 0.8:
            client = "10.0.0.99"
        terms = replace(terms, client=client)
        if "batch jobs" in troubles and draw.random() < 0.5:
            terms = replace(terms, patient=True, client="10.0.1.1", deadline_s=600.0)
        if not (shows := draw.random() < 0.7):
            terms = replace(terms, first_s=math.inf, piece_s=math.inf)
        return Asked(now, work, terms, said, limit, shows)


def drawn(seed: int, troubles: int = 0) -> Scenario:
    """A scenario with so many troubles."""
    draw = random.Random(seed)
    kind = draw.choice(("stepwise", "stepwise", "batches", "in turn"))
    noise, crowding = draw.uniform(0.02, 0.4), draw.choice((0.0, 0.0, 0.01, 0.03))
    step_s = math.exp(draw.uniform(math.log(0.002), math.log(0.5)))
    full = 16.0
    if kind == "stepwise":
        chunk, budget = draw.choice(((128, 256), (512, 2048), (2048, 8192), (64, 64), (1, 1)))
        base = step_s
        per_width, per_read = base * draw.uniform(0.01, 0.5), base * draw.uniform(0.5, 8) / chunk
        attention = draw.choice((0.0, 0.2))
        shape: dict[str, Any] = {"kind": kind, "chunk": chunk, "budget": budget, "apart": chunk == budget}
        machine = Machine(base, per_width, per_read, crowding, attention, noise, **shape)
        mean_read, mean_steps = draw.uniform(0.1, 6) * chunk, math.exp(draw.uniform(0, math.log(200)))
        spread = draw.choice((0.0, 0.5, 1.0))

        def work(draw: Draw) -> Work:
            read = max(1.0, mean_read * draw.lognormvariate(-(spread**2) / 2, spread))
            return Work(
                min(read, 8 * mean_read),
                float(max(1, round(mean_steps * draw.lognormvariate(-(spread**2) / 2, spread)))),
            )
    elif kind == "batches":
        units = draw.choice((512.0, 4096.0, 16384.0))
        machine = Machine(
            step_s, draw.uniform(1, 10) * step_s / units, 0, 0, 0, noise, kind=kind, items=64, units=units
        )
        most = draw.choice((1, 8, 100, 1000))
        size = draw.uniform(5, 60)

        def work(draw: Draw) -> Work:
            items = min(most, int(draw.paretovariate(0.7)))
            return Work(steps=items * size * draw.uniform(0.5, 2), items=items)
    else:
        machine = Machine(step_s, step_s * draw.uniform(0, 0.2), step_s * draw.uniform(0, 0.2), 0, 0, noise, kind=kind)
        sigma = draw.choice((0.0, 0.5, 1.0))

        def work(draw: Draw) -> Work:
            return Work(draw.lognormvariate(1, sigma), draw.lognormvariate(1, sigma))

    sample = [work(draw) for _ in range(200)]
    truth = Admission(Pace(), engine_of(machine, full)[1])
    truth.pace.state[:] = (machine.base, machine.per_width, machine.per_read)
    truth.pace.seen = 99
    alone = sorted((truth.alone(one) for one in sample), key=lambda one: one.whole_s)
    slow, middle = alone[-20], alone[100]
    fits = 1 / (sum(truth.cost_s(one) for one in sample) / len(sample))
    terms = Terms(whole_s=slow.whole_s * draw.uniform(2, 12))
    if kind == "stepwise" and draw.random() < 0.7:
        first_s = max(one.first_s for one in alone[:-10]) * draw.uniform(2, 10)
        terms = replace(terms, first_s=first_s, piece_s=(middle.piece_s or machine.base) * draw.uniform(1.5, 5))
    seconds = max(60.0, 20 * middle.whole_s)
    seconds = min(seconds, max(10 * middle.whole_s, 300 / fits))
    chosen = draw.sample(TROUBLES, troubles)
    at = seconds / 2
    if "slower" in chosen:
        machine = replace(machine, slowness=lambda now: 3.0 if now > at else 1.0)
        terms = replace(terms, first_s=3 * terms.first_s, piece_s=3 * terms.piece_s, whole_s=3 * terms.whole_s)
    if "faster" in chosen:
        machine = replace(machine, slowness=lambda now: 1 / 3 if now > at else 1.0)
    if "slow spell" in chosen:
        machine = replace(machine, slowness=lambda now: 10.0 if at / 2 < now < at else 1.0)
    if "pause" in chosen:
        machine = replace(machine, pauses=((at, min(20.0, seconds / 4)),))
    return Scenario(seed, machine, work, terms, fits, middle.whole_s, seconds, frozenset(chosen), full)
