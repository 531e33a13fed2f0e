"""Predicts how long a model's next request will take, from earlier ones.

The time to the first token, and the time per token after it, grow with the number of requests that a replica works on.
Both are fitted as straight lines of that number to recent requests, together with the spread of single requests around
the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# After this many observations an old one counts a third, so that the fit follows upgrades and busy machines.
MEMORY = 60
# The same after this many seconds: when most requests are refused there are few observations, and a bad minute would
# otherwise be remembered for too long.
MEMORY_S = 10.0
# With fewer observations nothing is predicted, nor when old ones have faded to the weight of the second number.
LEAST, LEAST_WEIGHT = 8, 4.0
# The reserve above the line in standard deviations: 2 or 3 of 100 requests exceed it.
RESERVE = 2.0
# Observations further from the line are clipped to this: a request that waited for a dead replica's successor says
# nothing about the next one. A model that really became slower is still learnt, because each clipped request widens the
# spread.
OUTLIER = 5.0
# By how much one request moves the usual size.
STEP = 1.2


@dataclass(slots=True)
class Line:
    """A value as a straight line of load, by least squares with less weight for older observations. `highest` is the
    highest recent load."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    spread: float = 0.0
    highest: float = 0.0
    seen: int = 0
    learnt_at: float = 0.0

    def learn(self, x: float, y: float, now: float = 0.0) -> None:
        """
        Args:
            now: seconds on a monotonic clock.
        """
        keep = (1 - 1 / MEMORY) * math.exp(-max(0.0, now - self.learnt_at) / MEMORY_S)
        self.learnt_at = now
        if self.seen >= LEAST:
            expected = self.at(x)
            most = OUTLIER * max(math.sqrt(self.spread), expected / 10)
            y = min(expected + most, max(expected - most, y))
            self.spread = keep * self.spread + (1 - keep) * (y - expected) ** 2
        self.weight, self.x, self.y = keep * self.weight + 1, keep * self.x + x, keep * self.y + y
        self.xx, self.xy = keep * self.xx + x * x, keep * self.xy + x * y
        self.highest = max(x, keep * self.highest)
        self.seen += 1

    @property
    def known(self) -> bool:
        return self.seen >= LEAST and self.weight >= LEAST_WEIGHT

    def slope(self) -> float:
        """The slope, never below 0, because load does not make requests faster. If all observations had the same load,
        the value is assumed to be proportional to it."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        variance = self.xx / self.weight - mean_x**2
        if variance < 0.02 * mean_x**2:
            return mean_y / mean_x if mean_x else 0.0
        return max(0.0, (self.xy / self.weight - mean_x * mean_y) / variance)

    def at(self, x: float) -> float:
        """The expected value at this load. At least a tenth of the mean, because the line might cross zero."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        return max(mean_y / 10, mean_y + self.slope() * (x - mean_x))

    def surely(self, x: float) -> float:
        """The value that most requests at this load stay below."""
        return self.at(x) + RESERVE * math.sqrt(self.spread)

    def load_for(self, limit: float) -> float:
        """The highest load at which most requests stay below a limit; infinite if load has no effect."""
        slope = self.slope()
        if slope <= 0:
            return math.inf if self.surely(1) <= limit else 0.0
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        return (limit - RESERVE * math.sqrt(self.spread) - mean_y) / slope + mean_x

    def safe_load_for(self, limit: float) -> float:
        """Like load_for, for requests that may have to queue. While a replica has free places, load has no effect and
        the line is flat, but that says nothing about the queue. So above the highest load seen, the value is assumed to
        grow in proportion to load."""
        load, there = self.load_for(limit), self.surely(self.highest)
        if load <= self.highest or not there:
            return load
        return max(self.highest, self.highest * limit / there)


@dataclass(slots=True)
class Usual:
    """The usual size of a request: the median of recent ones, as it can be told without keeping them. A few that are
    a thousand times as large move it no more than as many that are twice as large."""

    size: float = 0.0

    def learn(self, size: float) -> None:
        if not self.size:
            self.size = size
        elif size != self.size:
            self.size *= STEP if size > self.size else 1 / STEP

    def times(self, size: float) -> float:
        """How many times as large a request is; 1 for smaller ones, which take no less than a step of the model."""
        return max(1.0, size / self.size) if self.size else 1.0


@dataclass(slots=True)
class Prediction:
    """
    Attributes:
        first_s: seconds to the first token; None if there are no tokens. token_s: per token after it. duration_s: in
            all.
        busy_s: how many seconds of one replica it costs.
    """

    first_s: float | None
    token_s: float | None
    duration_s: float | None
    busy_s: float | None


@dataclass(slots=True)
class Predictor:
    """Predictions for one model, of requests that give it about as much to read as usual. A load is the number of
    requests on one replica, including the new one.

    Attributes:
        read: tokens that a request gives it to read.
    """

    first_s: Line = field(default_factory=Line)
    token_s: Line = field(default_factory=Line)
    duration_s: Line = field(default_factory=Line)
    busy_s: Line = field(default_factory=Line)
    tokens: Line = field(default_factory=Line)
    read: Usual = field(default_factory=Usual)

    def predict(self, load: float, tokens: int | None) -> Prediction:
        """
        Args:
            tokens: the limit on the answer's tokens. None: as many as recent answers had.
        """
        first, token, whole = (
            line.at(load) if line.known else None for line in (self.first_s, self.token_s, self.duration_s)
        )
        if token is not None:
            count = tokens or (self.tokens.at(load) if self.tokens.known else 1)
            whole = (first or 0.0) + token * max(0.0, count - 1)
        return Prediction(first, token, whole, self.busy_s.at(load) if self.busy_s.known else None)
