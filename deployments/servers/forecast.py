"""When everybody inside a replica will have the first piece and the last piece of an answer.

Each kind of schedule is computed at once for all requests, from how much each has left. Times are seconds from now.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from deployments.servers.pace import Pace, Work


@dataclass(frozen=True, slots=True)
class Left:
    """What the requests inside have left, in the order in which they came. Arrays of the same length.

    Attributes:
        read, steps, width: as in Work; `read` is 0 where the first piece is out.
        items: parts that no batch has taken yet. taken: those that the batch has that runs.
        start: the step before which the work on it does not begin; 0 for now. Only Stepwise asks for it.
        since_s: seconds since the engine began what it does now.
    """

    read: np.ndarray
    steps: np.ndarray
    width: np.ndarray
    items: np.ndarray
    taken: np.ndarray
    start: np.ndarray
    since_s: float = 0.0


class Schedule(Protocol):
    """How an engine shares its time.

    Attributes:
        most: the width that it works on at once. What is wider has to wait.
        side_by_side: who comes later slows down those inside.
    """

    side_by_side: ClassVar[bool]

    @property
    def most(self) -> float: ...

    def times(self, pace: Pace, left: Left) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each request: seconds until its first piece, until its end, and in how many steps that is."""
        ...

    def cost_s(self, pace: Pace, work: Work) -> float:
        """Seconds that a request takes of a replica that is fully used."""
        ...

    def longest_step_s(self, pace: Pace, left: Left) -> float:
        """Seconds after which the engine must have shown progress."""
        ...

    def steps_to_read(self, read: float) -> float:
        """Infinite where the steps do not tell how far a request is."""
        ...


