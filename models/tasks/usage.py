"""What models count, and how much of it a request used: the one source of usage, metrics, promises and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counter:
    """A Prometheus counter.

    Attributes:
        name: the unit, in the plural.
        help: a sentence that says what is counted.
        label: distinguishes the counts that share this counter; empty if there is only one.
    """

    name: str
    help: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """
    Attributes:
        name: in usage and in logs.
        counter: the metric that sums it. value: this count's value of the counter's label.
    """

    name: str
    counter: Counter
    value: str = ""


TOKENS = Counter("medley_tokens", "Tokens read (direction: prompt) and written (direction: completion).", "direction")

PROMPT_TOKENS = Count("prompt_tokens", TOKENS, "prompt")
"""Tokens that the model read, special tokens included."""
COMPLETION_TOKENS = Count("completion_tokens", TOKENS, "completion")
"""Tokens that the model wrote."""
IMAGES = Count("images", Counter("medley_images", "Pictures made, enlarged or painted in another style."))
AUDIO_SECONDS = Count(
    "audio_seconds", Counter("medley_audio_seconds", "Seconds of sound that models made or listened to.")
)
CHARACTERS = Count("characters", Counter("medley_characters", "Characters of the text that models were given."))


class Usage:
    """How much of each count a request used: `Usage({PROMPT_TOKENS: 12})[PROMPT_TOKENS]`. A missing count is 0."""

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[Count, float] | None = None):
        self._amounts = {count.name: amount for count, amount in (amounts or {}).items()}

    def __getitem__(self, count: Count) -> float:
        return self._amounts.get(count.name, 0)

    def __add__(self, other: Usage) -> Usage:
        both = Usage()
        both._amounts = dict(self._amounts)
        for name, amount in other._amounts.items():
            both._amounts[name] = both._amounts.get(name, 0) + amount
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and self._amounts == other._amounts

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __repr__(self) -> str:
        return f"Usage({self._amounts})"


NOTHING = Usage()
