"""Admission: a replica takes a request only if it can keep the promise to it and to everybody inside.

A server that accepts everything answers everybody too late: it does all the work, and none of it is useful. So for each
request the replica computes when everybody would have an answer with it (outlook.py), from the work that each has left
and from its own pace (pace.py). A request that would break a promise is refused at once, with the time after which
there is room.

Nothing here waits or reads a clock, so the simulator and the tests run the same code.
"""

from __future__ import annotations

import bisect
import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

from deployments.servers.calls import Estimate, Terms, Times
from deployments.servers.forecast import Ends, Left, Schedule
from deployments.servers.outlook import Job, Outlook, job_of
from deployments.servers.pace import Pace, Work
from models.errors import BeyondPromise, ServingError, TooBusy

# What is predicted is multiplied by a reserve (outlook.py). It follows the share of answers that came too late after
# all: after each window of so many answers, by so much for each late share above the tolerated one.
RESERVE, LEAST_RESERVE, MOST_RESERVE = 1.1, 1.05, 3.0
WINDOW, FOLLOWS, MOST_AT_ONCE, TOLERATED = 10, 0.5, 0.2, 0.02
# One that takes longer by no more than this is not delayed.
DELAYED = 1.01
# Who will use up more than its limits may use up so much of them, and from LOST on any.
LATE, LOST = 1.5, 2.0
# The share of each limit that may be used up by letting batch jobs in.
BATCH_SHARE = 0.6
# And by letting in those who come when they were told to. For them another refusal would be worse than some risk, so of
# their own limits they may use up so much without the reserve.
IN_TURN = 1.15
# Of those who are expected to come in their turn about now, for so many a place is kept beside those that become free
# meanwhile.
PLACES = 0.1
# Room is kept for the next stream, if so many are expected before the newcomer has its first piece.
LIKELY = 0.5
# As long as this share of the room within the limits is not used up, a client may have any amount of it, and then only
# its fair share. Of so many requests is computed whether there is room for as much for everybody.
FREE_FOR_ALL, MOST_SHARED = 0.75, 128
# Seconds after its last request for which a client counts when work is shared.
ACTIVE_S = 10.0
SHORTEST_S = 1.0
# So many that a replica cannot answer in time even alone are refused one after the other. Then one is let in, for the
# replica may have become faster.
DOUBT = 20
# Over how many seconds the demand is averaged, and what the engine's steps take.
DEMAND_S = 2.0
# The same for the work that is done.
DONE_S = 10.0

Allowed = Callable[[], list[float]]


@dataclass(slots=True)
class Demand:
    """Work in replica-seconds a second, as an exponential mean over so many seconds."""

    over_s: float
    rate: float = 0.0
    at: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        self.rate = self.now(now) + seconds / self.over_s
        self.at = now

    def now(self, now: float) -> float:
        return self.rate * math.exp(-max(0.0, now - self.at) / self.over_s)


