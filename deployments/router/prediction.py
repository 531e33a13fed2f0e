"""How long a model's next request will take, learnt from those before it.

What a request waits for its first token, and for each one after, grows with the number of requests that its replica
works on. Both are learnt as straight lines of that number, from recent requests, and with them how far single requests
lie from the line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# After so many observations an old one counts a third: a model that was upgraded or a machine that got busy is learnt.
MEMORY = 60
# And after so many seconds: who refuses most requests sees few, and would keep a bad minute in mind for many.
MEMORY_S = 10.0
# Fewer say nothing; nor does what is left of them when as many have faded to the second number.
LEAST, LEAST_WEIGHT = 8, 4.0
# Standard deviations from the line that are kept as a reserve: of 100 requests, 2 or 3 lie beyond.
RESERVE = 2.0
# What lies further off is taken to lie there: requests that waited for a dead replica's successor say nothing of the
# next ones. A model that did get slower is learnt nevertheless, because each such request widens the spread.
OUTLIER = 5.0


@dataclass(slots=True)
class Line:
    """A value as a straight line of load, by least squares in which older observations count less. `highest` is the
    highest load of late."""

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
            now: seconds of a clock that only goes forward.
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
        """Never below 0: more load does not make a request faster. Where all observations were of one load, as if the
        value were in proportion to it."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        variance = self.xx / self.weight - mean_x**2
        if variance < 0.02 * mean_x**2:
            return mean_y / mean_x if mean_x else 0.0
        return max(0.0, (self.xy / self.weight - mean_x * mean_y) / variance)

    def at(self, x: float) -> float:
        """Expected at this load; never below a tenth of the mean, where a line would cross zero."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        return max(mean_y / 10, mean_y + self.slope() * (x - mean_x))

    def surely(self, x: float) -> float:
        """What most requests at this load stay below."""
        return self.at(x) + RESERVE * math.sqrt(self.spread)

    def load_for(self, limit: float) -> float:
        """The highest load at which most requests stay below a limit; infinite if load makes no difference to it."""
        slope = self.slope()
        if slope <= 0:
            return math.inf if self.surely(1) <= limit else 0.0
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        return (limit - RESERVE * math.sqrt(self.spread) - mean_y) / slope + mean_x

    def safe_load_for(self, limit: float) -> float:
        """As load_for, for what waits for a place: as long as places are free more load makes no difference, and the
        line is flat, which says nothing of the queue behind them. So above the highest load that was seen, the value
        is taken to grow in proportion to load."""
        load, there = self.load_for(limit), self.surely(self.highest)
        if load <= self.highest or not there:
            return load
        return max(self.highest, self.highest * limit / there)


@dataclass(slots=True)
class Prediction:
    """
    Attributes:
        first_s: to the first token; None for what has none. token_s: for each after it. duration_s: of the whole.
        busy_s: seconds of one replica that it costs.
    """

    first_s: float | None
    token_s: float | None
    duration_s: float | None
    busy_s: float | None


@dataclass(slots=True)
class Predictor:
    """What is learnt of one model. Loads are requests under way on one replica, the new one included."""

    first_s: Line = field(default_factory=Line)
    token_s: Line = field(default_factory=Line)
    duration_s: Line = field(default_factory=Line)
    busy_s: Line = field(default_factory=Line)
    tokens: Line = field(default_factory=Line)

    def predict(self, load: float, tokens: int | None) -> Prediction:
        """
        Args:
            tokens: that the answer may have; None for as many as answers have had.
        """
        first, token, whole = (
            line.at(load) if line.known else None for line in (self.first_s, self.token_s, self.duration_s)
        )
        if token is not None:
            count = tokens or (self.tokens.at(load) if self.tokens.known else 1)
            whole = (first or 0.0) + token * max(0.0, count - 1)
        return Prediction(first, token, whole, self.busy_s.at(load) if self.busy_s.known else None)
