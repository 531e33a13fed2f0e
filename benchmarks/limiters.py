"""Limits on the number of requests under way, kept by a client in front of a server: what admission is compared with.

A limiter is asked before each request (`begin`) and told of each one that was let in (`end`). What is over the limit is
refused at once. Times are seconds of any clock that only grows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from statistics import median

MOST = 64


class Limiter:
    """No limit at all, and the base of those that have one."""

    limit = math.inf

    def __init__(self) -> None:
        self.inside = 0

    def begin(self, now: float) -> bool:
        """Whether one more may begin. If so, it must be told to `end`."""
        if self.inside >= int_of(self.limit):
            return False
        self.inside += 1
        return True

    def end(self, now: float, began: float, whole: bool) -> None:
        """
        Args:
            whole: it was answered. Otherwise it was given up, or failed.
        """
        self.inside -= 1


class Fixed(Limiter):
    """At most so many under way."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit


class Gradient2(Limiter):
    """Netflix's limiter of that name: https://github.com/Netflix/concurrency-limits, Gradient2Limit and WindowedLimit.

    The limit shrinks while answers take longer than their long-term average, by at most a half at a time, and grows by
    `queue` while they do not. Each step is smoothed. The settings are those that the library ships, but for the
    smallest limit: it ships 20, which would be more than a small server can bear. A window is not thrown away when it
    has too few samples, but goes on until it has enough, because a slow server has few answers a second.
    """

    def __init__(
        self,
        *,
        limit: float = 20,
        least: int = 1,
        most: int = 200,
        queue: float = 4,
        smoothing: float = 0.2,
        long_window: int = 600,
        window_s: float = 1.0,
        samples: int = 10,
    ):
        super().__init__()
        self.limit, self.least, self.most = limit, least, most
        self.queue, self.smoothing, self.samples, self.window_s = queue, smoothing, samples, window_s
        self.long_s = LongAverage(long_window)
        self.took: list[float] = []
        self.most_inside = 0
        self.next_update = 0.0

    def begin(self, now: float) -> bool:
        let_in = super().begin(now)
        self.most_inside = max(self.most_inside, self.inside)
        return let_in

    def end(self, now: float, began: float, whole: bool) -> None:
        super().end(now, began, whole)
        self.took.append(now - began)
        if now >= self.next_update and len(self.took) >= self.samples:
            self._update(sum(self.took) / len(self.took), self.most_inside)
            self.took, self.most_inside, self.next_update = [], self.inside, now + self.window_s

    def _update(self, short_s: float, inside: int) -> None:
        long_s = self.long_s.add(short_s)
        if long_s > 2 * short_s:  # after a long overload the average comes down faster than it would by itself
            self.long_s.value *= 0.9
        if inside < self.limit / 2:  # the clients ask for less: nothing is learnt about the limit
            return
        gradient = max(0.5, min(1.0, long_s / short_s))
        wanted = self.limit * gradient + self.queue
        smooth = self.limit * (1 - self.smoothing) + wanted * self.smoothing
        self.limit = max(self.least, min(self.most, smooth))


class LongAverage:
    """The mean of the first ten, then an exponential average over about `window` samples."""

    def __init__(self, window: int, first: int = 10):
        self.factor, self.first = 2 / (window + 1), first
        self.count, self.value = 0, 0.0

    def add(self, sample: float) -> float:
        self.count = min(self.count + 1, self.first + 1)
        self.value += (sample - self.value) * (1 / self.count if self.count <= self.first else self.factor)
        return self.value


