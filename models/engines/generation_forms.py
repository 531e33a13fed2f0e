"""What `generate` made in OpenAI's forms: whole answers and the parts of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models.engines.generation import Piece


@dataclass(slots=True)
class Choice:
    """One answer to one prompt."""

    index: int
    prompt: list[int]
    seed: int | None
    pieces: list[Piece] = field(default_factory=list)
    finish_reason: str = "stop"
    tokens: int = 0


class ChatForm:
    """The form of answers to a chat."""

    id, document, chunk, prompt = "chatcmpl", "chat.completion", "chat.completion.chunk", "messages"

    def part(self, choice: Choice, piece: Piece, first: bool) -> dict[str, Any]:
        delta = {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
        logprobs = {"content": piece.logprobs, "refusal": None} if piece.logprobs else None
        return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def end(self, choice: Choice, first: bool) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""} if first else {}
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": choice.finish_reason}

    def answer(self, choice: Choice, with_logprobs: bool) -> dict[str, Any]:
        text = "".join(piece.text for piece in choice.pieces)
        entries = [entry for piece in choice.pieces for entry in piece.logprobs]
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": {"content": entries, "refusal": None} if with_logprobs else None,
            "finish_reason": choice.finish_reason,
        }


class CompletionForm:
    """The form of continuations of a text."""

    id, document, chunk, prompt = "cmpl", "text_completion", "text_completion", "prompt"

    def part(self, choice: Choice, piece: Piece, first: bool) -> dict[str, Any]:
        return {"index": choice.index, "text": piece.text, "logprobs": None, "finish_reason": None}

    def end(self, choice: Choice, first: bool) -> dict[str, Any]:
        return {"index": choice.index, "text": "", "logprobs": None, "finish_reason": choice.finish_reason}

    def answer(self, choice: Choice, with_logprobs: bool) -> dict[str, Any]:
        return {**self.end(choice, True), "text": "".join(piece.text for piece in choice.pieces)}
