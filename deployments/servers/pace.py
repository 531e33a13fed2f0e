"""How much a request gives a replica to do, and how fast the replica does it.

An engine works in steps. A step takes

    base + per_width * width + per_read * read    seconds

where `width` sums what is written in the step (sequences of chats, pictures in units of the model's own size) and
`read` what is read in it (tokens of prompts). Reading and writing share steps, so each slows the other down.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np

# Standard deviation of the time of one step around the line, as a share of it, before it is learnt; and how much one
# observation moves its square.
NOISE, NEWEST = 0.25, 0.05
# How much the three figures may change in a second of work, as shares of them: all together, because the machine got
# slower or faster, and each by itself.
TOGETHER, APART = 0.15, 0.03
# An observation further off than this many times what was expected counts as one that is so far off: a pause of the
# machine says nothing about the next step. A model that really became slower is still learnt, within a few steps. Of
# what was hardly seen, nothing is far off.
OUTLIER = 2.0
# No figure is 0, from which it could never grow again.
LITTLE = 1e-9
IDENTITY = np.eye(3)
# With so many observations the figures are used, and so many are fitted together.
LEAST, FIRST = 3, 12


@dataclass(frozen=True, slots=True)
class Work:
    """What a request gives a model to do.

    Attributes:
        read: units that the model takes in before the first piece of its answer, such as tokens of a prompt.
        steps: pieces that it makes one after the other, such as tokens of an answer.
        width: how much of each step is the request's: answers made side by side, pixels of pictures.
        items: into how many parts a batch may divide it.
    """

    read: float = 0.0
    steps: float = 0.0
    width: float = 1.0
    items: int = 1


class Pace:
    """The three figures: of the first observations by non-negative least squares of relative errors, then by recursive
    least squares with forgetting, a Kalman filter whose state is `(base, per_width, per_read)` (Simon, Optimal State
    Estimation, section 5)."""

    def __init__(self):
        self.state = np.zeros(3)
        self.spread = np.zeros((3, 3))
        self.seen = 0
        self.begun: Pace | None = None
        self.noise = NOISE
        self._first: list[np.ndarray] = []

    @property
    def known(self) -> bool:
        return self.seen >= LEAST

    @property
    def base(self) -> float:
        return float(self.state[0])

    @property
    def per_width(self) -> float:
        return float(self.state[1])

    @property
    def per_read(self) -> float:
        return float(self.state[2])

    def seconds(self, steps: float, width: float, read: float) -> float:
        """How long so many steps take, with sums of width and read over all of them."""
        return float(self.state @ (steps, width, read))

    def doubt(self, steps: float, width: float, read: float) -> float:
        """Standard deviation of `seconds` by what is not known of the figures, as a share of it; 0 of nothing."""
        done = np.array([steps, width, read])
        return math.sqrt(max(0.0, float(done @ self.spread @ done))) / max(LITTLE, self.seconds(steps, width, read))

    def learn(self, seconds: float, steps: float, width: float, read: float) -> None:
        """Learn from work that was done.

        Args:
            seconds: that it took.
            width, read: sums over its steps.
        """
        done = np.array([steps, width, read], dtype=float)
        if not done.any() or not math.isfinite(seconds) or seconds <= 0:
            return
        self.seen += 1
        if self.seen <= FIRST:
            self._fit(done / seconds)
            return
        expected = float(self.state @ done)
        doubt = math.sqrt(max(0.0, done @ self.spread @ done))
        seconds = min(seconds, (expected + doubt) * (1 + OUTLIER))
        off = (seconds / expected - 1) ** 2 * max(1.0, steps)  # many steps together are nearer to the line than one
        self.noise = math.sqrt(self.noise**2 + NEWEST * (off - self.noise**2))
        wander = self.state[:, None] * self.state
        self.spread += seconds * (TOGETHER**2 * wander + APART**2 * (wander * IDENTITY))
        # By what was expected: if slow steps weighed less than fast ones, the figures would be too low.
        noise = (max(NOISE, self.noise) * expected) ** 2
        gain = self.spread @ done / (done @ self.spread @ done + noise)
        self.state = np.maximum(self.state + gain * (seconds - expected), np.maximum(self.state * 0.05, LITTLE))
        kept = IDENTITY - gain[:, None] * done
        self.spread = kept @ self.spread @ kept.T + noise * (gain[:, None] * gain)  # Joseph's form: never negative

    def _fit(self, done_a_second: np.ndarray) -> None:
        """The figures by which everything done so far comes nearest to the time it took."""
        self._first.append(done_a_second)
        rows = np.array(self._first)
        scale = np.maximum(rows.max(axis=0), 1e-12)
        self.state = np.maximum(nearest(rows / scale, np.ones(len(rows))) / scale, LITTLE)
        # What nothing was seen of may be anything up to a whole step.
        sure = rows.T @ rows / NOISE**2 + np.diag((scale + 1e-6) ** 2) / 25
        self.spread = np.linalg.inv(sure)
        if self.seen == FIRST:
            self._first.clear()
            self.begun = copy.copy(self)


def doubling(first: float, last: float) -> list[float]:
    """Sizes up to the last one, each twice as large as the one before."""
    sizes = [first]
    while sizes[-1] * 2 < last:
        sizes.append(sizes[-1] * 2)
    return [*sizes, last] if last > sizes[-1] else sizes


def nearest(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The x without negative values for which `rows @ x` comes nearest to `wanted`: the best of all choices of values
    that are not 0. There are seven of three."""
    size = rows.shape[1]
    best, least = np.zeros(size), math.inf
    for count in range(1, size + 1):
        for chosen in itertools.combinations(range(size), count):
            some = np.linalg.lstsq(rows[:, chosen], wanted, rcond=None)[0]
            error = float(np.sum((rows[:, chosen] @ some - wanted) ** 2))
            if some.min() >= 0 and error < least - 1e-12:
                best, least = np.zeros(size), error
                best[list(chosen)] = some
    return best