@dataclass(frozen=True, slots=True)
class Stepwise:
    """Writes all answers side by side, a piece each in every step, and reads beside that.

    Attributes:
        chunk: units of one request that are read in a step.
        readers: requests that are read in the same step.
        budget: units that are read and pieces that are written in a step; what is written goes first.
        full: the width of a step that is full, for `cost_s`.
        most: see Schedule.
    """

    side_by_side: ClassVar[bool] = True
    chunk: float
    readers: int = 1
    full: float = 16.0
    most: float = math.inf
    budget: float = math.inf

    def times(self, pace: Pace, left: Left) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = len(left.read)
        reads = left.read > 0
        begins, first, ends, chunks = self._read(left, reads)
        out = np.ceil(first)  # the step at the end of which the first piece is out
        marks = np.unique(np.concatenate((np.zeros(1), begins, first, out, ends)))
        if len(marks) == 1:
            return np.zeros(count), np.zeros(count), ends
        middle = (marks[:-1] + marks[1:]) / 2
        writing = (out[:, None] <= middle) & (middle < ends[:, None])
        reading = reads[:, None] & (begins[:, None] <= middle) & (middle < first[:, None])
        step_s = pace.base + pace.per_width * (left.width @ writing) + pace.per_read * (chunks @ reading)
        at = np.concatenate((np.zeros(1), np.cumsum(np.diff(marks) * step_s)))
        # A piece comes out at the end of a step, and the one that runs has to end first.
        rest = float(np.interp(1.0, marks, at)) / 2 if count > 1 else 0.0
        return (
            np.where(reads, np.interp(out, marks, at) + rest, 0.0),
            np.interp(ends, marks, at) + rest,
            ends,
        )

    def _read(self, left: Left, reads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For each: the steps at which its reading begins and ends, at which its last piece is out, and how much of it
        is read in a step. Those who write leave less of the budget to read."""
        # Lists, because numpy takes longer for single numbers.
        start, steps, width, to_read = (each.tolist() for each in (left.start, left.steps, left.width, left.read))
        begins, first, chunks = list(start), list(start), [0.0] * len(start)
        ends = [math.ceil(at) + max(0.0, left_of) for at, left_of in zip(start, steps, strict=True)]
        free = [0.0] * self.readers  # the step at which each place of a reader is free
        # Who writes, by when it ends, and who will, by when it begins. Nobody begins to be read before one that came
        # earlier, so each is passed once.
        writing = [(ends[index], width[index]) for index in np.flatnonzero(~reads).tolist()]
        written = sum(each for _, each in writing)
        heapq.heapify(writing)
        coming: list[tuple[float, float, float]] = []
        for index in np.flatnonzero(reads).tolist():
            begin = begins[index] = max(heapq.heappop(free), start[index])
            while coming and coming[0][0] <= begin:
                _, end, each = heapq.heappop(coming)
                heapq.heappush(writing, (end, each))
                written += each
            while writing and writing[0][0] <= begin:
                written -= heapq.heappop(writing)[1]
            chunks[index] = max(1.0, min(self.chunk, (self.budget - written) / self.readers))
            first[index] = begin + to_read[index] / chunks[index]
            ends[index] = math.ceil(first[index]) + max(0.0, steps[index] - 1)
            heapq.heappush(coming, (first[index], ends[index], width[index]))
            heapq.heappush(free, first[index])
        return np.array(begins), np.array(first), np.array(ends), np.array(chunks)

    def cost_s(self, pace: Pace, work: Work) -> float:
        reading = work.read * (pace.per_read + pace.base / (self.chunk * self.readers) / 2)
        return reading + work.steps * (work.width * pace.per_width + pace.base * min(1.0, work.width / self.full))

    def longest_step_s(self, pace: Pace, left: Left) -> float:
        most = min(float(left.read.sum()), self.chunk * self.readers)
        return pace.seconds(1, float(left.width.sum()), most)

    def steps_to_read(self, read: float) -> float:
        return read / self.chunk


@dataclass(frozen=True, slots=True)
class Batches:
    """Works in batches that cannot be interrupted, filled by turns: item k of a request counts as if it had come k
    turns after the first (batching.py). A batch counts as one step, and its units, which are in `steps` of the work, as
    its width.

    Attributes:
        items, units: the most in a batch.
    """

    side_by_side: ClassVar[bool] = False
    items: float
    units: float
    most: float = math.inf

    def times(self, pace: Pace, left: Left) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        items = left.items
        came = np.arange(len(items))
        # Of those that came later, what has the turn of my last item comes after it.
        turns = np.maximum(0, items[:, None] - (came[None, :] > came[:, None]))
        before = np.minimum(items[None, :], turns)
        each = left.steps / np.maximum(1, items + left.taken)
        units = before @ each
        batches = np.maximum(np.ceil(units / self.units), np.ceil(before.sum(axis=1) / self.items))
        ends = pace.base * batches + pace.per_width * units
        if running := float(left.taken @ each):
            ends = ends + max(0.0, pace.base + pace.per_width * running - left.since_s)
        # Items of those behind are in the last batch beside mine.
        last = np.minimum(self.units * batches, float(items @ each)) - units
        ends = ends + pace.per_width * np.maximum(0.0, last) / 2
        return ends, ends, batches + (running > 0)

    def cost_s(self, pace: Pace, work: Work) -> float:
        batches = max(work.steps / self.units, work.items / self.items)
        return work.steps * pace.per_width + batches * pace.base

    def longest_step_s(self, pace: Pace, left: Left) -> float:
        return pace.seconds(1, self.units, 0)

    def steps_to_read(self, read: float) -> float:
        return math.inf


@dataclass(frozen=True, slots=True)
class InTurn:
    """Works on one request at a time, in the order in which they came. Each counts as one step, and its pieces as the
    width of it."""

    side_by_side: ClassVar[bool] = False
    most: float = math.inf

    def times(self, pace: Pace, left: Left) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        writing = pace.per_width * left.width * left.steps
        ends = np.cumsum(pace.base + pace.per_read * left.read + writing)
        ends = ends - min(left.since_s, float(ends[0]))
        return np.maximum(0.0, ends - writing), ends, np.arange(1.0, len(ends) + 1)

    def cost_s(self, pace: Pace, work: Work) -> float:
        return pace.seconds(1, work.width * work.steps, work.read)

    def longest_step_s(self, pace: Pace, left: Left) -> float:
        return pace.seconds(1, float((left.width * left.steps).max(initial=0.0)), float(left.read.max(initial=0.0)))

    def steps_to_read(self, read: float) -> float:
        return math.inf
