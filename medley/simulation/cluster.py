"""One model's replicas under a policy: what Ray Serve's controller does with a policy's answers.

The policy is the same class that a cluster runs, and so are admission, the turns of those that are refused, and the
figures that replicas report. Around them, Serve is modelled (ray 2.60, serve/_private/autoscaling_state.py): metrics
are means over `look_back_s`, a change waits for its delay, targets stay within bounds. Replicas are modelled, too
(replica.py): one takes `start_s` to come up, and finishes what it has when it is taken away. Not modelled: nodes that
must be bought first.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from deployments.router.returns import WORTH_IT, Returns
from deployments.servers.calls import Terms
from deployments.servers.pace import Work
from medley.simulation.replica import Asked, Machine, Replica
from medley.simulation.router import Router
from models.errors import BeyondPromise, TooBusy

Policy = Callable[[Any], tuple[float, dict[str, Any]]]

# A client that comes back does so this often, at most.
TRIES = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Attributes:
        machine: of each replica. at_once: answers that it writes at full use. terms: what is promised.
        start_s: until a new replica takes requests.
        delays and bounds: as in Serve's autoscaling_config. interval_s: between two decisions.
        come_back: share of the refused requests that come again when they were told to.
        target_ongoing_requests: for Ray's default policy.
    """

    machine: Machine = field(default_factory=Machine)
    at_once: float = 16
    terms: Terms = field(default_factory=Terms)
    start_s: float = 30.0
    min_replicas: int = 1
    max_replicas: int = 100
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 300.0
    look_back_s: float = 5.0
    interval_s: float = 1.0
    come_back: float = 0.5
    target_ongoing_requests: float = 2.0
    seed: int = 1


@dataclass(slots=True)
class Place:
    """
    Attributes:
        since: when it was ordered. ready: when it takes requests.
    """

    number: int
    since: float
    ready: float
    replica: Replica


@dataclass(slots=True)
class Run:
    """What happened. Times in seconds.

    Attributes:
        waits: of each request that was answered, until its first piece. good: how many kept their promise.
        refused: requests that were never answered. refusals: each time that one was refused. beyond: requests that a
            replica cannot answer as promised even alone.
        work_s: replica-seconds of what was done.
        replicas: (moment, that take requests, wanted), once per interval.
    """

    waits: list[float] = field(default_factory=list)
    good: int = 0
    refused: int = 0
    refusals: int = 0
    beyond: int = 0
    work_s: float = 0.0
    replica_seconds: float = 0.0
    replicas: list[tuple[float, int, int]] = field(default_factory=list)

    def goodput(self) -> float:
        """The share of all requests that kept their promise."""
        return self.good / max(1, len(self.waits) + self.refused)


def simulate(moments: Sequence[float], works: Sequence[Work], policy: Policy, settings: Settings) -> Run:
    """
    Args:
        moments: at which requests are made, ascending. works: what each gives to do.
    """
    return _Simulation(moments, works, policy, settings).run()