class Admission:
    """
    Args:
        schedule: how the engine shares its time.
    """

    def __init__(self, pace: Pace, schedule: Schedule):
        self.pace = pace
        self.schedule = schedule
        self.inside: list[Job] = []  # in the order in which they came
        self.steps = 0.0  # that the engine has made
        self.learnt_at = -math.inf
        self.hopeless = 0  # requests refused since then because it cannot answer them in time even alone
        self.progress_at = -math.inf
        self.demand = Demand(DEMAND_S)
        self.done = Demand(DONE_S)
        self.stepping, self.stepped = Demand(DEMAND_S), Demand(DEMAND_S)  # seconds of the engine's steps; how many
        self.told: dict[str, tuple[float, float]] = {}
        self.reserve = RESERVE
        self.answers, self.late = 0, 0  # of the present window
        self.raised_at = -math.inf  # when the reserve last was
        self.good = 1  # as many as were inside together when an answer kept its promise
        self.usual: Work | None = None  # of the last interactive request
        self.streamed: tuple[Work, Terms] | None = None  # the last one whose beginning is promised
        self.streams = Demand(DEMAND_S)  # how many of these come a second
        self.seen: dict[str, float] = {}  # when each client last asked

    # What the engine tells.

    def did(  # noqa: PLR0917
        self, seconds: float, steps: float, width: float, read: float, now: float, waiting: float = 0.0
    ) -> None:
        """The engine worked.

        Args:
            seconds, steps, width, read: see Pace.learn.
            waiting: the width of those that it has not begun, if it tells.
        """
        self.pace.learn(seconds, steps, width, read)
        self.steps += steps
        self.stepping.add(seconds, now)
        self.stepped.add(steps, now)
        self.learnt_at = self.progress_at = now
        self.hopeless = 0
        self._note_read(steps, read)
        self._note_waiting(waiting)

    def _note_read(self, steps: float, read: float) -> None:
        """Those who came first are read first. Who was there while nothing was read has been read, or found in a
        cache."""
        most = max(1.0, steps) / self.schedule.steps_to_read(1.0)
        nothing = not read and most > 0
        for job in self.inside:
            if job.read <= 0:
                continue
            if read > 0:
                part = min(job.read, most, read)
                read -= part
                job.read -= part
                job.begun_at = self.steps
            elif nothing and job.begun_at < self.steps - max(1.0, steps):
                job.read, job.begun_at = 0.0, self.steps - steps

    def _note_waiting(self, waiting: float) -> None:
        """Those who came last have not been begun. What was read of others was taken for theirs, if prompts are longer
        than was thought, and without this the difference would grow as long as the engine is busy."""
        for job in reversed(self.inside):
            if waiting <= 0:
                return
            if job.first is None:
                job.read, job.begun_at = job.work.read, self.steps
                waiting -= job.work.width

    # Requests that come and go.

    def enter(self, work: Work, terms: Terms, now: float, shows: bool = False) -> Job:
        """Let a request in.

        Args:
            shows: see Job.

        Raises:
            TooBusy: it would break a promise, its own or another's.
            BeyondPromise: its promise cannot be kept even alone.
        """
        cost_s = self.cost_s(work)
        if not terms.again:
            self.demand.add(cost_s, now)
        self._note_client(terms.client, now)
        if begins(terms):
            self.streamed = work, terms
            self.streams.add(1.0, now)
        if terms.router:
            self.told[terms.router] = (terms.told_s, now)
        if terms.promised and not terms.sure:
            try:
                self._check(work, terms, now)
            except BeyondPromise:
                self.hopeless += 1
                raise
        if not self.inside:
            self.progress_at = now
        came = now - terms.waited_s - terms.overhead_s
        job = Job(work, terms, came, self.steps, shows, read=work.read, cost_s=cost_s)
        self.inside.append(job)
        if not terms.patient:
            self.usual = work
        return job

    def leave(self, job: Job, now: float, kept: bool = False) -> None:
        """
        Args:
            kept: it was answered in full.
        """
        if kept:
            self.good = max(self.good, len(self.inside))
            self.done.add(job.cost_s, now)
            self._follow(job, now)
            self.progress_at = now  # who gives up says nothing of the engine
        self.inside.remove(job)

    def _follow(self, job: Job, now: float) -> None:
        """Learn the reserve from an answer. Those who were let in before it was raised say nothing of the new one: what
        makes one of them late makes all who are inside with it late."""
        if not job.terms.promised or job.terms.sure or job.entered < self.raised_at:
            return
        self.answers += 1
        self.late += is_late(job, now)
        if self.answers >= WINDOW:
            change = FOLLOWS * (self.late / self.answers - TOLERATED)
            self.raised_at = now if change > 0 else self.raised_at
            self.reserve *= math.exp(min(MOST_AT_ONCE, change))
            self.reserve = min(MOST_RESERVE, max(LEAST_RESERVE, self.reserve))
            self.answers = self.late = 0

    def wrote(self, job: Job, pieces: float, now: float) -> None:
        """Pieces of an answer are out."""
        if job.first is None:
            job.first, job.read = now, 0.0
        job.wrote += pieces

    # What is predicted.

    def cost_s(self, work: Work) -> float:
        """Replica-seconds that a request takes of a replica that is fully used."""
        return self.schedule.cost_s(self.pace, work) if self.pace.known else 0.0

    def times(self, work: Work, terms: Terms, now: float) -> Times:
        """What a request could expect now, if others come as they do now."""
        found = self._outlook(now).beside(self._newcomers(work, terms, now))
        first_s, end_s, _ = found.ends[-1]
        return times(work, first_s, end_s + self._later_s(work, end_s - first_s, now))

    def _later_s(self, work: Work, rest_s: float, now: float) -> float:
        """By how much those who come after it lengthen an answer that is written in `rest_s` if nobody comes: as far
        as the engine was busy lately, its steps go on taking as long as they took."""
        if not self.schedule.side_by_side or self.stepped.rate <= 0:
            return 0.0
        usual_s = (work.steps - 1) * self.stepping.rate / self.stepped.rate
        return min(1.0, self.stepping.now(now)) * max(0.0, usual_s - rest_s)

    def alone(self, work: Work, pace: Pace | None = None) -> Times:
        """What a request could expect if nobody else were there.

        Args:
            pace: None for that of now.
        """
        [(first_s, end_s, _)] = self.schedule.times(
            pace or self.pace, [Left(work.read, work.steps, work.width, work.items)]
        )
        return times(work, first_s, end_s)

    def inside_s(self, now: float) -> float:
        """Replica-seconds of work inside."""
        return self._outlook(now).left_s() if self.pace.known else 0.0

    def told_s(self, now: float) -> float:
        """Replica-seconds of refused work that routers expect back."""
        self.told = {router: one for router, one in self.told.items() if now - one[1] < ACTIVE_S}
        return sum(seconds for seconds, _ in self.told.values())

    def demanded(self, now: float) -> dict[str, float]:
        """Facts for the autoscaling policy, in replica-seconds; see PromisePolicy."""
        return {
            "asked": self.demand.now(now),
            "inside_s": self.inside_s(now),
            "pending_s": self.told_s(now),
            "alone_s": self.cost_s(self.usual) if self.usual else 0.0,
        }

    def estimate(self, work: Work, terms: Terms, now: float) -> Estimate:
        """What would become of a request. Nothing changes."""
        refused: ServingError | None = None
        try:
            if terms.promised:
                self._check(work, terms, now)
        except (TooBusy, BeyondPromise) as error:
            refused = error
        known = self.pace.known
        return Estimate(
            refused=refused,
            now=self.times(work, terms, now) if known else None,
            alone=self.alone(work) if known else None,
            work_s=self.cost_s(work) if known else None,
            inside_s=self.inside_s(now),
            read=work.read,
            steps=work.steps,
            inside=len(self.inside),
            observations=self.pace.seen,
        )

    # How it is decided.

    def _check(self, work: Work, terms: Terms, now: float) -> None:
        if not self.pace.known:
            if len(self.inside) >= 2 * self.good:
                raise self._busy("does not know yet how many it can answer in time.", SHORTEST_S, work, now)
            return
        alone = self._check_alone(work, terms, now)
        expected = self._expected(work, terms)
        if not self.inside and not expected:
            return
        outlook = self._outlook(now)
        taken = sum(job.work.width for job in self.inside)
        if taken + work.width * (1 + PLACES * expected) > self.schedule.most:
            first_end_s = min((ends.end_s for ends in outlook.as_it_is.ends), default=SHORTEST_S)
            raise self._busy("writes as many answers at once as it can.", first_end_s, work, now, alone)
        allowed = functools.cache(functools.partial(self._allowed, terms, outlook))
        breaks = functools.partial(self._breaks, work, outlook, allowed, self._next(terms, outlook))
        if breaks(terms):
            seconds = self._room_in(terms, outlook, breaks)
            raise self._busy("serves as many requests as it can answer in time.", seconds, work, now, alone)
        self._check_share(work, terms, outlook, alone)

    def _check_alone(self, work: Work, terms: Terms, now: float) -> float:
        """The largest share of a limit that it uses up even alone.

        Raises:
            BeyondPromise: that is more than there is.
        """
        found = self.alone(work)
        takes, limit, who = self._beyond(found, terms)
        if takes <= limit * (IN_TURN if terms.returns else 1.0):
            return takes / limit
        # The replica may have become faster, and nothing that it does would show it.
        if not self.inside and now - self.learnt_at > found.whole_s:
            takes_first, limit_first, _ = self._beyond(self.alone(work, self.pace.begun), terms)
            if takes_first <= limit_first or self.hopeless >= DOUBT:
                return takes / limit
        raise BeyondPromise(
            f"This machine needs about {takes:.2g} s for it even if it does nothing else, and {limit:.3g} s {who}. "
            "Trying again does not help. Ask for less at a time, or send it as a batch job, to which only your own "
            "deadline applies: `Priority: u=5`."
        )

    def _beyond(self, found: Times, terms: Terms) -> tuple[float, float, str]:
        """Of what is promised, what is hardest to keep: what a request takes, the limit, and words for it."""
        limits = [(found.whole_s, terms.deadline_s, "you wait")] if self.inside else []
        if not terms.patient:
            limits += [
                (found.first_s, terms.first_s, "are promised for its beginning"),
                (found.piece_s, terms.piece_s, "are promised for each piece"),
                (found.whole_s, terms.whole_s, "are promised"),
            ]
        return max(limits, key=lambda one: one[0] / one[1], default=(0.0, 1.0, ""))

    def _outlook(self, now: float) -> Outlook:
        since_s = max(0.0, now - self.progress_at) if self.inside else 0.0
        return Outlook(self.inside, self.pace, self.schedule, self.reserve, self.steps, since_s, now)

    def _check_share(self, work: Work, terms: Terms, outlook: Outlook, alone: float) -> None:
        """Raises TooBusy if a client has its share of a busy replica already: if there were no room for this request,
        did everybody who asks have as much inside.

        Args:
            alone: what `_check_alone` told.
        """
        inside = [job for job in self.inside if job.terms.client == terms.client]
        sharers = len(self.seen.keys() | {job.terms.client for job in self.inside})
        if not inside or sharers < 2 or terms.returns:
            return
        newcomer = job_of(work, terms, outlook.now)
        least = outlook.shares(outlook.without_others([newcomer]))[0]
        taken = max(outlook.shares(outlook.beside([newcomer]))) - least
        if taken <= FREE_FOR_ALL * (1 - least):
            return
        each = [*inside, newcomer]
        everybody = outlook.without_others(each, min(sharers, math.ceil(MOST_SHARED / len(each))))
        if outlook.shares(everybody)[-1] > most_of(terms):
            why = "is busy, and your address has its share of it already."
            raise self._busy(why, SHORTEST_S, work, outlook.now, alone)

    def _busy(self, why: str, seconds: float, work: Work, now: float, alone: float = 0.0) -> TooBusy:
        """The refusal, with the seconds until there is room, and what `_check_alone` told."""
        error = TooBusy(why, None, max(SHORTEST_S, seconds))
        # Fully used it does one second's work in a second, or more where its steps are fuller than was thought.
        error.work_s, error.rate, error.room_s = self.cost_s(work), max(1.0, self.done.now(now)), seconds
        error.alone = alone
        return error

    def _breaks(
        self, work: Work, outlook: Outlook, allowed: Allowed, following: list[Job], terms: Terms, *, start: float = 0.0
    ) -> bool:
        """Whether a newcomer would have its promise broken, or that of somebody inside.

        Args:
            allowed: tells what `_allowed` does. following: what `_next` tells.
            start: the engine's step at which it begins.
        """
        count, most, now = len(self.inside), most_of(terms), outlook.now
        newcomers = self._newcomers(work, terms, now)
        found = outlook.beside([*newcomers, *following], start)
        own = outlook.shares(found, not terms.returns, slice(count, None))
        if following and found.ends[count + len(newcomers) - 1].first_s * self.streams.now(now) < LIKELY:
            own = own[:-1]  # the newcomer will hardly be in its way
        if any(share > most for share in own):
            return True
        used = outlook.shares(found, which=slice(count))
        # Nobody inside may use up less, and few use up more.
        return max(used, default=0.0) > most and any(map(operator.gt, used, allowed()))

    def _allowed(self, terms: Terms, outlook: Outlook) -> list[float]:
        """The share of its limits that each inside may use up with a newcomer: those who will be late anyway some more,
        but not without end, and those who are lost whatever they like. Whom it does not delay, does not count."""
        most, found = most_of(terms), outlook.as_it_is
        before, likely = outlook.shares(found), outlook.shares(found, reserve=False)
        pairs = zip(before, likely, strict=True)
        return [
            math.inf if late > LOST else max(most if late <= most else max(most, LATE), DELAYED * share)
            for share, late in pairs
        ]

    def _newcomers(self, work: Work, terms: Terms, now: float) -> list[Job]:
        """The newcomer, after what stands for others: work that is expected about now, and, beside a batch job, the
        next interactive request."""
        jobs = []
        if times := self._expected(work, terms):
            jobs.append(job_of(Work(work.read * times, work.steps, work.width * times, work.items), Terms(), now))
        if terms.patient and self.usual is not None:
            jobs.append(job_of(self.usual, replace(terms, patient=False, deadline_s=math.inf, waited_s=0.0), now))
        return [*jobs, job_of(work, terms, now)]

    def _expected(self, work: Work, terms: Terms) -> float:
        """How many like this one are expected to come in their turn about now, and go before it. As long as nobody is
        inside, not more than one: what is small is in nobody's way then."""
        cost_s, most = self.cost_s(work), 100.0 if self.inside else 1.0
        return min(most, terms.ahead_s / cost_s) if terms.ahead_s > 0 and not terms.returns and cost_s > 0 else 0.0

    def _next(self, terms: Terms, outlook: Outlook) -> list[Job]:
        """Behind one who may wait long stands the next one who may not: else the former would fill the queue, and the
        latter never find room. One whose promise cannot be kept even alone needs none."""
        if begins(terms) or self.streamed is None:
            return []
        work, its_terms = self.streamed
        job = job_of(work, replace(its_terms, waited_s=0.0), outlook.now)
        (alone,) = outlook.shares(outlook.without_others([job]), reserve=False)
        return [job] if alone <= 1 else []

    def _room_in(self, terms: Terms, outlook: Outlook, breaks: Callable[..., bool]) -> float:
        """Seconds until there is room for a request like this.

        Args:
            breaks: tells what `_breaks` does, for terms and a start.
        """
        if not self.inside:
            return SHORTEST_S
        ends = sorted(outlook.as_it_is.ends, key=lambda one: one.end_s)
        if not terms.returns:  # it is told whole seconds, so of those within one only the last counts
            ends = list({max(SHORTEST_S, math.ceil(one.end_s)): one for one in ends}.values())

        def fits(one: Ends) -> bool:
            return not breaks(replace(terms, waited_s=-one.end_s), start=one.steps)

        # The later, the more room.
        return ends[bisect.bisect_left(ends, True, hi=len(ends) - 1, key=fits)].end_s

    def _note_client(self, client: str, now: float) -> None:
        """Forget clients that have not asked for ACTIVE_S, so that many cost neither memory nor time."""
        self.seen.pop(client, None)
        self.seen[client] = now
        while now - self.seen[oldest := next(iter(self.seen))] >= ACTIVE_S:
            del self.seen[oldest]


def begins(terms: Terms) -> bool:
    """Whether the beginning of the answer is promised."""
    return terms.first_s < math.inf and not terms.patient


def most_of(terms: Terms) -> float:
    if terms.patient:
        return BATCH_SHARE
    return IN_TURN if terms.returns else 1.0


def is_late(job: Job, now: float) -> bool:
    """Whether an answer that ends now has broken its promise."""
    terms, first = job.terms, job.first
    if now - job.came > terms.whole():
        return True
    if terms.patient or first is None:
        return False
    pieces = job.wrote - 1
    return first - job.came > terms.first_s or (pieces > 0 and (now - first) / pieces > terms.piece_s)


def times(work: Work, first_s: float, whole_s: float) -> Times:
    return Times(first_s, (whole_s - first_s) / (work.steps - 1) if work.steps > 1 else 0.0, whole_s)
