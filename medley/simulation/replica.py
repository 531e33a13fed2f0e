"""A replica on a virtual clock: an engine that works in steps, behind the admission that real replicas have.

Three kinds of engine, as in deployments/servers/forecast.py. What a step takes is the machine's secret: the admission
sees what it would see of a real engine, which steps were made and how long they took.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from deployments.servers.admission import Admission
from deployments.servers.batching import Batcher
from deployments.servers.calls import NEWEST, Terms
from deployments.servers.forecast import Batches, InTurn, Schedule, Stepwise
from deployments.servers.lengths import Lengths
from deployments.servers.outlook import Job
from deployments.servers.pace import Pace, Work
from models.errors import ServingError


def steady(now: float) -> float:
    return 1.0


@dataclass(frozen=True)
class Machine:
    """What a step takes: `base + per_width * width + per_read * read` seconds, as in Pace, and what Pace does not know.

    Attributes:
        crowding: what each width costs more for each other beside it, as a share of per_width.
        attention: what a token costs more to read behind a thousand others, as a share of per_read.
        noise: standard deviation of the logarithm of a step's time.
        slowness: by how much all is slower at a moment. pauses: (moment, seconds) in which nothing happens.
        kind: of engine: "stepwise", "batches" or "in turn".
        chunk, budget, sequences: of a stepwise one: tokens of one prompt that it reads in a step, tokens that it reads
            and writes in a step, and requests that it has under way; others wait.
        apart: what it writes takes nothing from what it may read, as with pictures.
        items, units: the most in a batch.
    """

    base: float = 0.02
    per_width: float = 0.004
    per_read: float = 0.003
    crowding: float = 0.0
    attention: float = 0.0
    noise: float = 0.1
    slowness: Callable[[float], float] = steady
    pauses: tuple[tuple[float, float], ...] = ()
    kind: str = "stepwise"
    chunk: int = 128
    budget: int = 256
    sequences: int = 256
    apart: bool = False
    items: int = 64
    units: float = 4096.0

    def seconds(self, width: float, read: float, behind: float = 0.0) -> float:
        """
        Args:
            behind: sum over the tokens read of the thousands of tokens that stand before them.
        """
        writing = self.per_width * width * (1 + self.crowding * max(0.0, width - 1))
        return self.base + writing + self.per_read * (read + self.attention * behind)


@dataclass(eq=False)
class Asked:
    """A request.

    Attributes:
        at: when it was asked for the first time. work: what it is. said: what the server takes it for, before it is
            done. None for the same.
        limit: of the answer; the server has learnt how long answers with such a limit are. None: `said` knows.
        shows: the server sees its pieces as they come.
        kept: is done, or would be let in, on this promise.
    """

    at: float
    work: Work
    terms: Terms
    said: Work | None = None
    limit: int | None = None
    shows: bool = True
    tried: int = 0
    first: float | None = None
    end: float | None = None
    refused: ServingError | None = None
    lost: bool = False
    waits: bool = False
    work_s: float = 0.0
    wrote: float = 0.0
    read: float = 0.0
    items: int = 0
    job: Job | None = None

    def good(self, times: float = 1.0) -> bool:
        """Whether it was answered within so many times what was promised."""
        if self.end is None or self.first is None:
            return False
        pieces, terms = self.work.steps - 1, self.terms
        each = (self.end - self.first) / pieces if pieces > 0 else 0.0
        first_s, whole_s = self.first - self.at, self.end - self.at
        return first_s <= times * terms.first_s and each <= times * terms.piece_s and whole_s <= times * terms.whole()


@dataclass(slots=True)
class Turn:
    """Equal steps, one after the other.

    Attributes:
        parts: whose they are, and how much of each is read, or how many of its items are done, in a step.
        width, read: of one step, for the admission. waiting: the width of those that are not begun in it.
    """

    began: float
    steps: int
    step_s: float
    width: float
    read: float
    parts: Sequence[tuple[Asked, float]] = ()
    behind: float = 0.0
    waiting: float = 0.0

    @property
    def end(self) -> float:
        return self.began + self.steps * self.step_s


class Engine(Protocol):
    def add(self, one: Asked) -> None: ...
    def next(self, now: float) -> Turn | None: ...
    def done(self, turn: Turn, steps: int, end: float) -> list[Asked]:
        """So many steps of a turn are over. Returns whose answers are whole."""
        ...


class Replica:
    """
    Args:
        most: so many may be inside, in place of the admission. None for the admission.
        together: equal steps are computed at once. Else, each has its own noise.
    """

    def __init__(
        self, machine: Machine, seed: int = 0, most: int | None = None, full: float = 16, together: bool = False
    ):
        self.machine, self.most, self.together = machine, most, together
        self.draw = random.Random(seed)
        self.lengths = Lengths()
        self.engine, schedule = engine_of(machine, full)
        self.admission = Admission(Pace(), schedule)
        self.inside: list[Asked] = []
        self.turn: Turn | None = None
        self.service_s = 0.0

    @property
    def due(self) -> float:
        """When the replica next does something; infinite if it is idle."""
        return self.turn.end if self.turn else math.inf

    def measure(self, now: float = 0.0) -> None:
        """What a real one does while it warms up."""
        machine = self.machine
        if machine.kind == "stepwise":
            # A prompt and an answer of eight pieces, then six side by side: see chat.py.
            sizes = [(0, machine.chunk), (0, machine.chunk), *[(1, 0)] * 7, (4, machine.chunk / 2), *[(6, 0)] * 7]
        elif machine.kind == "batches":
            sizes = [(32, 0), (32, 0), (16 * 32, 0), (16 * 32, 0)]
        else:
            sizes = [(8, 64), (8, 64), (8, 8)]
        for width, read in sizes:
            self.admission.did(self.step_s(now, width, read), 1, width, read, now)

    def step_s(self, now: float, width: float, read: float, behind: float = 0.0) -> float:
        seconds = self.machine.seconds(width, read, behind) * self.machine.slowness(now)
        return seconds * math.exp(self.draw.gauss(0, self.machine.noise))

    def ask(self, asked: Asked, now: float) -> bool:
        """Whether a request is let in. If not, `refused` says why."""
        self.until(now)
        asked.tried += 1
        asked.refused = None
        if self.most is not None:
            if len(self.inside) >= self.most:
                asked.refused = ServingError("full")
                return False
        else:
            try:
                asked.job = self.admission.enter(self.said(asked), asked.terms, now, asked.shows)
            except ServingError as error:
                asked.refused = error
                return False
        asked.read, asked.wrote, asked.items, asked.first, asked.lost = (
            asked.work.read,
            0.0,
            asked.work.items,
            None,
            False,
        )
        self.inside.append(asked)
        self.engine.add(asked)
        if self.turn is None:
            self.begin(now)
        elif self.turn.steps > 1:
            self.turn.steps = 1  # it comes in after the step that runs
        return True

    def said(self, asked: Asked) -> Work:
        """What a request is taken for."""
        said = asked.said or asked.work
        if asked.limit is None:
            return said
        return Work(said.read, self.lengths.answer(asked.limit), said.width, said.items)

    def until(self, now: float) -> list[Asked]:
        """Work up to a moment. Returns who was answered."""
        answered: list[Asked] = []
        while self.turn and self.turn.end <= now:
            answered += self.done(self.turn, self.turn.steps)
            self.begin(self.turn.end)
        if self.turn and self.turn.steps > 1 and (steps := int((now - self.turn.began) / self.turn.step_s)) > 0:
            turn, steps = self.turn, min(steps, self.turn.steps - 1)
            self.done(turn, steps)
            turn.began, turn.steps = turn.began + steps * turn.step_s, turn.steps - steps
        return answered

    def begin(self, now: float) -> None:
        self.turn = turn = self.engine.next(now)
        if turn is None:
            return
        if not self.together:
            turn.steps = 1
        turn.step_s = self.step_s(now, turn.width, turn.read, turn.behind)
        for at, seconds in self.machine.pauses:
            if at - turn.step_s <= now < at:
                turn.steps, turn.step_s = 1, turn.step_s + seconds
            elif at <= now < at + seconds:
                turn.steps, turn.step_s = 1, turn.step_s + at + seconds - now
            elif now < at < turn.end:
                turn.steps = int((at - now) / turn.step_s)

    def done(self, turn: Turn, steps: int) -> list[Asked]:
        end = turn.began + steps * turn.step_s
        self.admission.did(turn.step_s * steps, steps, turn.width * steps, turn.read * steps, end, turn.waiting)
        before = {one: one.wrote for one, _ in turn.parts}
        answered = self.engine.done(turn, steps, end)
        for one, wrote in before.items():
            if one.job and one.shows and one.wrote > wrote:
                self.admission.wrote(one.job, one.wrote - wrote, end)
        for one in answered:
            one.end = end
            self.inside.remove(one)
            took_s = end - (one.job.came if one.job else one.at)
            self.service_s = took_s if not self.service_s else self.service_s + NEWEST * (took_s - self.service_s)
            if one.limit is not None:
                self.lengths.learn_answer(one.limit, one.work.steps)
            if one.job:
                self.admission.leave(one.job, end, kept=True)
        return answered

    def die(self) -> list[Asked]:
        """Returns who was inside."""
        lost, self.inside, self.turn = self.inside, [], None
        for one in lost:
            one.lost = True
        return lost


def engine_of(machine: Machine, full: float) -> tuple[Engine, Schedule]:
    if machine.kind == "stepwise":
        readers = machine.budget // machine.chunk
        budget = math.inf if machine.apart else machine.budget
        schedule = Stepwise(machine.chunk, readers, full, machine.sequences, budget)
        return Steps(machine), schedule
    if machine.kind == "batches":
        return InBatches(machine), Batches(machine.items, machine.units)
    return OneByOne(), InTurn()


class Steps:
    """Reads prompts in chunks, and writes a piece of every answer in each step, as vLLM does."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.running: list[Asked] = []

    def add(self, one: Asked) -> None:
        self.running.append(one)

    def next(self, now: float) -> Turn | None:
        if not self.running:
            return None
        parts: list[tuple[Asked, float]] = []
        under_way = self.running[: self.machine.sequences]
        writing = 0.0 if self.machine.apart else sum(one.work.width for one in under_way if one.read <= 0)
        budget = max(0.0, self.machine.budget - writing)
        width, read, behind, steps = 0.0, 0.0, 0.0, math.inf
        for one in under_way:
            if one.read > 0:
                if not (part := min(one.read, self.machine.chunk, budget)):
                    continue
                budget, read = budget - part, read + part
                behind += part * (one.work.read - one.read) / 1000
                steps = min(steps, max(1, math.ceil(one.read / part) - 1))
            else:
                part, width = 0.0, width + one.work.width
                steps = min(steps, math.ceil(one.work.steps - one.wrote))
            parts.append((one, part))
        begun = {one for one, _ in parts}
        waiting = sum(one.work.width for one in self.running if one not in begun and one.read == one.work.read)
        return Turn(now, int(max(1, steps)), 0.0, width, read, parts, behind, waiting)

    def done(self, turn: Turn, steps: int, end: float) -> list[Asked]:
        answered = []
        for one, part in turn.parts:
            one.read = max(0.0, one.read - part * steps)
            if one.read > 1e-9:
                continue
            one.read = 0.0
            one.first = one.first if one.first is not None else end - turn.step_s * (steps - 1)
            one.wrote += steps if not part else 1
            if one.wrote >= one.work.steps:
                answered.append(one)
                self.running.remove(one)
        return answered


