"""Streamed chat. A trace's lengths are followed; otherwise they are drawn as people ask: log-normal, fitted to Azure's
published trace of 2023 and cut to what the scenario allows."""

from __future__ import annotations

import random
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.kind import Answer, Model, Request

# Medians and sigmas of the logarithms of Azure's chat trace, tokens: 1020 and 129; the sigmas are those of p90 / p50.
PROMPT, ANSWER = (1020, 0.77), (129, 0.93)
# Of English text in the tokens of most models.
TOKENS_OF_A_WORD = 1.3
WORDS = (  # noqa: SIM905  a list of literals would be a page
    "the harbour was quiet that morning and a cold wind moved over the water while men in heavy coats carried boxes of "
    "fish up the stone steps to the market where women sold bread onions and honey under old canvas roofs and children "
    "ran between the stalls with a small brown dog behind them"
).split()
QUESTIONS = (
    "What is the capital of France?",
    "Summarise the text above in one sentence.",
    "Write a short story about what happens next.",
    "Who are the people in this text, and what do they do?",
    "Name three animals that lay eggs.",
    "Explain why the sky is blue.",
    "Give me a recipe for a simple soup.",
    "Translate the first sentence into French.",
)


class Chat:
    def request(self, draw: random.Random, arrival: Arrival, model: Model, options: dict[str, Any]) -> Request:
        asked = arrival.prompt_tokens or int(draw.lognormvariate(0, PROMPT[1]) * PROMPT[0])
        answered = arrival.output_tokens or int(draw.lognormvariate(0, ANSWER[1]) * ANSWER[0])
        scale = options.get("scale", 1.0)
        asked = fitted(asked * scale, options.get("max_prompt_tokens", 1024))
        answered = fitted(answered * scale, options.get("max_tokens", 128))
        body = {
            "model": model.id,
            "messages": [{"role": "user", "content": prompt(draw, asked)}],
            "max_tokens": answered,
            "ignore_eos": True,  # so that a trace's lengths are kept
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        leave = draw.random() < options.get("leave", 0.0)
        after = draw.randint(1, max(1, answered // 2)) if leave else None
        return Request("/v1/chat/completions", body, leave_after=after, wants=answered)

    def check(self, request: Request, answer: Answer) -> str:
        usage = usage_of(answer)
        choices = [choice for document in answer.documents for choice in document.get("choices", ())]
        reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
        text = "".join((choice.get("delta") or {}).get("content") or "" for choice in choices)
        if not usage:
            return "the stream says nothing of usage"
        if usage.get("completion_tokens") != request.wants:
            return f"{usage.get('completion_tokens')} tokens came, {request.wants} were asked for"
        if reasons != ["length"]:
            return f"it ended with {reasons}, once by length was right"
        return "" if text.strip() else "it has no text"

    def amount(self, answer: Answer) -> int:
        return (usage_of(answer) or {}).get("completion_tokens", 0)


KIND = Chat()


def usage_of(answer: Answer) -> dict[str, Any] | None:
    return next((one["usage"] for one in reversed(answer.documents) if one.get("usage")), None)


def fitted(tokens: float, most: int) -> int:
    return max(2, min(most, round(tokens)))


def prompt(draw: random.Random, tokens: int) -> str:
    """About `tokens` tokens: words in random order, so that no two prompts share a prefix, and a question."""
    words = max(0, round(tokens / TOKENS_OF_A_WORD) - 8)
    return " ".join((*draw.choices(WORDS, k=words), draw.choice(QUESTIONS)))
