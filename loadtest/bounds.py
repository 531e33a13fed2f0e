"""What a sample tells about the whole that it was drawn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def least_share(good: int, of: int, confidence: float) -> float:
    """The one-sided lower bound of a share: Clopper and Pearson, 1934."""
    from scipy.special import betaincinv  # here, so that what needs no bounds needs no scipy

    return 0.0 if good == 0 else float(betaincinv(good, of - good + 1, 1 - confidence))


def most_share(good: int, of: int, confidence: float) -> float:
    """The one-sided upper bound of a share."""
    from scipy.special import betaincinv

    return 1.0 if good == of else float(betaincinv(good + 1, of - good, confidence))


def needed(share: float, confidence: float, misses: int = 0) -> int:
    """How many attempts prove a share when this many of them are misses. The rule is MLPerf's early stopping."""
    count = max(1, math.ceil(math.log(1 - confidence) / math.log(share)))
    while least_share(count - misses, count, confidence) < share:
        count += 1
    return count


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN if there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def ratio_over_blocks(ratios: Sequence[float], confidence: float, seed: int = 0) -> tuple[float, float, float]:
    """The median of ratios, one per block of time, and its interval by the bootstrap over blocks.

    Requests of one block share what happened to the machine meanwhile, so blocks, and not requests, are drawn again.
    """
    logs = np.log(np.asarray(ratios, float))
    draw = np.random.default_rng(seed)
    medians = np.median(draw.choice(logs, (4000, len(logs))), axis=1)
    low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high))
