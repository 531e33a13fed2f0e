"""How long prompts and answers are, before anybody has counted them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# What is known before anything is learnt: a token of English has four characters, and each text a token at both ends.
A_TOKEN, A_TEXT = 0.25, 2.0
# How much one text, or one answer, moves the mean.
NEWEST = 0.05
# The length of an answer to a request without a limit, before one has been seen.
UNLIMITED = 256


@dataclass(slots=True)
class Lengths:
    """
    Attributes:
        a_token: tokens for a character. a_text: tokens for a text, or a conversation, whatever its length.
        answers: the mean length of answers, by the limit that was asked for, in powers of two; 0 for no limit.
    """

    a_token: float = A_TOKEN
    a_text: float = A_TEXT
    answers: dict[int, float] = field(default_factory=dict)

    def tokens(self, characters: int, texts: int = 1) -> float:
        """Tokens of so many characters in so many texts."""
        return self.a_token * characters + self.a_text * texts

    def fit(self, long: tuple[int, int], short: tuple[int, int]) -> None:
        """Both figures from the characters and tokens of two texts that are known to be usual."""
        if long[0] > short[0] and long[1] > short[1] > 0:
            self.a_token = (long[1] - short[1]) / (long[0] - short[0])
            self.a_text = max(1.0, short[1] - self.a_token * short[0])

    def learn(self, characters: int, tokens: int, texts: int = 1) -> None:
        """What such texts turned out to have. Their error is shared out by the part that each figure has in it."""
        if not characters or not tokens or not texts:
            return
        expected = self.tokens(characters, texts)
        share = self.a_token * characters / expected
        error = NEWEST * math.log(tokens / expected)
        self.a_token *= math.exp(2 * share * error)
        self.a_text *= math.exp(2 * (1 - share) * error)

    def answer(self, limit: int | None, all_of_it: bool = False) -> float:
        """Tokens that an answer with this limit will have.

        Args:
            all_of_it: nothing ends it before its limit.
        """
        if limit is not None and all_of_it:
            return float(limit)
        known = self.answers.get(kind_of(limit))
        return min(float(limit or math.inf), known if known is not None else float(limit or UNLIMITED))

    def learn_answer(self, limit: int | None, tokens: float) -> None:
        kind = kind_of(limit)
        before = self.answers.get(kind, tokens)
        self.answers[kind] = before + 4 * NEWEST * (tokens - before)


def kind_of(limit: int | None) -> int:
    """Limits that differ by less than a factor of two are of one kind."""
    return limit.bit_length() if limit else 0
