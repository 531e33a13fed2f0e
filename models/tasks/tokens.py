"""Tokens: text to token ids and back. Tasks whose models read text have these methods in addition to their own."""

from __future__ import annotations

from dataclasses import dataclass

from models.tasks.methods import Unary


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text to tokenize, or for chat models the messages of a chat."""

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
"""Raises InvalidRequest for a request that the model cannot read, such as messages without a chat template."""

DETOKENIZE = Unary("detokenize", list[int], str, lookup=True)
"""Raises InvalidRequest for ids outside the vocabulary."""