class _Simulation:
    def __init__(self, moments: Sequence[float], works: Sequence[Work], policy: Policy, settings: Settings):
        self.policy, self.settings = policy, settings
        self.asked = [Asked(at, work, settings.terms) for at, work in zip(moments, works, strict=True)]
        self.places: list[Place] = []
        self.leaving: list[Place] = []
        self.up: list[Replica] = []
        self.router = Router(self.up, Returns(), settings.seed)
        self.draw = random.Random(settings.seed)
        self.order = itertools.count()
        self.coming = [(one.at, next(self.order), one) for one in self.asked]
        self.queue: deque[Asked] = deque()  # waits until a replica is up
        self.seen: deque[tuple[float, float, float, dict[str, dict[int, float]]]] = deque()
        self.state: dict[str, Any] = {}
        self.target = settings.min_replicas
        self.turns = 0
        self.found = Run()
        # What Ray's own policy asks for.
        self.config = SimpleNamespace(get_target_ongoing_requests=lambda: settings.target_ongoing_requests)
        for _ in range(settings.min_replicas):
            self.add(0.0, ready=0.0)
        self.look(0.0)

    def run(self) -> Run:
        now = 0.0
        while self.coming or self.queue or any(one.replica.inside for one in [*self.places, *self.leaving]):
            now += self.settings.interval_s
            while self.coming and self.coming[0][0] <= now:
                at, _, one = heapq.heappop(self.coming)
                self.ask(one, at)
            self.look(now)
            self.decide(now)
        self.found.replica_seconds += sum(now - one.since for one in [*self.places, *self.leaving])
        for one in self.asked:
            if one.end is None or one.first is None:
                self.found.refused += 1
                self.found.beyond += isinstance(one.refused, BeyondPromise)
                continue
            self.found.waits.append(one.first - one.at)
            self.found.good += one.good()
            self.found.work_s += one.job.cost_s if one.job else 0.0
        return self.found

    def add(self, now: float, ready: float) -> None:
        number = next(self.order)
        replica = Replica(self.settings.machine, number, full=self.settings.at_once, together=True)
        replica.measure(ready)
        self.places.append(Place(number, now, ready, replica))

    def find(self, now: float) -> None:
        """Which replicas are up."""
        self.up[:] = [place.replica for place in self.places if place.ready <= now]

    def ask(self, one: Asked, now: float) -> None:
        self.find(now)
        if not self.up:
            self.queue.append(one)
            return
        seconds = self.router.ask(one, now)
        if seconds is None:
            return
        if one.waits:
            heapq.heappush(self.coming, (now + max(0.05, seconds), next(self.order), one))
            return
        ready_s = min((place.ready - now for place in self.places if place.ready > now), default=math.inf)
        left_s = min(one.terms.first_s, one.terms.whole()) - (now - one.at)
        if isinstance(one.refused, TooBusy) and ready_s <= WORTH_IT * left_s:
            heapq.heappush(self.coming, (now + ready_s, next(self.order), one))
            return
        self.found.refusals += 1
        if math.isfinite(seconds) and one.tried < TRIES and self.draw.random() < self.settings.come_back:
            one.at = now + seconds  # its promise begins when it comes
            heapq.heappush(self.coming, (one.at, next(self.order), one))

    def look(self, now: float) -> None:
        """What the router knows of replicas. Those that left are gone once they have nothing left to do."""
        for place in [*self.places, *self.leaving]:
            if place.ready <= now:
                place.replica.until(now)
        for place in [one for one in self.leaving if not one.replica.inside]:
            self.found.replica_seconds += now - place.since
            self.leaving.remove(place)
        self.find(now)
        if self.up:
            waiting, self.queue = self.queue, deque()
            for one in waiting:
                self.ask(one, now)

    def decide(self, now: float) -> None:
        """One turn of Serve's controller."""
        settings = self.settings
        reports: dict[str, dict[int, float]] = defaultdict(dict)
        for place in self.places:
            if place.ready <= now:
                figures = {"service_s": place.replica.service_s, **place.replica.admission.demanded(now)}
                for name, value in figures.items():
                    reports[name][place.number] = value
        running = sum(len(replica.inside) for replica in self.up)
        self.seen.append((now, running, len(self.queue), reports))
        while self.seen[0][0] <= now - settings.look_back_s:
            self.seen.popleft()
        ongoing = sum(running for _, running, *_ in self.seen) / len(self.seen)
        queued = sum(waiting for _, _, waiting, _ in self.seen) / len(self.seen)
        context = SimpleNamespace(
            total_num_requests=ongoing + queued,
            total_queued_requests=queued,
            total_running_requests=ongoing,
            current_num_replicas=len(self.up),
            target_num_replicas=self.target,
            policy_state=self.state,
            aggregated_metrics={name: self.mean_of(name) for name in reports},
            current_time=now,
            config=self.config,
        )
        wanted, self.state = self.policy(context)
        self.move_target(max(settings.min_replicas, min(settings.max_replicas, math.ceil(wanted))))
        self.scale(now)
        self.found.replicas.append((now, len(self.up), self.target))

    def mean_of(self, name: str) -> dict[int, float]:
        """By replica, over the time that is looked back on, of those that still report."""
        values = defaultdict(list)
        for *_, reports in self.seen:
            for number, value in reports.get(name, {}).items():
                values[number].append(value)
        return {number: sum(values[number]) / len(values[number]) for number in self.seen[-1][3].get(name, {})}

    def move_target(self, wanted: int) -> None:
        """A change is made when it was wanted, up or down, for as long as its delay."""
        direction = (wanted > self.target) - (wanted < self.target)
        self.turns = self.turns + direction if self.turns * direction > 0 else direction
        settings = self.settings
        delay = settings.upscale_delay_s if direction > 0 else settings.downscale_delay_s
        if direction < 0 and self.target > 1:
            wanted = max(1, wanted)  # to zero only from one
        if direction and (abs(self.turns) - 1) * settings.interval_s >= delay:
            self.target, self.turns = wanted, 0

    def scale(self, now: float) -> None:
        for _ in range(self.target - len(self.places)):
            self.add(now, now + self.settings.start_s)
        # Those that are still starting go first, then those that have least to do.
        surplus = max(0, len(self.places) - self.target)
        for place in sorted(self.places, key=lambda one: (one.ready <= now, len(one.replica.inside)))[:surplus]:
            self.places.remove(place)
            self.leaving.append(place)
        self.look(now)
