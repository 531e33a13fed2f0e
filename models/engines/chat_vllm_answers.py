"""vLLM's answers in the form that clients read.

vLLM counts the token that ends an answer, and lists it among the log probabilities. OpenAI does neither: a token that a
client is told of has a part in the text. vLLM also leaves out events that have no text, with their log probabilities,
unless token ids are asked for. So they are asked for where they are needed, and taken out again.
"""

from __future__ import annotations

import json
from typing import Any

from models.tasks.chat import event

CALLED, CUT = "tool_calls", "length"
# What an event that must be read has in its text. Others are passed on as they are, because reading costs time for each
# token.
TO_READ = ('"finish_reason":"', '"usage":{', '"logprobs":{"content"')


class Answers:
    """What vLLM writes for one request.

    Attributes:
        asked: fields of vLLM's request that this needs.
    """

    def __init__(self, body: dict[str, Any], *, chat: bool, ends: frozenset[int]):
        """
        Args:
            body: the client's request.
            chat: it is a chat, and no text completion.
            ends: the tokens that end an answer.
        """
        self.asked: dict[str, Any] = {}
        if chat and (body.get("tools") or (body.get("logprobs") and body.get("stream"))):
            self.asked = {"return_token_ids": True}
        self._forced = body.get("tool_choice") not in (None, "auto", "none")
        self._only_echoes = body.get("max_tokens") == 0
        self._keeps_ends = bool(body.get("include_stop_str_in_output"))
        stops = frozenset(body.get("stop_token_ids") or ())
        self._ends = stops if body.get("ignore_eos") else ends | stops
        self._ended = 0

    def event(self, item: str) -> bytes | None:
        """One event of a stream. None if nothing is left of it without the token ids."""
        if not item.startswith("data: {") or not (self.asked or any(part in item for part in TO_READ)):
            return item.encode()
        document = self._as_described(json.loads(item.removeprefix("data: ")))
        choices = document["choices"]
        if choices and not document.get("usage") and not any(map(tells, choices)):
            return None
        return event(document)

    def whole(self, document: dict[str, Any]) -> bytes:
        document = self._as_described(document)
        for choice in document["choices"]:
            message = choice.get("message")
            if message is not None:
                if self._forced and choice["finish_reason"] == CUT and not message.get("tool_calls"):
                    message.pop("content", None)  # the markup of a call that was cut: nothing was said
                choice["message"] = {"content": None, "refusal": None, **message}
        return json.dumps(document, ensure_ascii=False).encode()

    def _as_described(self, document: dict[str, Any]) -> dict[str, Any]:
        """Without nulls, except in fields that OpenAI's description requires even when they are null."""
        document.pop("prompt_token_ids", None)
        ended = sum(self._settle(choice) for choice in document["choices"])
        if (usage := document.get("usage")) is not None:
            # The usage beside a part of a choice is that choice's. The last event's is that of all choices.
            self._correct(usage, ended if document["choices"] else self._ended)
        self._ended += ended
        return document

    def _settle(self, choice: dict[str, Any]) -> bool:
        """Correct a choice, or a part of it. Returns whether it ends with a token that has no part in the text."""
        tokens = choice.pop("token_ids", None)
        choice.pop("prompt_token_ids", None)
        ended = self._is_ended(choice, tokens)
        if tokens is not None and not ended and choice.get("finish_reason") == CALLED:
            choice["finish_reason"] = CUT  # vLLM says so of calls that were cut, too
        choice.setdefault("logprobs", None)
        if (found := choice["logprobs"]) is not None:
            if "content" in found:
                found.setdefault("refusal", None)
            if ended:
                for name, entries in found.items():
                    found[name] = entries and entries[:-1]
            if "delta" in choice and not found["content"]:
                choice["logprobs"] = None
        return ended

    def _is_ended(self, choice: dict[str, Any], tokens: list[int] | None) -> bool:
        if choice.get("finish_reason") not in ("stop", CALLED) or self._keeps_ends:
            return False
        if isinstance(choice.get("stop_reason"), str):  # a stop string, of tokens that have text
            return False
        return tokens is None or (bool(tokens) and tokens[-1] in self._ends)

    def _correct(self, usage: dict[str, Any], ended: int) -> None:
        usage["completion_tokens"] = 0 if self._only_echoes else max(0, usage.get("completion_tokens", 0) - ended)
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]


def tells(choice: dict[str, Any]) -> bool:
    """Whether a part of a choice says anything."""
    delta = choice.get("delta", True)  # of a text completion, every part does
    return bool(delta or choice["logprobs"] or choice.get("finish_reason"))
