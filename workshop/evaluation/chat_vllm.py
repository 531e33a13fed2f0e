"""A variant on vLLM, for comparison: vLLM's engine without a server, in the same processes as in a replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from workshop.evaluation import chat_answers, chat_texts
from workshop.evaluation.evaluation import Answers, Fraction

Result = TypeVar("Result")


class VLLMSubject:
    def __init__(self, weights: Path, options: Mapping[str, Any]):
        """
        Args:
            options: vLLM's AsyncEngineArgs, with a replica's dtype.
        """
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._tokenizer: Any = AutoTokenizer.from_pretrained(weights)
        self._loop = asyncio.Runner()
        self._requests = 0
        arguments = AsyncEngineArgs(model=str(weights), disable_log_stats=True, **options)
        self._engine = self._run(start(AsyncLLM, arguments))

    def answers(self, fraction: Fraction) -> Answers:
        return self._run(self._answers(fraction))

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        return self._run(self._work(chat_texts.requests(self._tokenizer, batch, turn)))

    def close(self) -> None:
        self._engine.shutdown()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run(coroutine)

    async def _answers(self, fraction: Fraction) -> Answers:
        windows = chat_texts.windows(self._tokenizer)
        logprobs, likeliest = [], []
        for number, window in enumerate(windows):
            read = await self._generate(window, max_tokens=1, prompt_logprobs=1)
            for token, scores in zip(window[1:], read.prompt_logprobs[1:], strict=True):
                logprobs.append(scores[token].logprob)
                likeliest.append(next(key for key, score in scores.items() if score.rank == 1))
            fraction(number / (len(windows) + 1))
        asked = chat_texts.prompts(self._tokenizer)
        spoken = await asyncio.gather(*(self._generate(prompt, max_tokens=chat_texts.GREEDY) for prompt in asked))
        greedy = [list(answer.outputs[0].token_ids) for answer in spoken]
        return {
            "logprobs": np.array(logprobs, np.float32),
            "likeliest": np.array(likeliest, np.int64),
            "greedy": chat_answers.rows(greedy),
            "right": np.array(chat_texts.right(self._tokenizer, greedy)),
        }

    async def _generate(self, tokens: list[int], **sampling: Any) -> Any:
        """vLLM's complete RequestOutput."""
        outputs = [output async for output in self._stream(tokens, final=True, **sampling)]
        return outputs[-1]

    async def _work(self, requests: list[list[int]]) -> dict[str, float]:
        times = await asyncio.gather(*(self._timed(tokens) for tokens in requests))
        return chat_answers.medians(times)

    async def _timed(self, tokens: list[int]) -> tuple[float, float]:
        """Seconds to the first token of an answer, and for each after it."""
        began = time.perf_counter()
        first = None
        async for _ in self._stream(tokens, final=False, max_tokens=chat_texts.ANSWERED, ignore_eos=True):
            first = first or time.perf_counter()
        return chat_answers.seconds_of_tokens(began, first or began, time.perf_counter())

    def _stream(self, tokens: list[int], final: bool, **sampling: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._requests += 1
        kind = RequestOutputKind.FINAL_ONLY if final else RequestOutputKind.DELTA
        settings = SamplingParams(temperature=0, output_kind=kind, **sampling)
        return self._engine.generate({"prompt_token_ids": tokens}, settings, str(self._requests))


async def start(engine: Any, arguments: Any) -> Any:
    """AsyncLLM belongs to the loop that it is made in."""
    return engine.from_engine_args(arguments)
