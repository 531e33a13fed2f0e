"""One generation of a causal language model, token by token: sampling, text, stop strings, log probabilities."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

# Dividing by a lower temperature would overflow; vLLM uses the same limit.
GREEDY_BELOW = 1e-5
# The most tokens held back for an incomplete character. A longer run is not valid UTF-8 and never will be.
MOST_HELD = 16
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The defaults change nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of_model(cls, config: GenerationConfig) -> Self:
        """The defaults of the model's authors. As in vLLM, `do_sample` is ignored."""
        return cls().override({field.name: getattr(config, field.name, None) for field in fields(cls)})

    def override(self, values: dict[str, Any]) -> Self:
        """A copy with these values. None and unknown names are ignored."""
        given = {field.name: values.get(field.name) for field in fields(self)}
        # transformers rejects the integer 1, but JSON may write 1.0 that way.
        numbers = {name: float(value) for name, value in given.items() if value is not None}
        if "top_k" in numbers:
            numbers["top_k"] = int(numbers["top_k"])
        return replace(self, **numbers)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        if self.temperature < GREEDY_BELOW:
            return {"do_sample": False, "repetition_penalty": self.repetition_penalty}
        return {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": max(0, self.top_k),
            "min_p": self.min_p or None,
            "repetition_penalty": self.repetition_penalty,
        }


@dataclass(slots=True)
class Piece:
    """Text to send, and the log probabilities of the tokens that it completes."""

    text: str
    logprobs: list[dict[str, Any]]


class TextDecoder:
    """Token ids to text, incrementally. A character that spans tokens is returned once it is complete.

    Args:
        before: the last tokens of the prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()):
        self.tokenizer = tokenizer
        self.ids = list(before)
        # The text of tokens before `_read` has been returned. Tokens from `_context` on are decoded again with those
        # that follow, because a token's text can depend on the token before it.
        self._context = 0
        self._read = len(self.ids)

    def push(self, token: int) -> str:
        self.ids.append(token)
        text = self._unread()
        if not text or (text.endswith(UNFINISHED) and len(self.ids) - self._read < MOST_HELD):
            return ""
        self._context, self._read = self._read, len(self.ids)
        return text

    def flush(self) -> str:
        """The rest of the text. An incomplete character at the end is dropped."""
        return self._unread().rstrip(UNFINISHED)

    def _unread(self) -> str:
        known = self._decode(self.ids[self._context : self._read])
        return self._decode(self.ids[self._context :])[len(known) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


class StopStrings:
    """Holds text back while it may be the start of a stop string."""

    def __init__(self, stops: Collection[str]):
        self.stops = [stop for stop in stops if stop]
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """The text that may be sent: none after a stop string."""
        if self.found:
            return ""
        text = self._held + text
        ends = [position for stop in self.stops if (position := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        keep = max((self._overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The length of the longest end of the text that is also the start of the stop string."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class LogprobRecorder(LogitsProcessor):
    """Keeps the model's scores for the next token from before temperature and other settings change them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, top: int):
        self.tokenizer = tokenizer
        self.top = top
        self._logprobs = torch.empty(0)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._logprobs = scores[0].float().log_softmax(-1)
        return scores

    def entry(self, token: int) -> dict[str, Any]:
        """The token in OpenAI's form, with the most probable alternatives."""
        most = self._logprobs.topk(self.top).indices.tolist() if self.top else []
        return {**self._describe(token), "top_logprobs": [self._describe(other) for other in most]}

    def _describe(self, token: int) -> dict[str, Any]:
        text = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        logprob = max(-9999.0, float(self._logprobs[token]))  # JSON has no infinity
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


class Follower(StoppingCriteria):
    """Receives each new token, sends the text that is ready, and decides when the generation ends.

    It is a stopping criterion rather than a streamer, because `generate` asks a criterion before the next forward pass.
    So a stop string, or a client that disconnects, costs no further token.

    Attributes:
        finish_reason: "stop" or "length"; None while it runs, and if it was cancelled.
        tokens: the number of tokens made, without the end-of-sequence token.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        *,
        limit: int,
        stops: Collection[str],
        ends: Collection[int],
        recorder: LogprobRecorder | None,
        cancelled: threading.Event,
        send: Callable[[Piece], None],
    ):
        self.limit = limit
        self.ends = ends
        self.recorder = recorder
        self.cancelled = cancelled
        self.send = send
        self.finish_reason: str | None = None
        self.tokens = 0
        self._decoder = decoder
        self._stops = StopStrings(stops)
        self._decoded = 0
        self._sent = 0
        self._entries: list[tuple[int | None, dict[str, Any]]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        if self.finish_reason is None and not self.cancelled.is_set():
            self._take(int(input_ids[0, -1]))
        done = self.finish_reason is not None or self.cancelled.is_set()
        return torch.full((len(input_ids),), done, dtype=torch.bool, device=input_ids.device)

    def _take(self, token: int) -> None:
        if token in self.ends:
            self._finish("stop")
            return
        self.tokens += 1
        if self.recorder is not None:
            self._entries.append((None, self.recorder.entry(token)))
        self._pass_on(self._decoder.push(token))
        if self._stops.found:
            self.finish_reason = "stop"
        elif self.tokens >= self.limit:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        self._pass_on(self._decoder.flush())
        self._pass_on(self._stops.flush(), held=True)
        self.finish_reason = "stop" if self._stops.found else reason

    def _pass_on(self, text: str, held: bool = False) -> None:
        """Send the part of this text that may be sent, with the log probabilities of the tokens it completes."""
        if not held:
            self._decoded += len(text)
            if text:
                # A token is complete where the text that it completes ends.
                self._entries = [(self._decoded if end is None else end, entry) for end, entry in self._entries]
            text = self._stops.push(text)
        self._sent += len(text)
        ready = [entry for end, entry in self._entries if end is not None and end <= self._sent]
        if text:
            self._entries = self._entries[len(ready) :]
            self.send(Piece(text, ready))
