"""Translates a request's body to options of `generate`. A parameter that cannot be honoured is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.engines.generation import Sampling
from models.errors import UnsupportedParameter

Kind = Literal["chat", "completion"]

SHARED = {"max_tokens", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p"}
SHARED |= {"model", "repetition_penalty", "user"}
SUPPORTED = {
    "chat": SHARED
    | {"messages", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice", "chat_template_kwargs"},
    "completion": SHARED | {"prompt"},
}
# Parameters that are accepted only with the value that has no effect.
NEUTRAL: dict[str, Any] = {
    "allowed_token_ids": [],
    "bad_words": [],
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "logit_bias": {},
    "min_tokens": 0,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "stop_token_ids": [],
    "store": False,
    "suffix": "",
}
ADDS_SPECIAL_TOKENS = {"chat": False, "completion": True}
DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Options:
    """
    Attributes:
        max_tokens: None stands for the rest of the context.
        logprobs: how many alternatives to show with each token; None for no log probabilities.
        template_arguments: additional variables for the chat template.
    """

    sampling: Sampling
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    n: int
    logprobs: int | None
    include_usage: bool
    template_arguments: dict[str, Any]


def read_options(body: dict[str, Any], kind: Kind, sampling: Sampling) -> Options:
    """Read a validated body.

    Args:
        sampling: the model's defaults, for what the body leaves out.

    Raises:
        UnsupportedParameter: names the first parameter that this engine cannot honour.
    """
    for name, value in body.items():
        neutral = ADDS_SPECIAL_TOKENS[kind] if name == "add_special_tokens" else NEUTRAL.get(name)
        if name not in SUPPORTED[kind] and value is not None and value != neutral:
            raise unsupported(name)
    stop = body.get("stop") or ()
    stream_options = body.get("stream_options") or {}
    if stream_options.get("continuous_usage_stats"):
        raise unsupported("stream_options.continuous_usage_stats")
    if body.get("tools") and body.get("tool_choice") != "none":  # this engine does not parse tool calls in answers
        raise unsupported("tools")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return Options(
        sampling=sampling.override(body),
        max_tokens=limit or (DEFAULT_COMPLETION_TOKENS if kind == "completion" else None),
        seed=body.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        n=body.get("n") or 1,
        logprobs=(body.get("top_logprobs") or 0) if kind == "chat" and body.get("logprobs") else None,
        include_usage=bool(stream_options.get("include_usage")),
        template_arguments=body.get("chat_template_kwargs") or {},
    )


def unsupported(name: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"This model does not support {name[:100]} as it runs here. Leave it out.", name[:100])
