"""Requests that were refused because a model is busy, and are expected to come again.

Each of them has a turn: Retry-After is the time until a second that has room for it besides what is due then. Whoever
comes again then is let in before newcomers, for whom that much room is kept. How many come again at all is learnt, so
nothing is kept for clients that never do. A request that comes again is not asked a second time: it counts as demand
once.

Every router has a table of all that any of them refused, for they give each other notice (sharing.py). It has digests
only: a request's content is not kept.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from deployments.servers.calls import Terms
from models.errors import TooBusy

# The share of refused requests that come again, before anything is known (most clients of the API do so by themselves),
# and how much one moves it.
SHARE, NEWEST = 0.7, 0.1
# Seconds after its turn for which a request is expected, at least, and as a share of the time it was told to wait.
PATIENCE_S, PATIENCE = 2.0, 0.25
# Before its turn a request may come by so much, because Retry-After has whole seconds.
EARLY_S = 0.5
# Work for which room is kept: that of the turns within these seconds.
AHEAD_S = 2.0
SHORTEST_S, LONGEST_S = 1, 600
# Requests in the table; for more no room is kept.
MOST = 20_000
# The share of what is promised for the beginning that one who came in its turn may wait for room.
WAITS = 0.6
# A request waits for a replica that starts if it is up before this share of what its promise leaves is over.
WORTH_IT = 0.7
# Of what replicas do in a second, how much is given to those who come again: full use has no room for chance. Who takes
# more of its promise even alone finds room only where others use less, but so much is always given.
USED, LEAST_USED = 0.5, 0.1


@dataclass(slots=True)
class Turn:
    """
    Attributes:
        at: when the request may come again. until: when it is given up.
        work_s: replica-seconds that it takes.
        mine: this router gave it.
        taken: it has come.
    """

    at: float
    until: float
    work_s: float
    mine: bool = True
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """What the other routers must know: a request was refused, or one that was refused has come.

    Attributes:
        seconds: until its turn. None: it has come.
        work_s: replica-seconds that it takes.
    """

    digest: bytes
    seconds: int | None = None
    work_s: float = 0.0


@dataclass(slots=True)
class Returns:
    """Of one model.

    Attributes:
        share: of refused requests, how many come again.
        work_s: replica-seconds of those that this router refused and are expected. waiting_s: of those that came in
            their turn, and wait for room.
        news: notices that the other routers have not got yet; the oldest are lost if nobody takes them.
    """

    share: float = SHARE
    work_s: float = 0.0
    waiting_s: float = 0.0
    turns: dict[bytes, deque[Turn]] = field(default_factory=dict)  # of equal requests, one each
    order: list[tuple[float, int, bytes, Turn]] = field(default_factory=list)  # a heap, by when each is given up
    due: Counter[int] = field(default_factory=Counter)  # thousandths of replica-seconds by the second of the turn
    numbers: Iterator[int] = field(default_factory=itertools.count)
    news: deque[Notice] = field(default_factory=partial(deque, maxlen=MOST))

    def __bool__(self) -> bool:
        return bool(self.turns)

    def comes(self, digest: bytes, now: float) -> Turn | None:
        """A request comes. Returns its turn, if it was refused before."""
        self.forget(now)
        turn = self._take(digest)
        if turn is not None:
            self.news.append(Notice(digest))
        return turn

    def _take(self, digest: bytes) -> Turn | None:
        waiting = self.turns.get(digest)
        if not waiting:
            return None
        turn = waiting.popleft()
        if not waiting:
            del self.turns[digest]
        turn.taken = True
        self._gone(turn)
        self.share += NEWEST * (1 - self.share)
        return turn

    def refused(self, digest: bytes, busy: TooBusy, replicas: int, now: float) -> int:
        """A request is refused. Returns the whole seconds after which it should come again.

        Args:
            busy: what one of the replicas says of it.
        """
        self.forget(now)
        used = max(LEAST_USED, min(USED, 1 - busy.alone))
        seconds = self._turn_in(busy.work_s, busy.room_s, used * busy.rate * replicas, now)
        self._expect(digest, seconds, busy.work_s, now, mine=True)
        self.news.append(Notice(digest, seconds, busy.work_s))
        return seconds

    def heard(self, notice: Notice, now: float) -> None:
        """Another router gives notice."""
        self.forget(now)
        if notice.seconds is None:
            self._take(notice.digest)
        else:
            self._expect(notice.digest, notice.seconds, notice.work_s, now, mine=False)

    def _expect(self, digest: bytes, seconds: int, work_s: float, now: float, mine: bool) -> None:
        if len(self.order) >= MOST:
            return
        turn = Turn(now + seconds, now + seconds + max(PATIENCE_S, PATIENCE * seconds), work_s, mine)
        self.turns.setdefault(digest, deque()).append(turn)
        heapq.heappush(self.order, (turn.until, next(self.numbers), digest, turn))
        self.work_s += work_s * mine
        self.due[int(turn.at)] += round(1000 * work_s)

    def _turn_in(self, work_s: float, room_s: float, rate: float, now: float) -> int:
        """Whole seconds until the first second in which what was due before is done, and that has room for the work
        before the next is due."""
        mine, earliest = self.share * work_s, max(SHORTEST_S, room_s)
        # What is not done of what was due in the seconds before, without mine and with it.
        left_s, with_mine_s, found = 0.0, 0.0, None
        for seconds in range(-int(PATIENCE_S), LONGEST_S):
            due_s = self.share * self.due[int(now + seconds)] / 1000
            if due_s and with_mine_s + due_s > rate:
                found = None
            before_s = left_s + due_s
            if found is None and seconds >= earliest and (not before_s or before_s + mine <= rate):
                found, with_mine_s = seconds, left_s + mine
            if found is not None:
                with_mine_s = max(0.0, with_mine_s + due_s - rate)
                if not with_mine_s:
                    return found
            left_s = max(0.0, before_s - rate)
        return LONGEST_S

    def pending_s(self, now: float) -> float:
        """Replica-seconds of work that this router refused and that is expected at any time. Each tells its own."""
        self.forget(now)
        return self.share * self.work_s

    def ahead_s(self, now: float) -> float:
        """Replica-seconds of work that is expected about now."""
        if not self.turns:
            return self.waiting_s
        seconds = range(int(now - PATIENCE_S), int(now + AHEAD_S) + 1)
        return self.waiting_s + self.share * sum(self.due[second] for second in seconds) / 1000

    @contextlib.contextmanager
    def waits(self, work_s: float) -> Iterator[None]:
        """While one that came in its turn waits for room, the room is kept for it."""
        self.waiting_s += work_s
        try:
            yield
        finally:
            self.waiting_s -= work_s

    def forget(self, now: float) -> None:
        """Give up what has not come."""
        while self.order and (self.order[0][3].taken or self.order[0][0] <= now):
            _, _, digest, turn = heapq.heappop(self.order)
            if turn.taken:
                continue
            waiting = self.turns[digest]
            waiting.remove(turn)
            if not waiting:
                del self.turns[digest]
            self._gone(turn)
            self.share -= NEWEST * self.share

    def _gone(self, turn: Turn) -> None:
        self.work_s = max(0.0, self.work_s - turn.work_s * turn.mine)
        second = int(turn.at)
        self.due[second] -= round(1000 * turn.work_s)
        if self.due[second] <= 0:
            del self.due[second]


def in_time(turn: Turn, now: float) -> bool:
    """Whether a request comes when it was told to, and not before."""
    return now >= turn.at - EARLY_S


def worth_waiting(terms: Terms, busy: TooBusy) -> bool:
    """Whether one that came in its turn and finds no room waits for it: if it can be answered in time then."""
    longest_s = min(WAITS, 1 - busy.alone) * min(terms.first_s, terms.whole())
    return terms.waited_s + busy.room_s <= longest_s