class InBatches:
    """Batches of items, filled as servers fill them."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.batcher: Batcher[Asked, Any] = Batcher(list, largest_batch=machine.items, largest_cost=machine.units)

    def add(self, one: Asked) -> None:
        cost, items = one.work.steps / one.work.items, one.work.items
        request = SimpleNamespace(done=SimpleNamespace(done=lambda: one.lost), queued=0)
        self.batcher.put([one] * items, [cost] * items, request, one.terms.patient)  # pyright: ignore[reportArgumentType]
        if one.job is not None:
            one.job.left = lambda: (request.queued, one.items - request.queued)

    def next(self, now: float) -> Turn | None:
        batch = self.batcher.take_batch()
        if not batch:
            return None
        return Turn(now, 1, 0.0, sum(item.cost for item in batch), 0.0, [(item.value, 1.0) for item in batch])

    def done(self, turn: Turn, steps: int, end: float) -> list[Asked]:
        answered = []
        for one, _ in turn.parts:
            one.items -= 1
            if not one.items:
                one.first = end
                answered.append(one)
        return answered


class OneByOne:
    """One request at a time."""

    def __init__(self) -> None:
        self.queue: list[Asked] = []

    def add(self, one: Asked) -> None:
        self.queue.append(one)

    def next(self, now: float) -> Turn | None:
        if not self.queue:
            return None
        one = self.queue[0]
        return Turn(now, 1, 0.0, one.work.width * one.work.steps, one.work.read, [(one, one.work.read)])

    def done(self, turn: Turn, steps: int, end: float) -> list[Asked]:
        one = self.queue.pop(0)
        one.first, one.read = end, 0.0
        return [one]
