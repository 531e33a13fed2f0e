"""Chat on transformers' `generate`: any model of the hub, without a server beside it, one generation at a time.

It is for models and machines that vLLM does not support. Generations wait for each other in the one thread that runs
the model. To run more at once, add replicas.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from jinja2 import TemplateError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
)

from models.engines.cpu_arithmetic import converts_bf16
from models.engines.generation import Follower, LogprobRecorder, Piece, Sampling, TextDecoder
from models.engines.generation_forms import ChatForm, Choice, CompletionForm
from models.engines.generation_options import Options, read_options
from models.engines.transformers_quantization import COMPUTED_IN, quantization_config
from models.errors import ContextLengthExceeded, InvalidRequest
from models.prompt_limits import beginning, check_countable, check_counted, check_read, check_vocabulary, too_long
from models.specs import ModelSpec, Precision, VariantSpec
from models.tasks.chat import DONE, GenerationRequest, check_ids, event
from models.tasks.tokens import TokenizeRequest, TokenizeResult

DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


class Engine:
    """A ChatEngine on transformers."""

    side_by_side = None

    def __init__(self, spec: ModelSpec, folder: Path, device: str, dtype: torch.dtype, quantization: Any = None):
        """
        Args:
            quantization: a configuration of transformers, for weights that are quantized on loading.
        """
        self.spec = spec
        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        # Load directly onto the device: weights that bitsandbytes has quantized cannot be moved.
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map=device, quantization_config=quantization
        ).eval()
        self.vocabulary_size = min(len(self.tokenizer), self.model.get_input_embeddings().num_embeddings)
        config = self.model.generation_config
        self.sampling = Sampling.of_model(config)
        ends = config.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        # The model's own generation settings must not silently affect requests.
        pad = config.pad_token_id if config.pad_token_id is not None else min(self.ends, default=0)
        self.model.generation_config = GenerationConfig(eos_token_id=sorted(self.ends) or None, pad_token_id=pad)
        # One thread: generations run in order of arrival, and a seed affects only the running one.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        """
        Raises:
            ValueError: transformers does not support the variant's precision or quantization.
            RuntimeError: the variant needs a GPU or a library that is missing.
        """
        way = variant.engine.get("quantization")
        if way is None and variant.precision not in DTYPES:
            raise ValueError(f"transformers runs {', '.join(DTYPES)}, not {variant.precision} without `quantization`")
        if variant.needs.gpus and not torch.cuda.is_available():
            raise RuntimeError("This variant needs a GPU and torch sees none. Choose a CPU variant.")
        if not variant.needs.gpus:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, round(variant.needs.cpus))))
        device = "cuda" if variant.needs.gpus else "cpu"
        quantization = None if way is None else quantization_config(way, gpu=variant.needs.gpus > 0)
        dtype = DTYPES[variant.precision] if way is None else COMPUTED_IN
        if device == "cpu" and dtype == torch.bfloat16 and converts_bf16():
            dtype = torch.float32
        return cls(spec, weights, device, dtype, quantization)

    async def chat(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        check_ids(request.body, self.vocabulary_size)
        options = read_options(request.body, "chat", self.sampling)
        prompt = await asyncio.to_thread(self._chat_prompt, request.body["messages"], True, options.template_arguments)
        async with aclosing(self._answer(request, ChatForm(), options, [prompt])) as items:
            async for item in items:
                yield item

    async def complete(self, request: GenerationRequest) -> AsyncGenerator[bytes, None]:
        check_ids(request.body, self.vocabulary_size)
        options = read_options(request.body, "completion", self.sampling)
        prompts = await asyncio.to_thread(self._completion_prompts, request.body["prompt"])
        async with aclosing(self._answer(request, CompletionForm(), options, prompts)) as items:
            async for item in items:
                yield item

    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        if request.messages is not None:
            work: Any = partial(self._chat_prompt, request.messages, request.add_generation_prompt, {}, lookup=True)
        else:
            work = partial(self._encode, request.text or "", request.add_special_tokens, "prompt", lookup=True)
        tokens: list[int] = await asyncio.to_thread(work)
        strings = tuple(self.tokenizer.convert_ids_to_tokens(tokens)) if request.return_token_strings else None
        return TokenizeResult(tuple(tokens), strings)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        check_counted(tokens, self.spec.limits.context_tokens, "tokens")
        check_vocabulary(tokens, self.vocabulary_size, "tokens")
        return await asyncio.to_thread(self.tokenizer.decode, list(tokens), clean_up_tokenization_spaces=False)

    async def check_health(self) -> None:
        """Raises if the GPU has failed, which lasts for the life of the process."""
        if self.device == "cuda":
            await asyncio.to_thread(torch.cuda.synchronize)

    def _chat_prompt(
        self, messages: Sequence[dict], generate: bool, arguments: dict[str, Any], lookup: bool = False
    ) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(
                [_for_template(message) for message in messages],
                add_generation_prompt=generate,
                tokenize=False,
                **arguments,
            )
        except (TemplateError, ValueError, TypeError):
            raise InvalidRequest(
                "These messages do not fit the model's chat template. Check the order of their roles.", "messages"
            ) from None
        # The template adds the special tokens itself.
        return self._encode(text, False, "messages", lookup)

    def _completion_prompts(self, prompt: str | list) -> list[list[int]]:
        prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        return [self._completion_prompt(item) for item in prompts]

    def _completion_prompt(self, prompt: str | list[int]) -> list[int]:
        return self._encode(prompt, True, "prompt") if isinstance(prompt, str) else list(prompt)

    def _encode(self, text: str, add_special_tokens: bool, param: str, lookup: bool = False) -> list[int]:
        """The token ids of a text.

        Args:
            lookup: a client wants to know them, and the model does not read them.

        Raises:
            ContextLengthExceeded: the text is surely too long. A text that is a bit too long is not noticed here.
            InvalidRequest: the model does not know all of its tokens.
        """
        limit = self.spec.limits.context_tokens
        if lookup:
            check_countable(text, limit, self._count, param)
        elif beginning(text, limit, self._count) is not text:
            raise too_long(limit, param)
        tokens = self._ids(text, add_special_tokens)
        check_read(tokens, self.vocabulary_size, param)
        return tokens

    def _count(self, text: str) -> int:
        return len(self._ids(text, False))

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]

    async def _answer(
        self, request: GenerationRequest, form: ChatForm | CompletionForm, options: Options, prompts: list[list[int]]
    ) -> AsyncGenerator[bytes, None]:
        limit = self.spec.limits.context_tokens
        for prompt in prompts:
            if len(prompt) + 1 > limit:
                raise ContextLengthExceeded(
                    f"This model reads and writes at most {limit} tokens; the prompt has {len(prompt)} tokens, which "
                    "leaves none for an answer. Shorten it.",
                    form.prompt,
                )
        choices = [
            Choice(index, prompts[index // options.n], None if options.seed is None else options.seed + index)
            for index in range(len(prompts) * options.n)
        ]
        head = {"id": f"{form.id}-{request.request_id}", "created": int(time.time()), "model": self.spec.id}
        for choice in choices:
            first = True
            async with aclosing(self._generate(choice, options)) as pieces:
                async for piece in pieces:
                    if request.stream:
                        part = form.part(choice, piece, first)
                        yield event({**head, "object": form.chunk, "choices": [part]})
                        first = False
                    else:
                        choice.pieces.append(piece)
            if request.stream:
                yield event({**head, "object": form.chunk, "choices": [form.end(choice, first)]})
        written = sum(choice.tokens for choice in choices)
        read = sum(map(len, prompts))
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        if not request.stream:
            answers = [form.answer(choice, options.logprobs is not None) for choice in choices]
            document = {**head, "object": form.document, "choices": answers, "usage": usage}
            yield json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
            return
        if options.include_usage:
            yield event({**head, "object": form.chunk, "choices": [], "usage": usage})
        yield DONE

    async def _generate(self, choice: Choice, options: Options) -> AsyncGenerator[Piece, None]:
        """Pieces of one answer, as they are made. Sets the choice's finish_reason and tokens. Closing it stops it."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()

        def send(piece: Piece | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, piece)

        cancelled = threading.Event()
        work = loop.run_in_executor(self._thread, self._run, choice, options, cancelled, send)
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await work
        finally:
            cancelled.set()
            work.cancel()  # if it has not started yet

    @torch.inference_mode()
    def _run(
        self, choice: Choice, options: Options, cancelled: threading.Event, send: Callable[[Piece | None], None]
    ) -> None:
        """Generate one answer, in the thread."""
        try:
            if cancelled.is_set():
                return
            recorder = None if options.logprobs is None else LogprobRecorder(self.tokenizer, options.logprobs)
            room = self.spec.limits.context_tokens - len(choice.prompt)
            limit = min(options.max_tokens or room, room)
            decoder = TextDecoder(self.tokenizer, choice.prompt[-4:])
            follower = Follower(
                decoder,
                limit=limit,
                stops=options.stop,
                ends=self.ends,
                recorder=recorder,
                cancelled=cancelled,
                send=send,
            )
            if choice.seed is None:
                torch.seed()  # do not inherit an earlier request's seed
            else:
                torch.manual_seed(choice.seed)
            ids = torch.tensor([choice.prompt], device=self.device)
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=limit,
                logits_processor=LogitsProcessorList([recorder] if recorder else []),
                stopping_criteria=[follower],
                **options.sampling.arguments(),
            )
            choice.finish_reason = follower.finish_reason or "stop"
            choice.tokens = follower.tokens
        finally:
            send(None)


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """A message in the form for chat templates: the content is a text, the arguments of calls are objects."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content)
    message = {**message, "content": content}
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in message["tool_calls"]
        ]
    return message
