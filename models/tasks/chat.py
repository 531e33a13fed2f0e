"""Chat and text completion, in OpenAI's wire form.

Results cross processes as the bytes that a client will read: one JSON document, or the events of a stream. vLLM writes
that form itself, with tool calls, log probabilities and usage. Parsing it in the replica and writing it again in the
router would cost CPU for every token and gain nothing. See docs/decisions/0002.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.tasks.methods import Ask, Stream
from models.tasks.task import Begins, Settings, Task
from models.tasks.tokens import DETOKENIZE, TOKENIZE, TokenizeRequest, TokenizeResult
from models.tasks.usage import COMPLETION_TOKENS, PROMPT_TOKENS


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """
    Attributes:
        body: the request's JSON body, validated by the wire model: OpenAI's fields and vLLM's extensions.
        request_id: the id in logs, and the end of the answer's `id`. Two requests for the same are equal without it.
        size: of the body as it was sent, in bytes.
    """

    body: dict[str, Any]
    request_id: str = field(compare=False)
    size: int = 0

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


# Bytes of a body above which it goes through the object store.
LARGE_BODY = 512 << 10


def is_large(request: GenerationRequest) -> bool:
    return request.size > LARGE_BODY


CHAT = Stream("chat", GenerationRequest, bytes, large=is_large)
COMPLETE = Stream("complete", GenerationRequest, bytes, large=is_large)


class ChatEngine(Protocol):
    """A loaded language model.

    `chat` and `complete` yield one JSON document. For a stream they yield server-sent events, each `data: ...` with its
    blank line; the last is `data: [DONE]`. Closing the iterator stops the generation.

    Raises:
        InvalidRequest: before the first item, for a body that the model cannot serve (UnsupportedParameter,
            ContextLengthExceeded among them).
        EngineFailed: the model failed.
    """

    def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]: ...

    def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]: ...

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult: ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    async def check_health(self) -> None:
        """Raises if the model can no longer answer."""
        ...


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def sample(settings: Settings) -> tuple[Ask[Any, Any], ...]:
    """A prompt and an answer of usual length, twice: kernels are compiled for the shapes they first meet."""
    body = {"messages": [{"role": "user", "content": "word " * 48}], "max_tokens": 16, "temperature": 0}
    return tuple(CHAT(GenerationRequest(body, f"warm-up-{number}")) for number in range(2))


TASK = Task(
    "chat",
    Settings,
    methods=(CHAT, COMPLETE, TOKENIZE, DETOKENIZE),
    counts=(PROMPT_TOKENS, COMPLETION_TOKENS),
    sample=sample,
    begins=Begins.TOKENS,
)