class EnvoyGradient(Limiter):
    """The gradient controller of Envoy's filter for adaptive concurrency:
    https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter

    From time to time the limit falls to `least`, until the time of an answer without a queue (minRTT) is known again.
    In between, every `update_s`, the limit is multiplied with the ratio of that time and the present one, and gets room
    for a queue of its square root. Envoy's own timers are looked at here when a request begins or ends.

    The settings are Envoy's defaults, or those of its example where it has none, but for two. `update_s` is 1, not 0.1,
    and minRTT comes from 10 answers, not 50: a server with a few answers a second has no more in that time.
    """

    def __init__(
        self,
        *,
        least: int = 3,
        most: int = 1000,
        min_rtt_s: float = 60.0,
        min_rtt_samples: int = 10,
        jitter: float = 0.15,
        buffer: float = 0.25,
        update_s: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.limit, self.least, self.most = least, least, most
        self.interval_s, self.min_rtt_samples, self.jitter = min_rtt_s, min_rtt_samples, jitter
        self.buffer, self.update_s = buffer, update_s
        self.draw = random.Random(seed)
        self.rtt_s = 0.0
        self.took: list[float] = []
        self.measuring = False
        self.deferred = least
        self.epoch = self.next_measurement = self.next_update = -math.inf
        self.at_least_in_a_row = 0

    def begin(self, now: float) -> bool:
        self._look_at_timers(now)
        return super().begin(now)

    def end(self, now: float, began: float, whole: bool) -> None:
        super().end(now, began, whole)
        if whole and began >= self.epoch:  # what began before a measurement says nothing of it
            self.took.append(now - began)
        if self.measuring and len(self.took) >= self.min_rtt_samples:
            self._end_measurement(now)
        self._look_at_timers(now)

    def _look_at_timers(self, now: float) -> None:
        if not self.measuring and now >= self.next_measurement:
            self._begin_measurement(now)
        elif not self.measuring and now >= self.next_update:
            self.next_update = now + self.update_s
            if self.took:
                self._set(self._next_limit())

    def _begin_measurement(self, now: float) -> None:
        self.deferred, self.limit = self.limit, self.least
        self.measuring, self.took, self.epoch = True, [], now
        self.at_least_in_a_row = 0

    def _end_measurement(self, now: float) -> None:
        self.rtt_s = self._sample()
        self.measuring, self.limit = False, self.deferred
        self.next_measurement = now + self.interval_s * (1 + self.jitter * self.draw.random())
        self.next_update = now + self.update_s

    def _sample(self) -> float:
        taken, self.took = median(self.took), []
        return taken

    def _next_limit(self) -> int:
        gradient = max(0.5, min(2.0, self.rtt_s * (1 + self.buffer) / self._sample()))
        limit = self.limit * gradient
        return max(self.least, min(self.most, int(limit + math.sqrt(limit))))

    def _set(self, limit: int) -> None:
        """Five times the least in a row looks like a wrong minRTT: it is measured again."""
        self.at_least_in_a_row = self.at_least_in_a_row + 1 if self.limit == limit == self.least else 0
        self.limit = limit
        if self.at_least_in_a_row >= 5:
            self.next_measurement = -math.inf


def int_of(limit: float) -> float:
    return limit if math.isinf(limit) else int(limit)


async def best_of(
    measure: Callable[[int], Awaitable[float]], start: int, *, gain: float = 1.0, refined: bool = True
) -> dict[int, float]:
    """Search the concurrency, 1 to MOST, with the highest value: double and halve it from `start` as long as that is
    better, then look on both sides of the best.

    Args:
        gain: how many times better.

    Returns:
        What was measured, by concurrency. The best is the first of the highest.
    """
    found: dict[int, float] = {}

    async def at(concurrency: int) -> float:
        if concurrency not in found:
            found[concurrency] = await measure(concurrency)
        return found[concurrency]

    best = await at(start)
    for factor in (2.0, 0.5):
        here = start
        while (there := max(1, min(MOST, int(here * factor)))) != here and await at(there) > best * gain:
            here, best = there, found[there]
    if refined:
        middle = best_key(found)
        for near in (round(middle * 0.75), min(MOST, round(middle * 1.5))):
            if near >= 1:
                await at(near)
    return found


def best_key(found: dict[int, float]) -> int:
    return max(found, key=lambda key: found[key])
