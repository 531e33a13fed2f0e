"""Chat on vLLM. Requests are never logged, and neither are the messages of vLLM's errors, which may quote them.

vLLM runs inside ray.serve.llm's LLMServer. This module adapts it to Medley's contract: it translates requests to vLLM's
own, error values to ServingErrors, and answers to bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)

from models.engines.chat_vllm_grammars import Grammars
from models.engines.cpu_arithmetic import converts_bf16
from models.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, ReplicaLost, ServingError
from models.specs import ModelSpec, VariantSpec
from models.tasks.chat import GenerationRequest, event
from models.tasks.tokens import TokenizeRequest, TokenizeResult

logger = logging.getLogger(__name__)

# Seconds until a new replica may be up: a cautious guess for a small model.
RESTART_S = 30.0

Request = TypeVar("Request", bound=BaseModel)


class VLLMServing(Protocol):
    """The part of ray.serve.llm's vLLM engine used here. Each method yields answers, or an object with `error`."""

    def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]: ...

    def completions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]: ...

    async def check_health(self) -> None: ...


class Engine:
    """A ChatEngine on a running vLLM."""

    def __init__(self, spec: ModelSpec, serving: VLLMServing):
        self.spec = spec
        self.serving = serving
        # ray 2.60 looks for this under a name that vLLM 0.29 has dropped, so ray's own tokenize always fails.
        self.tokenization = serving._app_state.serving_tokenization  # type: ignore[attr-defined]
        self.client = serving._engine_client  # type: ignore[attr-defined]
        self.vocabulary_size = self.client.model_config.get_vocab_size()
        renderer = serving._app_state.openai_serving_chat.online_renderer  # type: ignore[attr-defined]
        self.grammars = Grammars(renderer.renderer.get_tokenizer(), self.client.model_config, renderer.parser)

    @staticmethod
    def dtype(variant: VariantSpec) -> str:
        """vLLM's `dtype`: the checkpoint's, but float32 on a CPU that has to convert bf16."""
        return "float32" if not variant.needs.gpus and converts_bf16() else "auto"

    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._generate(self.serving.chat, ChatCompletionRequest, request)) as items:
            async for item in items:
                yield item

    async def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._generate(self.serving.completions, CompletionRequest, request)) as items:
            async for item in items:
                yield item

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        body: dict[str, Any] = {"model": self.spec.id, "return_token_strs": request.return_token_strings}
        if request.messages is not None:
            body |= {"messages": list(request.messages), "add_generation_prompt": request.add_generation_prompt}
            vllm_request: Any = parse(TokenizeChatRequest, body)
        else:
            body |= {"prompt": request.text, "add_special_tokens": request.add_special_tokens}
            vllm_request = parse(TokenizeCompletionRequest, body)
        answer = await self._tokenization(self.tokenization.create_tokenize, vllm_request)
        return TokenizeResult(tuple(answer.tokens), tuple(answer.token_strs) if answer.token_strs else None)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        if tokens and max(tokens) >= self.vocabulary_size:  # vLLM would answer with an empty text
            raise InvalidRequest(f"Tokens must be ids from 0 to {self.vocabulary_size - 1}.", "tokens")
        request = parse(DetokenizeRequest, {"model": self.spec.id, "tokens": list(tokens)})
        return (await self._tokenization(self.tokenization.create_detokenize, request)).prompt

    async def check_health(self) -> None:
        await self.serving.check_health()

    async def _generate(
        self, method: Any, kind: type[BaseModel], request: GenerationRequest
    ) -> AsyncGenerator[bytes, None]:
        body = {**request.body, "model": self.spec.id, "request_id": request.request_id}
        if (body.get("n") or 1) > 1:
            # Several greedy answers would all be the same, so vLLM refuses them. For n > 1 a model that is greedy by
            # default samples at OpenAI's default temperature.
            body.setdefault("temperature", 1.0)
        vllm_request = parse(kind, body)
        await self.grammars.check(vllm_request)
        try:
            async with aclosing(method(vllm_request)) as items:
                async for item in items:
                    yield self._as_bytes(item)
        except ServingError:
            raise
        except Exception as error:
            if not self.client.errored:
                raise
            logger.error("vLLM died under %s: %s", self.spec.id, type(error).__name__)
            raise self._failure() from None

    def _as_bytes(self, item: Any) -> bytes:
        """vLLM's output in the form for clients. Raises the ServingError for an error value."""
        if isinstance(item, str):
            if item.startswith('data: {"error"'):
                logger.error("vLLM ended a stream of %s with an error", self.spec.id)
                raise self._failure()
            if '"logprobs":{"content"' in item:
                return event(as_openai_describes(json.loads(item.removeprefix("data: "))))
            return item.encode()
        if (error := getattr(item, "error", None)) is not None:
            raise self._translate(error)
        return json.dumps(as_openai_describes(item.model_dump(exclude_none=True)), ensure_ascii=False).encode()

    async def _tokenization(self, method: Any, request: Any) -> Any:
        try:
            answer = await method(request, raw_request=None)
        except ValueError as error:
            logger.info("vLLM refused a tokenization: %s", type(error).__name__)
            raise InvalidRequest("These messages or tokens cannot be read by this model's tokenizer.") from None
        if (error := getattr(answer, "error", None)) is not None:
            raise self._translate(error)
        return answer

    def _translate(self, error: Any) -> Exception:
        """vLLM's error value as ours. Only its 400 messages are written for clients and passed on."""
        if error.code != 400:
            logger.error("vLLM answered %s for %s: %s", error.code, self.spec.id, error.type)
            return self._failure()
        message = error.message.splitlines()[0][:500]
        if error.param in ("input_tokens", "input_text"):
            return ContextLengthExceeded(message, "messages")
        return InvalidRequest(message, error.param)

    def _failure(self) -> Exception:
        """The error for a failed request: only this request failed, or the whole engine died and will be replaced."""
        if self.client.errored:
            return ReplicaLost(f"The engine of {self.spec.id} died and is being replaced.", "model", RESTART_S)
        return EngineFailed(f"The model {self.spec.id} failed on this request. Try again.")


def as_openai_describes(document: dict[str, Any]) -> dict[str, Any]:
    """vLLM's answer without nulls, except in fields that OpenAI's description requires even when they are null."""
    for choice in document["choices"]:
        choice.setdefault("logprobs", None)
        if choice["logprobs"] and "content" in choice["logprobs"]:
            choice["logprobs"].setdefault("refusal", None)
        if "message" in choice:
            choice["message"] = {"content": None, "refusal": None, **choice["message"]}
    return document


def parse(kind: type[Request], body: dict[str, Any]) -> Request:
    """The body as vLLM's own request. Raises InvalidRequest, which names the first field that vLLM does not accept."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"])) or None
        raise InvalidRequest(f"{first['msg']}.", path) from None
    except ValueError as error:
        raise InvalidRequest(str(error).splitlines()[0][:300]) from None
