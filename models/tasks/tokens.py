"""Tokens: text to token ids and back. Engines of every task that reads text also honour this contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models.tasks.methods import Unary


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text, or for chat models the messages of a chat, to be cut into tokens."""

    text: str | None = None
    messages: tuple[dict, ...] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strings: bool = False


@dataclass(frozen=True, slots=True)
class TokenizeResult:
    tokens: tuple[int, ...]
    token_strings: tuple[str, ...] | None = None


TOKENIZE = Unary("tokenize", TokenizeRequest, TokenizeResult, lookup=True)
DETOKENIZE = Unary("detokenize", list[int], str, lookup=True)


class TokenEngine(Protocol):
    """What `/tokenize` and `/detokenize` need of an engine."""

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        """Raises InvalidRequest for a request the model cannot read, such as messages without a chat template."""
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Raises InvalidRequest for ids outside the vocabulary."""
        ...
