"""What a moment holds for those inside a replica, and for who would come: when each has its answer (forecast.py), and
how much of its limits that uses up."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from deployments.servers.calls import Terms
from deployments.servers.forecast import Ends, Left, Schedule
from deployments.servers.pace import Pace, Work

# What is predicted, times a reserve, and so many standard deviations of it must be within the promise: of the noise of
# the steps, and of what is not known of the pace. The latter counts up to a share, for a pace of which little was seen
# must not keep everybody out.
DEVIATIONS, MOST_DOUBT = 1.0, 0.15

ALL = slice(None)


@dataclass(slots=True, eq=False)
class Job:
    """A request inside.

    Attributes:
        came: when its promise began. first: when its first piece was out; None before.
        wrote: pieces that are out. read: units that are still to be read.
        begun_at: the engine's step at which it came in, or the last one that read some of it.
        cost_s: replica-seconds that it takes.
        shows: its pieces are seen as they come, so none was written before the first was seen.
        left: tells how many of its items no batch has taken, and how many the batch has that runs, for engines that
            know.
    """

    work: Work
    terms: Terms
    came: float
    begun_at: float = 0.0
    shows: bool = False
    first: float | None = None
    wrote: float = 0.0
    read: float = 0.0
    cost_s: float = 0.0
    left: Callable[[], tuple[int, int]] | None = None

    @property
    def entered(self) -> float:
        """When the replica got it."""
        return self.came + self.terms.waited_s + self.terms.overhead_s

    @property
    def steps(self) -> float:
        """That are left; an answer that is longer than expected has at least one more."""
        return max(1.0, self.work.steps - self.wrote)


def job_of(work: Work, terms: Terms, now: float) -> Job:
    """A request that is not inside."""
    return Job(work, terms, now - terms.waited_s - terms.overhead_s, math.inf, read=work.read)


class Row(NamedTuple):
    """What is known of a request: what it has left, its three limits, when it came, and when its first piece was out;
    None before."""

    left: Left
    limits: tuple[float, float, float]
    came: float
    first: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """When each of several requests will have its answer.

    Attributes:
        rows: what is known of each. ends: of each.
        doubt: standard deviation of these times by what is not known of the pace, as a share of them.
    """

    rows: list[Row]
    ends: list[Ends]
    doubt: float


class Outlook:
    """What is known of those inside is put into rows once, for all that is asked about a moment.

    Args:
        inside: in the order in which they came.
        reserve: by which what is predicted is multiplied.
        steps: that the engine has made.
        since_s: seconds since it last showed progress.
    """

    def __init__(  # noqa: PLR0917
        self,
        inside: Iterable[Job],
        pace: Pace,
        schedule: Schedule,
        reserve: float,
        steps: float,
        since_s: float,
        now: float,
    ):
        self.pace, self.schedule, self.reserve = pace, schedule, reserve
        self.steps, self.since_s, self.now = steps, since_s, now
        self.rows = [self._row(job) for job in inside]

    @functools.cached_property
    def as_it_is(self) -> Forecast:
        """For those inside, if nobody comes."""
        return self._forecast(self.rows)

    def beside(self, newcomers: Iterable[Job], start: float = 0.0) -> Forecast:
        """For those inside, and after them some who would come.

        Args:
            start: the engine's step at which newcomers begin.
        """
        return self._forecast(self.rows + [self._row(job, start) for job in newcomers])

    def without_others(self, jobs: Iterable[Job], times: int = 1) -> Forecast:
        """For these and nobody else, each of them so many times."""
        return self._forecast([self._row(job) for job in jobs] * times)

    def shares(self, found: Forecast, reserve: bool = True, which: slice = ALL) -> list[float]:
        """The largest share of a limit that each uses up."""
        grown, noise, doubt = (self.reserve, self.pace.noise, found.doubt) if reserve else (1.0, 0.0, 0.0)
        return [
            self._share(row, ends, grown, DEVIATIONS * noise, DEVIATIONS * doubt)
            for row, ends in zip(found.rows[which], found.ends[which], strict=True)
        ]

    def _share(self, row: Row, ends: Ends, grown: float, noise: float, doubt: float) -> float:
        """
        Args:
            grown: what is predicted counts so many times. noise, doubt: and so many deviations of it are added: of
                one step, and of all, as shares.
        """
        first_s, end_s, steps = ends
        noise_s = noise * math.sqrt(end_s / max(1.0, steps))
        age_s = self.now - row.came
        lead_s, ahead_s = (0.0, end_s - first_s) if row.first is None else (self.now - row.first, end_s)
        most = 0.0
        for over_s, seconds, limit in zip((age_s, lead_s, age_s), (first_s, ahead_s, end_s), row.limits, strict=True):
            if limit < math.inf:
                doubt_s = math.hypot(noise_s * math.sqrt(seconds), doubt * seconds)
                most = max(most, (over_s + seconds * grown + doubt_s) / limit)
        return most

    def left_s(self) -> float:
        """Replica-seconds of work inside."""
        return sum(
            self.schedule.cost_s(self.pace, Work(left.read, left.steps, left.width, left.items + left.taken))
            for left, *_ in self.rows
        )

    def _row(self, job: Job, start: float = 0.0) -> Row:
        return Row(Left(*self._left_of(job), start), limits_of(job), job.came, job.first)

    def _left_of(self, job: Job) -> tuple[float, float, float, int, int]:
        work = job.work
        if job.left is not None:
            items, taken = job.left()
            return job.read, work.steps * (items + taken) / max(1, work.items), work.width, items, taken
        if job.first is not None:
            return 0.0, job.steps, work.width, work.items, 0
        written = self.steps - job.begun_at - self.schedule.steps_to_read(job.read)
        if written > 0 and not job.shows and not job.read:
            # What it has is what the engine's steps have brought it since it was read.
            return 0.0, max(1.0, work.steps - written), work.width, work.items, 0
        # It is not read before its first piece is out.
        return max(job.read, 1e-6), job.steps, work.width, work.items, 0

    def _forecast(self, rows: list[Row]) -> Forecast:
        left = [row.left for row in rows]
        ends = self.schedule.times(self.pace, left, self.since_s)
        if late_s := self._overdue(left):
            ends = [Ends(first_s + late_s, end_s + late_s, steps) for first_s, end_s, steps in ends]
        written, read = sum(one.width * one.steps for one in left), sum(one.read for one in left)
        doubt = self.pace.doubt(max(one.steps for one in ends), written, read)
        return Forecast(rows, ends, min(MOST_DOUBT, doubt))

    def _overdue(self, left: list[Left]) -> float:
        """Seconds since the engine should have shown progress: while it stands still, that is the least that everybody
        will wait. What is not answered teaches, too."""
        if not self.rows or self.since_s <= 3 * self.pace.base:  # no step is shorter
            return 0.0
        return max(0.0, self.since_s - 3 * self.schedule.longest_step_s(self.pace, left))


def limits_of(job: Job) -> tuple[float, float, float]:
    """Seconds to the first piece, for the pieces after it, and for all of it."""
    terms = job.terms
    if terms.patient or not terms.promised:
        return math.inf, math.inf, terms.whole() if terms.promised else math.inf
    first_s = terms.first_s if job.first is None else math.inf
    return first_s, (job.work.steps - 1) * terms.piece_s if job.work.steps > 1 else math.inf, terms.whole()
