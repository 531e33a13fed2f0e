"""Answers of chat models in the form for `compare`, and their times, for all backends."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from workshop.evaluation.chat_texts import ANSWERED, GREEDY


def rows(answers: list[list[int]]) -> np.ndarray:
    """Answers of different lengths as one array, padded with -1."""
    table = np.full((len(answers), GREEDY), -1, np.int64)
    for row, answer in zip(table, answers, strict=True):
        row[: len(answer)] = answer[:GREEDY]
    return table


def seconds_of_tokens(began: float, first: float, end: float) -> tuple[float, float]:
    """Seconds to the first token and for each token after it, from three moments of an answer of ANSWERED tokens."""
    return first - began, (end - first) / (ANSWERED - 1)


def medians(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of `seconds_of_tokens`, over the answers of a batch."""
    return {
        "time_to_first_token_s": median(first for first, _ in times),
        "time_per_output_token_s": median(each for _, each in times),
    }
