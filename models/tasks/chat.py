"""Chat and text completion, in OpenAI's wire form.

Results cross processes as the bytes that a client will read: one JSON document, or the events of a stream. vLLM writes
that form itself, with tool calls, log probabilities and usage. Parsing it in the replica and writing it again in the
router would cost CPU for every token and gain nothing. See docs/decisions/0002.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from models.errors import InvalidRequest
from models.prompt_limits import check_vocabulary
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


@dataclass(frozen=True, slots=True)
class SideBySide:
    """How an engine answers several requests at once, in steps.

    Attributes:
        chunk: tokens of one prompt that it reads in a step.
        step: tokens of all that it reads and writes in a step.
        sequences: that it writes at once.
    """

    chunk: int
    step: int
    sequences: int


class ChatEngine(Protocol):
    """A loaded language model. One that knows its steps is a TellsSteps, too.

    Attributes:
        side_by_side: None if it answers one request after the other.

    `chat` and `complete` yield one JSON document. For a stream they yield server-sent events, each `data: ...` with its
    blank line; the last is `data: [DONE]`. Closing the iterator stops the generation.

    Raises:
        InvalidRequest: before the first item, for a body that the model cannot serve (UnsupportedParameter,
            ContextLengthExceeded among them).
        EngineFailed: the model failed.
    """

    @property
    def side_by_side(self) -> SideBySide | None: ...

    def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]: ...

    def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]: ...

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult: ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    async def check_health(self) -> None:
        """Raises if the model can no longer answer."""
        ...


@runtime_checkable
class TellsSteps(Protocol):
    def tell_steps(self, did: Callable[[float, float, float, float, float], None]) -> None:
        """Call `did` after each step with its seconds, 1, the sequences that it wrote, the tokens that it read, and the
        sequences that wait to be begun."""
        ...


# Names that chat_template_kwargs cannot have: what a template is given with a request, and how its text is processed.
# transformers and vLLM take them for arguments of their own.
RESERVED_FOR_TEMPLATES = frozenset(
    {"add_generation_prompt", "chat_template", "chat_template_content_format", "continue_final_message"}
    | {"conversation", "documents", "kwargs", "max_length", "messages", "model_config", "padding", "request", "self"}
    | {"return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize", "tokenizer", "tokenizer_kwargs"}
    | {"tools", "truncation"}
)


def check_ids(body: dict[str, Any], size: int) -> None:
    """Raises InvalidRequest if a token id in the body of a request is not below `size`, or is no number."""
    for param, ids in ids_in(body):
        check_vocabulary(ids, size, param)


def ids_in(body: dict[str, Any]) -> Iterator[tuple[str, Sequence[int]]]:
    """Where a client sent token ids, and those."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and isinstance(prompt[0], int):
        yield "prompt", prompt
    elif isinstance(prompt, list):
        yield from ((f"prompt[{index}]", ids) for index, ids in enumerate(prompt) if not isinstance(ids, str))
    for name in ("stop_token_ids", "allowed_token_ids"):
        yield name, body.get(name) or ()
    for key in body.get("logit_bias") or ():
        param = f"logit_bias.{key}"[:100]
        if not (key.isascii() and key.isdecimal() and len(key) < 12):
            raise InvalidRequest("The names in logit_bias are token ids.", param)
        yield param, (int(key),)


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def sample(settings: Settings) -> tuple[Ask[Any, Any], ...]:
    """A prompt and an answer of usual length, twice: kernels are compiled for the shapes they first meet. Then the ways
    to choose tokens that clients ask for."""
    usual = {"messages": [{"role": "user", "content": "word " * 48}], "max_tokens": 16, "temperature": 0}
    few = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    number = {"type": "json_schema", "json_schema": {"name": "number", "schema": {"type": "integer"}}}
    bodies: tuple[dict[str, Any], ...] = (
        usual,
        usual,
        few | {"temperature": 1.0, "n": 2, "logprobs": True, "top_logprobs": 20},
        few | {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "seed": 1},
        few | {"temperature": 1.0, "presence_penalty": 0.1, "frequency_penalty": 0.1, "repetition_penalty": 1.1},
        few | {"response_format": number},
    )
    return tuple(CHAT(GenerationRequest(body, f"warm-up-{place}")) for place, body in enumerate(bodies))


TASK = Task(
    "chat",
    Settings,
    methods=(CHAT, COMPLETE, TOKENIZE, DETOKENIZE),
    counts=(PROMPT_TOKENS, COMPLETION_TOKENS),
    sample=sample,
    begins=Begins.TOKENS,
)
