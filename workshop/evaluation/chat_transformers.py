"""A variant on transformers, for comparison."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from models.tasks.chat import DONE, GenerationRequest
from workshop.evaluation import chat_answers, chat_texts
from workshop.evaluation.evaluation import Answers, Fraction

if TYPE_CHECKING:
    from models.engines.chat_transformers import Engine as TransformersChat

# Prompts that are answered together, which only happens here: the engine answers one at a time.
TOGETHER = 8


class TransformersSubject:
    """The subject owns the engine, because it changes when the engine ends its answers."""

    def __init__(self, engine: TransformersChat):
        self._engine = engine
        # An answer of `work` has a fixed length, whatever the model says.
        self._ends, engine.ends = sorted(engine.ends), frozenset()
        engine.model.generation_config.eos_token_id = None

    def answers(self, fraction: Fraction) -> Answers:
        logprobs, likeliest = [], []
        windows = chat_texts.windows(self._engine.tokenizer)
        for number, window in enumerate(windows):
            of_window, top = self._read(window)
            logprobs.append(of_window)
            likeliest.append(top)
            fraction(number / (len(windows) + 1))
        asked = chat_texts.prompts(self._engine.tokenizer)
        order = sorted(range(len(asked)), key=lambda number: len(asked[number]))
        greedy: list[list[int]] = [[] for _ in asked]
        for first in range(0, len(order), TOGETHER):
            some = order[first : first + TOGETHER]
            for number, answer in zip(some, self._greedy([asked[number] for number in some]), strict=True):
                greedy[number] = answer
        return {
            "logprobs": np.concatenate(logprobs),
            "likeliest": np.concatenate(likeliest),
            "greedy": chat_answers.rows(greedy),
            "right": np.array(chat_texts.right(self._engine.tokenizer, greedy)),
        }

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        requests = chat_texts.requests(self._engine.tokenizer, batch, turn)
        return asyncio.run(self._work(requests))

    def close(self) -> None:
        pass

    def _read(self, window: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The log likelihood of each token but the first, and the most likely token in its place."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([window], device=self._engine.device)
            scores = torch.log_softmax(self._engine.model(input_ids=ids).logits[0, :-1].float(), dim=-1)
            logprobs = scores.gather(1, ids[0, 1:, None])[:, 0]
            return logprobs.cpu().numpy(), scores.argmax(dim=-1).cpu().numpy()

    def _greedy(self, prompts: list[list[int]]) -> list[list[int]]:
        """The tokens of the answers, including the token that ends each."""
        import torch

        longest = max(map(len, prompts))
        padding = self._engine.model.generation_config.pad_token_id
        ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            made = self._engine.model.generate(
                input_ids=ids.to(self._engine.device),
                attention_mask=mask.to(self._engine.device),
                max_new_tokens=chat_texts.GREEDY,
                do_sample=False,
                eos_token_id=self._ends or None,
            )
        return [self._until_end(answer) for answer in made[:, longest:].tolist()]

    def _until_end(self, answer: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(answer) if token in self._ends), len(answer))
        return answer[: end + 1]

    async def _work(self, requests: list[list[int]]) -> dict[str, float]:
        return chat_answers.medians(await asyncio.gather(*(self._timed(tokens) for tokens in requests)))

    async def _timed(self, tokens: list[int]) -> tuple[float, float]:
        """Measured like a client of the engine: the time to the first token includes the time in its queue."""
        body: dict[str, Any] = {"prompt": tokens, "max_tokens": chat_texts.ANSWERED, "temperature": 0, "stream": True}
        began = time.perf_counter()
        first = None
        async for event in self._engine.complete(GenerationRequest(body, "evaluation")):
            if event != DONE:
                first = first or time.perf_counter()
        return chat_answers.seconds_of_tokens(began, first or began, time.perf_counter())
