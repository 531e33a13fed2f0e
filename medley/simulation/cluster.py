"""One model's replicas under a policy, second by second: what Ray Serve's controller does with a policy's answers.

The policy is the same class that a cluster runs. Around it, Serve is modelled (ray 2.60,
serve/_private/autoscaling_state.py): metrics are means over `look_back_s`, a change waits for its delay, targets stay
within bounds. Replicas are modelled too: one takes `start_s` to come up, serves `slots` requests at once, first come
first served, and finishes what it has when it is taken away. Not modelled: nodes that must be bought first, and
requests that disturb each other within a replica, other than by waiting.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Policy = Callable[[Any], tuple[float, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Attributes:
        slots: requests that a replica serves at once. start_s: until a new replica takes requests.
        delays and bounds: as in Serve's autoscaling_config. interval_s: between two decisions.
        most_queued: requests that wait at most; more are refused. None for no end.
        target_ongoing_requests: for Ray's default policy.
    """

    slots: int
    start_s: float = 30.0
    min_replicas: int = 1
    max_replicas: int = 100
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 300.0
    look_back_s: float = 5.0
    interval_s: float = 1.0
    most_queued: int | None = None
    target_ongoing_requests: float = 2.0


@dataclass(slots=True)
class Replica:
    """
    Attributes:
        ready: when it takes requests. busy_until: when the last of its requests ends. leaving: takes nothing new.
    """

    since: float
    ready: float
    busy_until: float = 0.0
    leaving: bool = False


@dataclass(slots=True)
class Run:
    """What happened. Times in seconds.

    Attributes:
        waits: of each request that was served, in the order they came; services: what each took.
        replicas: (moment, that take requests, wanted), once per interval.
    """

    waits: list[float] = field(default_factory=list)
    services: list[float] = field(default_factory=list)
    refused: int = 0
    replica_seconds: float = 0.0
    replicas: list[tuple[float, int, int]] = field(default_factory=list)

    def goodput(self, wait_s: float) -> float:
        """The share of all requests that waited at most so long."""
        return sum(wait <= wait_s for wait in self.waits) / max(1, len(self.waits) + self.refused)


def simulate(arrivals: Sequence[float], services: Sequence[float], policy: Policy, settings: Settings) -> Run:
    """
    Args:
        arrivals: moments, ascending. services: seconds that each request takes on a replica that has a slot for it.
    """
    return _Simulation(arrivals, services, policy, settings).run()


class _Simulation:
    def __init__(self, arrivals: Sequence[float], services: Sequence[float], policy: Policy, settings: Settings):
        self.arrivals, self.services, self.policy, self.settings = arrivals, services, policy, settings
        self.replicas: list[Replica] = []
        self.slots: list[tuple[float, int, Replica]] = []
        self.order = itertools.count()
        self.ends: list[float] = []
        self.queue: deque[int] = deque()
        self.seen: deque[tuple[float, int, int]] = deque()
        self.state: dict[str, Any] = {}
        self.target = settings.min_replicas
        self.turns = 0
        self.measured = 0.0
        self.found = Run()
        # What Ray's own policy asks for.
        self.config = SimpleNamespace(get_target_ongoing_requests=lambda: settings.target_ongoing_requests)
        for _ in range(settings.min_replicas):
            self.add(0.0, ready=0.0)

    def run(self) -> Run:
        coming, now = 0, 0.0
        while coming < len(self.arrivals) or self.queue or self.ends:
            now += self.settings.interval_s
            while coming < len(self.arrivals) and self.arrivals[coming] <= now:
                self.arrive(coming)
                coming += 1
            self.serve_until(now)
            self.decide(now)
        self.found.replica_seconds += sum(max(now, one.busy_until) - one.since for one in self.replicas)
        return self.found

    def add(self, now: float, ready: float) -> None:
        replica = Replica(now, ready, ready)
        self.replicas.append(replica)
        for _ in range(self.settings.slots):
            heapq.heappush(self.slots, (ready, next(self.order), replica))

    def arrive(self, request: int) -> None:
        self.queue.append(request)
        self.serve_until(self.arrivals[request])
        most = self.settings.most_queued
        if most is not None and len(self.queue) > most:
            self.queue.pop()
            self.found.refused += 1

    def serve_until(self, now: float) -> None:
        """Let queued requests begin as slots become free, first come first served."""
        while self.queue and self.slots:
            free, _, replica = self.slots[0]
            if replica.leaving:
                heapq.heappop(self.slots)
                continue
            moment = max(free, self.arrivals[self.queue[0]])
            if moment > now:
                break
            heapq.heappop(self.slots)
            self.begin(self.queue.popleft(), replica, moment)
        while self.ends and self.ends[0] <= now:
            heapq.heappop(self.ends)

    def begin(self, request: int, replica: Replica, moment: float) -> None:
        service = self.services[request]
        end = moment + service
        heapq.heappush(self.slots, (end, next(self.order), replica))
        heapq.heappush(self.ends, end)
        replica.busy_until = max(replica.busy_until, end)
        self.found.waits.append(moment - self.arrivals[request])
        self.found.services.append(service)
        self.measured = service if not self.measured else self.measured + 0.1 * (service - self.measured)

    def decide(self, now: float) -> None:
        """One turn of Serve's controller."""
        settings = self.settings
        up = sum(replica.ready <= now for replica in self.replicas)
        self.seen.append((now, len(self.ends), len(self.queue)))
        while self.seen[0][0] <= now - settings.look_back_s:
            self.seen.popleft()
        running, queued = (sum(each[place] for each in self.seen) / len(self.seen) for place in (1, 2))
        context = SimpleNamespace(
            total_num_requests=running + queued,
            total_queued_requests=queued,
            total_running_requests=running,
            current_num_replicas=up,
            target_num_replicas=self.target,
            policy_state=self.state,
            aggregated_metrics={"service_s": {"mean": self.measured}},
            current_time=now,
            config=self.config,
        )
        wanted, self.state = self.policy(context)
        self.move_target(max(settings.min_replicas, min(settings.max_replicas, math.ceil(wanted))))
        self.scale(now)
        self.found.replicas.append((now, up, self.target))

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
        for _ in range(self.target - len(self.replicas)):
            self.add(now, now + self.settings.start_s)
        # Those that are still starting go first, then those that are done first.
        surplus = max(0, len(self.replicas) - self.target)
        for replica in sorted(self.replicas, key=lambda one: (one.ready <= now, one.busy_until))[:surplus]:
            replica.leaving = True
            self.found.replica_seconds += max(now, replica.busy_until if replica.ready <= now else now) - replica.since
            self.replicas.remove(replica)
