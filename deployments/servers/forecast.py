"""When everybody inside a replica will have the first piece and the last piece of an answer.

Times are seconds from now. A handful of requests is faster in lists than in arrays, and this is computed several times
for each request that comes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from deployments.servers.pace import Pace, Work


class Left(NamedTuple):
    """What a request inside has left.

    Attributes:
        read, steps, width: as in Work; `read` is 0 where the first piece is out.
        items: parts that no batch has taken yet. taken: those that the batch has that runs.
        start: the step before which the work on it does not begin; 0 for now. Only Stepwise asks for it.
    """

    read: float
    steps: float
    width: float
    items: int
    taken: int = 0
    start: float = 0.0


class Ends(NamedTuple):
    """Seconds until the first piece and the end of a request, and in how many steps of the engine that is."""

    first_s: float
    end_s: float
    steps: float


class Schedule(Protocol):
    """How an engine shares its time.

    Attributes:
        most: the width that it works on at once. What is wider has to wait.
        side_by_side: who comes later slows down those inside.
    """

    side_by_side: ClassVar[bool]

    @property
    def most(self) -> float: ...

    def times(self, pace: Pace, left: Sequence[Left], since_s: float = 0.0) -> list[Ends]:
        """
        Args:
            left: of each request, in the order in which they came.
            since_s: seconds since the engine began what it does now.
        """
        ...

    def cost_s(self, pace: Pace, work: Work) -> float:
        """Seconds that a request takes of a replica that is fully used."""
        ...

    def longest_step_s(self, pace: Pace, left: Sequence[Left]) -> float:
        """Seconds after which the engine must have shown progress."""
        ...

    def steps_to_read(self, read: float) -> float:
        """Infinite where the steps do not tell how far a request is."""
        ...


class Span(NamedTuple):
    """The steps at which the reading of a request begins and ends and at which its last piece is out, and how much of
    it is read in a step."""

    begins: float
    read: float
    ends: float
    chunk: float

    @property
    def out(self) -> int:
        """The step at the end of which the first piece is out."""
        return math.ceil(self.read)


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

    def times(self, pace: Pace, left: Sequence[Left], since_s: float = 0.0) -> list[Ends]:
        spans = self._spans(left)
        at = self._clock(pace, left, spans)
        # A piece comes out at the end of a step, and the one that runs has to end first.
        rest_s = at[1.0] / 2 if len(left) > 1 else 0.0
        return [
            Ends(at[span.out] + rest_s if one.read > 0 else 0.0, at[span.ends] + rest_s, span.ends)
            for one, span in zip(left, spans, strict=True)
        ]

    def _spans(self, left: Sequence[Left]) -> list[Span]:
        """When each is read and written. Those who write leave less of the budget to read."""
        free = [0.0] * self.readers  # the step at which each place of a reader is free
        # Who writes, by when it ends, and who will, by when it begins. Nobody begins to be read before one that came
        # earlier, so each is passed once.
        writing = [(math.ceil(one.start) + max(0.0, one.steps), one.width) for one in left if one.read <= 0]
        written = sum(width for _, width in writing)
        heapq.heapify(writing)
        coming: list[tuple[float, float, float]] = []
        spans = []
        for one in left:
            if one.read <= 0:
                spans.append(Span(one.start, one.start, math.ceil(one.start) + max(0.0, one.steps), 0.0))
                continue
            begins = max(heapq.heappop(free), one.start)
            while coming and coming[0][0] <= begins:
                _, ends, width = heapq.heappop(coming)
                heapq.heappush(writing, (ends, width))
                written += width
            while writing and writing[0][0] <= begins:
                written -= heapq.heappop(writing)[1]
            chunk = max(1.0, min(self.chunk, (self.budget - written) / self.readers))
            read = begins + one.read / chunk
            span = Span(begins, read, math.ceil(read) + max(0.0, one.steps - 1), chunk)
            heapq.heappush(coming, (read, span.ends, one.width))
            heapq.heappush(free, read)
            spans.append(span)
        return spans

    @staticmethod
    def _clock(pace: Pace, left: Sequence[Left], spans: Sequence[Span]) -> dict[float, float]:
        """How many seconds from now each step begins at which something changes, and the first one ends."""
        base, per_width, per_read = pace.base, pace.per_width, pace.per_read
        # By how much a step takes longer from there on.
        changes = {0.0: base, 1.0: 0.0}
        for one, (begins, read, ends, chunk) in zip(left, spans, strict=True):
            out = float(math.ceil(read))
            if chunk:
                changes[begins] = changes.get(begins, 0.0) + per_read * chunk
                changes[read] = changes.get(read, 0.0) - per_read * chunk
            changes[out] = changes.get(out, 0.0) + per_width * one.width
            changes[ends] = changes.get(ends, 0.0) - per_width * one.width
        clock: dict[float, float] = {}
        seconds = step_s = before = 0.0
        for step in sorted(changes):
            seconds += (step - before) * step_s
            clock[step] = seconds
            step_s, before = step_s + changes[step], step
        return clock

    def cost_s(self, pace: Pace, work: Work) -> float:
        reading = work.read * (pace.per_read + pace.base / (self.chunk * self.readers) / 2)
        return reading + work.steps * (work.width * pace.per_width + pace.base * min(1.0, work.width / self.full))

    def longest_step_s(self, pace: Pace, left: Sequence[Left]) -> float:
        most = min(sum(one.read for one in left), self.chunk * self.readers)
        return pace.seconds(1, sum(one.width for one in left), most)

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

    def times(self, pace: Pace, left: Sequence[Left], since_s: float = 0.0) -> list[Ends]:
        _, steps, _, items, taken, _ = np.array(left, dtype=float).T
        came = np.arange(len(items))
        # Of those that came later, what has the turn of my last item comes after it.
        turns = np.maximum(0, items[:, None] - (came[None, :] > came[:, None]))
        before = np.minimum(items[None, :], turns)
        each = steps / np.maximum(1, items + taken)
        units = before @ each
        batches = np.maximum(np.ceil(units / self.units), np.ceil(before.sum(axis=1) / self.items))
        ends = pace.base * batches + pace.per_width * units
        if running := float(taken @ each):
            ends = ends + max(0.0, pace.base + pace.per_width * running - since_s)
        # Items of those behind are in the last batch beside mine.
        last = np.minimum(self.units * batches, float(items @ each)) - units
        ends = ends + pace.per_width * np.maximum(0.0, last) / 2
        counts = batches + (running > 0)
        return [Ends(end_s, end_s, count) for end_s, count in zip(ends.tolist(), counts.tolist(), strict=True)]

    def cost_s(self, pace: Pace, work: Work) -> float:
        batches = max(work.steps / self.units, work.items / self.items)
        return work.steps * pace.per_width + batches * pace.base

    def longest_step_s(self, pace: Pace, left: Sequence[Left]) -> float:
        return pace.seconds(1, self.units, 0)

    def steps_to_read(self, read: float) -> float:
        return math.inf


@dataclass(frozen=True, slots=True)
class InTurn:
    """Works on one request at a time, in the order in which they came. Each counts as one step, and its pieces as the
    width of it."""

    side_by_side: ClassVar[bool] = False
    most: float = math.inf

    def times(self, pace: Pace, left: Sequence[Left], since_s: float = 0.0) -> list[Ends]:
        writing = [pace.per_width * one.width * one.steps for one in left]
        ends = list(
            itertools.accumulate(
                pace.base + pace.per_read * one.read + seconds for one, seconds in zip(left, writing, strict=True)
            )
        )
        done_s = min(since_s, ends[0])
        return [
            Ends(max(0.0, end_s - done_s - seconds), end_s - done_s, float(place))
            for place, (end_s, seconds) in enumerate(zip(ends, writing, strict=True), 1)
        ]

    def cost_s(self, pace: Pace, work: Work) -> float:
        return pace.seconds(1, work.width * work.steps, work.read)

    def longest_step_s(self, pace: Pace, left: Sequence[Left]) -> float:
        widest = max((one.width * one.steps for one in left), default=0.0)
        return pace.seconds(1, widest, max((one.read for one in left), default=0.0))

    def steps_to_read(self, read: float) -> float:
        return math.inf
