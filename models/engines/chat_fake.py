"""Chat without a model: for tests, and to try a cluster without weights."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Self

from models.errors import ContextLengthExceeded, InvalidRequest
from models.specs import ModelSpec, VariantSpec
from models.tasks.chat import DONE, GenerationRequest, SideBySide, check_ids, event
from models.tasks.tokens import TokenizeRequest, TokenizeResult

VOCABULARY_SIZE = 1 << 16


class Engine:
    """A model that echoes the words of the last message, one token per word. Deterministic and instant.

    It supports what the router's tests need: streams, `n`, `max_tokens`, `stop`, `stream_options.include_usage`,
    `logprobs`, a forced tool call and a JSON schema, and a context limit counted in words.
    """

    side_by_side = SideBySide(chunk=2048, step=2048, sequences=64)

    def __init__(self, model: str, context_tokens: int, seconds_per_token: float = 0.0):
        self.model = model
        self.context_tokens = context_tokens
        self.seconds_per_token = seconds_per_token
        self.tokens_made = 0
        self._words: list[str] = []

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls(spec.id, spec.limits.context_tokens, float(variant.engine.get("seconds_per_token", 0)))

    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        prompt = " ".join(_text(message) for message in request.body["messages"])
        async for item in self._answer(request, prompt, _text(request.body["messages"][-1]), "chat.completion"):
            yield item

    async def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        prompt = request.body["prompt"]
        if not isinstance(prompt, str):
            prompt = " ".join(prompt) if prompt and isinstance(prompt[0], str) else f"{len(prompt)} tokens"
        async for item in self._answer(request, prompt, prompt, "text_completion"):
            yield item

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        text = request.text if request.text is not None else " ".join(_text(m) for m in request.messages or ())
        words = text.split()
        self._words += [word for word in words if word not in self._words]
        tokens = tuple(self._words.index(word) for word in words)
        return TokenizeResult(tokens, tuple(words) if request.return_token_strings else None)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        if any(not 0 <= token < len(self._words) for token in tokens):
            raise InvalidRequest("A token is not in the vocabulary.", "tokens")
        return " ".join(self._words[token] for token in tokens)

    async def check_health(self) -> None:
        return None

    async def _answer(
        self, request: GenerationRequest, prompt: str, echo: str, kind: str
    ) -> AsyncGenerator[bytes, None]:
        body = request.body
        check_ids(body, VOCABULARY_SIZE)
        prompt_tokens = len(prompt.split())
        if prompt_tokens > self.context_tokens:
            raise ContextLengthExceeded(
                f"This model reads at most {self.context_tokens} tokens; the prompt has {prompt_tokens}. Shorten it."
            )
        words, reason = self._cut(echo.split(), body)
        head = {"id": f"fake-{request.request_id}", "created": int(time.time()), "model": self.model}
        choices = range(body.get("n") or 1)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(words) * len(choices),
            "total_tokens": prompt_tokens + len(words) * len(choices),
        }
        if not body.get("stream"):
            for _ in words:
                await self._spend_a_token()
            answers = [self._choice(index, words, reason, body, kind) for index in choices]
            yield json.dumps({**head, "object": kind, "choices": answers, "usage": usage}).encode()
            return
        head["object"] = "chat.completion.chunk" if kind == "chat.completion" else kind
        for position, word in enumerate(words):
            await self._spend_a_token()
            text = word if position == 0 else f" {word}"
            for index in choices:
                part: dict[str, Any] = {"index": index, "finish_reason": None, "logprobs": None}
                if kind == "chat.completion":
                    part["delta"] = {"role": "assistant", "content": text} if position == 0 else {"content": text}
                else:
                    part["text"] = text
                yield event({**head, "choices": [part]})
        for index in choices:
            end = {"delta": {}} if kind == "chat.completion" else {"text": ""}
            yield event({**head, "choices": [{"index": index, "finish_reason": reason, "logprobs": None, **end}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            yield event({**head, "choices": [], "usage": usage})
        yield DONE

    async def _spend_a_token(self) -> None:
        self.tokens_made += 1
        await asyncio.sleep(self.seconds_per_token)

    def _cut(self, words: list[str], body: dict[str, Any]) -> tuple[list[str], str]:
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        for position, word in enumerate(words):
            if word in stops:
                return words[:position], "stop"
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(words)
        return words[:limit], "length" if limit < len(words) else "stop"

    def _choice(self, index: int, words: list[str], reason: str, body: dict[str, Any], kind: str) -> dict[str, Any]:
        text = " ".join(words)
        if kind == "text_completion":
            return {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        logprobs = None
        if body.get("logprobs"):
            tokens = [{"token": w, "logprob": -0.1, "bytes": list(w.encode()), "top_logprobs": []} for w in words]
            logprobs = {"content": tokens, "refusal": None}
        choice = body.get("tool_choice")
        if body.get("tools") and (choice == "required" or isinstance(choice, dict)):
            name = choice["function"]["name"] if isinstance(choice, dict) else body["tools"][0]["function"]["name"]
            call = {"id": "call-0", "type": "function", "function": {"name": name, "arguments": "{}"}}
            message.update(content=None, tool_calls=[call])
            reason = "tool_calls"
        elif (body.get("response_format") or {}).get("type") in ("json_schema", "json_object"):
            message["content"] = json.dumps({"answer": text})
        return {"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""
