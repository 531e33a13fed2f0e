"""Chat on vLLM. Requests are never logged, and neither are the messages of vLLM's errors, which may quote them.

vLLM runs inside ray.serve.llm's LLMServer. This module adapts it to Medley's contract: it translates requests to vLLM's
own, errors to ServingErrors (chat_vllm_errors.py), and answers to bytes (chat_vllm_answers.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.tokenize.protocol import (
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from vllm.utils.async_utils import make_async
from vllm.v1.metrics.loggers import PrometheusStatLogger

from models.engines.chat_vllm_answers import Answers
from models.engines.chat_vllm_errors import raising, refusal, without_traceback
from models.engines.chat_vllm_grammars import Grammars
from models.engines.cpu_arithmetic import vllm_dtype
from models.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, ReplicaLost, ServingError
from models.prompt_limits import (
    ADDED_BY_A_CUT,
    beginning,
    check_countable,
    check_counted,
    check_read,
    check_vocabulary,
    too_long,
)
from models.specs import ModelSpec
from models.tasks.chat import GenerationRequest, SideBySide, check_ids
from models.tasks.tokens import TokenizeRequest, TokenizeResult

logger = logging.getLogger(__name__)

# Seconds until a new replica may be up: a cautious guess for a small model.
RESTART_S = 30.0
# At most so much of the time between two steps belongs to them.
BETWEEN_S = 0.02

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
        state = serving._app_state  # type: ignore[attr-defined]
        # ray 2.60 looks for this under a name that vLLM 0.29 has dropped, so ray's own tokenize always fails.
        self.tokenization = state.serving_tokenization
        self.client = serving._engine_client  # type: ignore[attr-defined]
        config = self.client.model_config
        # Rows of the embedding table. vLLM itself lets ids pass that only the tokenizer knows, and dies of them.
        self.vocabulary_size = config.get_vocab_size()
        self.ends = ends_of(config.try_get_generation_config(), self.client.renderer.get_eos_token_id())
        renderer = state.openai_serving_chat.online_renderer
        self.grammars = Grammars(renderer.renderer.get_tokenizer(), config, renderer.parser)
        for part in (state.openai_serving_chat, state.openai_serving_completion, self.tokenization):
            part.create_error_response = raising(part.create_error_response)
            logging.getLogger(type(part).__module__).addFilter(without_traceback)
        limits = self.client.vllm_config.scheduler_config
        step = limits.max_num_batched_tokens
        self.side_by_side = SideBySide(limits.long_prefill_token_threshold or step, step, limits.max_num_seqs)
        self._look_before_it_works()

    dtype = staticmethod(vllm_dtype)

    def tell_steps(self, did: Callable[[float, float, float, float, float], None]) -> None:
        """Have vLLM tell of each step, in place of the lines that it would write about them."""
        loggers = self.client.logger_manager.stat_loggers
        loggers[:] = [one for one in loggers if isinstance(one, PrometheusStatLogger)] + [Steps(did)]

    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        generated = self._generate(self.serving.chat, ChatCompletionRequest, request, "messages")
        async with aclosing(generated) as items:
            async for item in items:
                yield item

    async def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        generated = self._generate(self.serving.completions, CompletionRequest, request, "prompt")
        async with aclosing(generated) as items:
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
        param = "prompt" if request.messages is None else "messages"
        answer = await self._tokenization(self.tokenization.create_tokenize, vllm_request, param)
        return TokenizeResult(tuple(answer.tokens), tuple(answer.token_strs) if answer.token_strs else None)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        check_counted(tokens, self.spec.limits.context_tokens, "tokens")
        check_vocabulary(tokens, self.vocabulary_size, "tokens")  # vLLM would answer with an empty text
        request = parse(DetokenizeRequest, {"model": self.spec.id, "tokens": list(tokens)})
        return (await self._tokenization(self.tokenization.create_detokenize, request, "tokens")).prompt

    async def check_health(self) -> None:
        await self.serving.check_health()

    async def _generate(
        self, method: Any, kind: type[BaseModel], request: GenerationRequest, prompt: str
    ) -> AsyncGenerator[bytes, None]:
        """
        Args:
            prompt: the field that holds the prompt.
        """
        check_ids(request.body, self.vocabulary_size)
        answers = Answers(request.body, chat=kind is ChatCompletionRequest, ends=self.ends)
        body = {**request.body, **answers.asked, "model": self.spec.id, "request_id": request.request_id}
        if (body.get("n") or 1) > 1:
            # Several greedy answers would all be the same, so vLLM refuses them. For n > 1 a model that is greedy by
            # default samples at OpenAI's default temperature.
            body.setdefault("temperature", 1.0)
        stop = body.pop("stop", None)
        vllm_request: Any = parse(kind, body)
        if stop:
            vllm_request.stop = stop  # vLLM's model takes 4 only, for no reason of its engine
        begun = False
        try:
            await self.grammars.check(vllm_request)
            async with aclosing(method(vllm_request)) as items:
                async for item in items:
                    data = self._as_bytes(item, answers)
                    begun = True
                    if data is not None:
                        yield data
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(error.message, prompt) from None
        except ServingError:
            raise
        except Exception as error:
            if self.client.errored:
                logger.error("vLLM died under %s: %s", self.spec.id, type(error).__name__)
                raise self._failure() from None
            refused = None if begun else refusal(error, prompt)
            if refused is None:
                raise
            raise refused from None

    def _as_bytes(self, item: Any, answers: Answers) -> bytes | None:
        """vLLM's output in the form for clients, if there is any. Raises the ServingError for an error value."""
        if isinstance(item, str):
            if item.startswith('data: {"error"'):
                logger.error("vLLM ended a stream of %s with an error", self.spec.id)
                raise self._failure()
            return answers.event(item)
        if (error := getattr(item, "error", None)) is not None:
            raise self._translate(error)
        return answers.whole(item.model_dump(exclude_none=True))

    async def _tokenization(self, method: Any, request: Any, param: str) -> Any:
        try:
            answer = await method(request, raw_request=None)
        except ContextLengthExceeded as error:
            raise ContextLengthExceeded(error.message, param) from None
        except ServingError:
            raise
        except Exception as error:
            if (refused := refusal(error, param)) is None:
                raise
            raise refused from None
        if (error := getattr(answer, "error", None)) is not None:
            raise self._translate(error)
        return answer

    def _translate(self, error: Any) -> Exception:
        """vLLM's error value as ours. It is no exception's: vLLM wrote its message for clients, if it is a 400."""
        if error.code != 400:
            logger.error("vLLM answered %s for %s: %s", error.code, self.spec.id, error.type)
            return self._failure()
        return InvalidRequest(error.message.splitlines()[0][:500], error.param)

    def _failure(self) -> Exception:
        """The error for a failed request: only this request failed, or the whole engine died and will be replaced."""
        if self.client.errored:
            return ReplicaLost(f"The engine of {self.spec.id} died and is being replaced.", "model", RESTART_S)
        return EngineFailed(f"The model {self.spec.id} failed on this request. Try again.")

    def _look_before_it_works(self) -> None:
        """Put our checks of texts and token ids before vLLM's tokenizer and its engine, where all prompts pass."""
        renderer, generate = self.client.renderer, self.client.generate
        tokenize = renderer._tokenize_prompt  # in the tokenizer's own thread, and with it all that is asked of a text

        def tokenize_if_short(prompt: Any, params: Any) -> Any:
            return {**tokenize({**prompt, "prompt": self._readable(prompt["prompt"], params)}, params), **prompt}

        def generate_if_known(prompt: Any, *args: Any, **options: Any) -> Any:
            check_read(prompt["prompt_token_ids"], self.vocabulary_size, None)
            return generate(prompt, *args, **options)

        renderer._tokenize_prompt_async = make_async(tokenize_if_short, executor=renderer._executor)
        self.client.generate = generate_if_known

    def _readable(self, text: str, params: Any) -> str:
        """The text, or what is left of it where it is truncated anyway. Runs in the tokenizer's thread.

        Args:
            params: vLLM's TokenizeParams. It has no limit for a client that only looks up tokens.

        Raises:
            ContextLengthExceeded: the text is surely too long.
        """
        context, truncate = self.spec.limits.context_tokens, params.truncate_prompt_tokens
        if truncate is not None:
            kept = (context if truncate < 0 else truncate) + ADDED_BY_A_CUT
            left = self.client.renderer.tokenizer.truncation_side == "left"
            return beginning(text, kept, self._count, from_end=left)
        if params.max_total_tokens is None:
            check_countable(text, context, self._count, None)
        elif beginning(text, context, self._count) is not text:
            raise too_long(context, None)
        return text

    def _count(self, text: str) -> int:
        tokenizer = self.client.renderer.tokenizer
        return len(tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"])


class Steps:
    """One of vLLM's loggers of statistics: what each step of the engine did, and how long it took."""

    def __init__(self, did: Callable[[float, float, float, float, float], None]):
        self.did = did
        self.at = 0.0
        self.busy = False

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        details = scheduler_stats and scheduler_stats.iteration_details
        if not details or details.is_dummy:
            return
        now, step_s = time.monotonic(), details.elapsed_ms / 1000
        # From one step to the next there is more to do than the step. After a pause there is not.
        seconds = min(max(step_s, now - self.at), 1.5 * step_s + BETWEEN_S) if self.busy else step_s
        self.at, self.busy = now, scheduler_stats.num_running_reqs + scheduler_stats.num_waiting_reqs > 0
        waiting = scheduler_stats.num_waiting_reqs
        self.did(seconds, 1.0, details.num_generation_tokens, details.num_ctx_tokens, waiting)

    def log(self) -> None:
        pass

    def log_engine_initialized(self) -> None:
        pass

    def record_sleep_state(self, *_: Any) -> None:
        pass


def ends_of(generation_config: dict[str, Any], usual: int | None) -> frozenset[int]:
    """The ids of the tokens that end an answer."""
    ends = generation_config.get("eos_token_id")
    more = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (usual, *more) if token is not None)


def parse(kind: type[Request], body: dict[str, Any]) -> Request:
    """The body as vLLM's own request. Raises InvalidRequest, which names the first field that vLLM does not accept."""
    try:
        return kind.model_validate(body)
    except Exception as error:
        if (refused := refusal(error, None)) is None:
            raise
        raise refused from None
