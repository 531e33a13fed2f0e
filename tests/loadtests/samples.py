"""Whether a sample is drawn from a distribution: `scipy.stats.kstest`, whose import takes longer than these tests."""

import math

import numpy as np
from scipy.special import gammainc, kolmogorov


def kstest(values, distribution) -> float:
    """
    Args:
        distribution: the cumulative one, of a sorted array.

    Returns:
        how probable so large a difference is, of a true sample of more than thirty.
    """
    shares, count = distribution(np.sort(values)), len(values)
    steps = np.arange(count + 1) / count
    distance = max((steps[1:] - shares).max(), (shares - steps[:-1]).max())
    return float(kolmogorov(math.sqrt(count) * distance))


def exponential(mean):
    return lambda values: 1 - np.exp(-np.asarray(values) / mean)


def gamma(shape, mean):
    return lambda values: gammainc(shape, np.asarray(values) * shape / mean)
