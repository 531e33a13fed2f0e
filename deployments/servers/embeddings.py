"""The server of embedding models: tokenizes inputs, batches them by length, and reassembles the results."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from deployments.servers.batching import Batcher
from deployments.servers.engine import JOB, EngineServer, broken
from deployments.servers.forecast import Batches, Schedule
from deployments.servers.lengths import Lengths
from deployments.servers.pace import Work, doubling
from models.errors import ContextLengthExceeded, InvalidRequest, ServingError
from models.prompt_limits import (
    ADDED_BY_A_CUT,
    beginning,
    check_countable,
    check_counted,
    check_read,
    check_vocabulary,
)
from models.tasks.embeddings import EMBED, EmbeddingEngine, EmbeddingRequest, EmbeddingResult
from models.tasks.methods import handles
from models.tasks.tokens import DETOKENIZE, TOKENIZE, TokenizeRequest, TokenizeResult

# Texts up to this many characters are tokenized on the event loop, because a thread would cost more.
SHORT_TEXT = 4096
# Characters of texts that are tokenized at a time.
MOST_CHARACTERS = 1 << 18
# Tokens in a batch, including padding. A batch cannot be interrupted, so it must not take long: 512 take a sixth of a
# second on two cores, where larger ones bring no more texts a second.
CPU_TOKENS, GPU_TOKENS = 512, 4096

# Texts in a batch.
MOST_TEXTS = 64
# Tokens of a text, for which it is told how many of them a request may have, and the most of them.
USUAL_TEXT, USUAL_MOST = 64, 2048
# Texts of about thirty tokens that fill a batch.
FULL = 16

T = TypeVar("T")


class Server(EngineServer):
    engine: EmbeddingEngine

    async def prepare(self) -> None:
        self.most = GPU_TOKENS if self.variant.needs.gpus else CPU_TOKENS
        self.lengths = Lengths()
        self.batcher = Batcher(
            self.engine.embed, len, MOST_TEXTS, self.most, on_batch=self.note_batch, did=self.did_batch
        )

    def schedule(self) -> Schedule:
        return Batches(MOST_TEXTS, self.most)

    def work(self, method: str, asked: EmbeddingRequest) -> Work:
        """Tokens, estimated from the characters of texts."""
        limit = min(asked.truncate or self.spec.limits.context_tokens, self.spec.limits.context_tokens)
        sizes = [
            min(limit, self.lengths.tokens(len(item)) if isinstance(item, str) else len(item)) for item in asked.inputs
        ]
        return Work(steps=sum(sizes), items=len(sizes))

    def sizes(self) -> tuple[str, list[tuple[float, Work]]]:
        texts = doubling(1, self.spec.limits.inputs or USUAL_MOST)
        return f"texts of {USUAL_TEXT} tokens", [
            (count, Work(steps=count * USUAL_TEXT, items=int(count))) for count in texts
        ]

    def did_batch(self, seconds: float, tokens: float) -> None:
        self.did(seconds, width=tokens)

    async def measure(self) -> None:
        """One short text, and full batches."""
        for texts in (1, 1, FULL, FULL):
            await self.embed(EmbeddingRequest((" ".join(["word"] * 30),) * texts))

    @handles(EMBED)
    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        try:
            tokens = await self._encode(request)
            vectors = np.stack(await self.batcher.submit(tokens, self.patient(), JOB.get()))
        except ServingError:
            raise
        except Exception as error:
            raise broken(self.spec.id, error) from None
        return EmbeddingResult(
            vectors=cut_to(vectors, request.dimensions).tobytes(),
            dimensions=request.dimensions or vectors.shape[1],
            prompt_tokens=sum(map(len, tokens)),
        )

    @handles(TOKENIZE)
    async def tokenize(self, request: TokenizeRequest) -> TokenizeResult:
        if request.text is None:
            raise InvalidRequest("An embedding model reads text, not messages. Send `prompt`.", "messages")
        tokens = await self._in_thread_if_long([request.text], self._counted, request.text)
        if not request.add_special_tokens:
            tokens = self.engine.without_special_tokens(tokens)
        strings = tuple(self.engine.token_strings(tokens)) if request.return_token_strings else None
        return TokenizeResult(tuple(tokens), strings)

    @handles(DETOKENIZE)
    async def detokenize(self, tokens: list[int]) -> str:
        check_counted(tokens, self.spec.limits.context_tokens, "tokens")
        self._check_vocabulary("tokens", tokens)
        return await asyncio.to_thread(self.engine.detokenize, tokens)

    async def _encode(self, request: EmbeddingRequest) -> list[list[int]]:
        """The token ids of every input, checked against the model's limit and its vocabulary."""
        limit = self.spec.limits.context_tokens
        tokens: list[list[int]] = [[]] * len(request.inputs)
        for group in groups(request.inputs):
            texts = {position: item for position in group if isinstance(item := request.inputs[position], str)}
            encoded = await self._in_thread_if_long(list(texts.values()), self._read, texts, request.truncate)
            if request.truncate is None:
                self.lengths.learn(sum(map(len, texts.values())), sum(map(len, encoded.values())), len(texts))
            for position in group:
                item = request.inputs[position]
                ids = encoded[position] if isinstance(item, str) else list(item)
                if not isinstance(item, str):
                    self._check_vocabulary(f"input[{position}]", ids)
                if request.truncate is not None:
                    ids = self.engine.truncate(ids, min(request.truncate, limit))
                if len(ids) > limit:
                    raise self._too_long(position, f"{len(ids)}")
                check_read(ids, self.engine.vocabulary_size, f"input[{position}]")
                tokens[position] = ids
        return tokens

    def _read(self, texts: dict[int, str], truncate: int | None) -> dict[int, list[int]]:
        """The token ids of texts, by their positions in the request. A text that is to be cut is cut before."""
        limit = self.spec.limits.context_tokens
        read = {}
        for position, text in texts.items():
            if truncate is not None:
                # The last special token is kept from what follows, so room for it and for a cut inside a word is left.
                read[position] = beginning(text, min(truncate, limit) + ADDED_BY_A_CUT, self._count)
            elif beginning(text, limit, self._count) is not text:
                raise self._too_long(position, "more")
            else:
                read[position] = text
        return dict(zip(read, self.engine.encode(list(read.values())), strict=True))

    def _counted(self, text: str) -> list[int]:
        """The token ids of a text, for a client that looks them up."""
        check_countable(text, self.spec.limits.context_tokens, self._count, "prompt")
        return self.engine.encode([text])[0]

    def _count(self, text: str) -> int:
        return len(self.engine.encode([text])[0])

    async def _in_thread_if_long(self, texts: list[str], work: Callable[..., T], *args: Any) -> T:
        if sum(map(len, texts)) <= SHORT_TEXT:
            return work(*args)
        return await asyncio.to_thread(work, *args)

    def _too_long(self, position: int, has: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model reads at most {self.spec.limits.context_tokens} tokens; input {position} has {has}. "
            "Split it, or send truncate_prompt_tokens to have it cut.",
            f"input[{position}]",
        )

    def _check_vocabulary(self, param: str, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidRequest("Send at least one token.", param)
        check_vocabulary(ids, self.engine.vocabulary_size, param)


def groups(inputs: Sequence[str | Sequence[int]]) -> Iterator[list[int]]:
    """The positions of inputs, in groups of at most MOST_CHARACTERS or of a single one: a tokenizer needs a hundred
    bytes for each character that it works on."""
    group: list[int] = []
    size = 0
    for position, item in enumerate(inputs):
        if group and size + len(item) > MOST_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(position)
        size += len(item)
    yield group


def cut_to(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Rows cut to their first `dimensions` values and scaled back to length 1, as OpenAI's `dimensions` does."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    vectors = vectors[:, :dimensions]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
