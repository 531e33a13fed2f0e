"""What a moment holds for those inside a replica, and for who would come: when each has its answer (forecast.py), and
how much of its limits that uses up."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from deployments.servers.calls import Terms
from deployments.servers.forecast import Left, Schedule
from deployments.servers.pace import Pace, Work

# What is predicted, times a reserve, and so many standard deviations of it must be within the promise: of the noise of
# the steps, and of what is not known of the pace. The latter counts up to a share, for a pace of which little was seen
# must not keep everybody out.
DEVIATIONS, MOST_DOUBT = 1.0, 0.15


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


@dataclass(frozen=True, slots=True)
class Forecast:
    """When each of several requests will have its answer, in seconds from now.

    Attributes:
        rows: what is known of each; see Outlook.
        first_s, ends_s: the first and the last piece of each. steps: in how many steps of the engine the last is out.
        doubt: standard deviation of these times by what is not known of the pace, as a share of them.
    """

    rows: np.ndarray
    first_s: np.ndarray
    ends_s: np.ndarray
    steps: np.ndarray
    doubt: float


class Outlook:
    """What is known of those inside is put into rows once, for all that is asked about a moment: read, steps, width,
    items and items under way that it has left, its three limits, when it came, and when its first piece was out.

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
        self.rows = self._rows(inside)

    @functools.cached_property
    def as_it_is(self) -> Forecast:
        """For those inside, if nobody comes."""
        return self._forecast(self.rows, 0.0)

    def beside(self, newcomers: Iterable[Job], start: float = 0.0) -> Forecast:
        """For those inside, and after them some who would come.

        Args:
            start: the engine's step at which newcomers begin.
        """
        return self._forecast(np.concatenate((self.rows, self._rows(newcomers))), start)

    def without_others(self, jobs: Iterable[Job], times: int = 1) -> Forecast:
        """For these and nobody else, each of them so many times."""
        return self._forecast(np.tile(self._rows(jobs), (times, 1)), 0.0)

    def shares(self, found: Forecast, reserve: bool = True) -> list[float]:
        """The largest share of a limit that each uses up."""
        first_s, ends_s = found.first_s, found.ends_s
        first_limit, pieces_limit, whole_limit, came, first = found.rows[:, 5:].T
        lead_s = np.where(np.isnan(first), 0.0, self.now - first)
        ahead_s = np.where(np.isnan(first), ends_s - first_s, ends_s)
        if reserve:
            noise_s = DEVIATIONS * self.pace.noise * np.sqrt(ends_s / np.maximum(1.0, found.steps))
            first_s, ends_s, ahead_s = (
                each * self.reserve + np.hypot(noise_s * np.sqrt(each), DEVIATIONS * found.doubt * each)
                for each in (first_s, ends_s, ahead_s)
            )
        age_s = self.now - came
        shares = ((age_s + first_s) / first_limit, (lead_s + ahead_s) / pieces_limit, (age_s + ends_s) / whole_limit)
        return np.maximum.reduce(shares).tolist()

    def left_s(self) -> float:
        """Replica-seconds of work inside."""
        return sum(
            self.schedule.cost_s(self.pace, Work(read, steps, width, items + taken))
            for read, steps, width, items, taken in self.rows[:, :5].tolist()
        )

    def _rows(self, jobs: Iterable[Job]) -> np.ndarray:
        nan = math.nan
        rows = [
            (*self._left_of(job), *limits_of(job), job.came, nan if job.first is None else job.first) for job in jobs
        ]
        return np.array(rows, dtype=float).reshape(len(rows), 10)

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

    def _forecast(self, rows: np.ndarray, start: float) -> Forecast:
        starts = np.zeros((len(rows), 1))
        starts[len(self.rows) :] = start
        left = Left(*np.hstack((rows[:, :5], starts)).T, since_s=self.since_s)
        first_s, ends_s, steps = self.schedule.times(self.pace, left)
        late = self._overdue(left)
        doubt = self.pace.doubt(float(steps.max()), float(left.width @ left.steps), float(left.read.sum()))
        return Forecast(rows, first_s + late, ends_s + late, steps, min(MOST_DOUBT, doubt))

    def _overdue(self, left: Left) -> float:
        """Seconds since the engine should have shown progress: while it stands still, that is the least that everybody
        will wait. What is not answered teaches, too."""
        if not len(self.rows):
            return 0.0
        return max(0.0, self.since_s - 3 * self.schedule.longest_step_s(self.pace, left))


def limits_of(job: Job) -> tuple[float, float, float]:
    """Seconds to the first piece, for the pieces after it, and for all of it."""
    terms = job.terms
    if terms.patient or not terms.promised:
        return math.inf, math.inf, terms.whole() if terms.promised else math.inf
    first_s = terms.first_s if job.first is None else math.inf
    return first_s, (job.work.steps - 1) * terms.piece_s if job.work.steps > 1 else math.inf, terms.whole()
