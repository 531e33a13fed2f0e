"""What a request used up, whatever its task: for metrics, logs, traces and budgets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Attributes:
        prompt_tokens: read by the model, special tokens included.
        completion_tokens: written by it.
        images: pictures made.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    images: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.images + other.images,
        )


NOTHING = Usage()
