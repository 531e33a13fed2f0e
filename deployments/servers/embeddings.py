"""The server of embedding models: tokenizes inputs, batches them by length, and reassembles the results."""

import asyncio
from collections.abc import Sequence

import numpy as np

from deployments.servers.batching import Batcher
from deployments.servers.engine import EngineServer, broken
from models.errors import ContextLengthExceeded, InvalidRequest, ServingError
from models.tasks.embeddings import EMBED, EmbeddingEngine, EmbeddingRequest, EmbeddingResult
from models.tasks.methods import handles
from models.tasks.tokens import DETOKENIZE, TOKENIZE, TokenizeRequest, TokenizeResult

# Texts up to this many characters are tokenized on the event loop, because a thread would cost more.
SHORT_TEXT = 4096
# Tokens in a batch, including padding.
MOST_TOKENS = 4096


class Server(EngineServer):
    engine: EmbeddingEngine

    async def prepare(self) -> None:
        self.batcher = Batcher(self.engine.embed, len, largest_cost=MOST_TOKENS, on_batch=self.note_batch)

    @handles(EMBED)
    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        try:
            tokens = await self._encode(request)
            vectors = np.stack(await self.batcher.submit(tokens, self.patient()))
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
        tokens = (await self._encode_texts([request.text]))[0]
        if not request.add_special_tokens:
            tokens = self.engine.without_special_tokens(tokens)
        strings = tuple(self.engine.token_strings(tokens)) if request.return_token_strings else None
        return TokenizeResult(tuple(tokens), strings)

    @handles(DETOKENIZE)
    async def detokenize(self, tokens: list[int]) -> str:
        self._check_vocabulary("tokens", tokens)
        return self.engine.detokenize(tokens)

    async def _encode(self, request: EmbeddingRequest) -> list[list[int]]:
        """The token ids of every input, checked against the model's limit."""
        texts = [item for item in request.inputs if isinstance(item, str)]
        encoded = iter(await self._encode_texts(texts))
        limit = self.spec.limits.context_tokens
        tokens = []
        for position, item in enumerate(request.inputs):
            ids = next(encoded) if isinstance(item, str) else list(item)
            if not isinstance(item, str):
                self._check_vocabulary(f"input[{position}]", ids)
            if request.truncate is not None:
                ids = self.engine.truncate(ids, min(request.truncate, limit))
            if len(ids) > limit:
                raise ContextLengthExceeded(
                    f"This model reads at most {limit} tokens; input {position} has {len(ids)}. "
                    "Split it, or send truncate_prompt_tokens to have it cut.",
                    f"input[{position}]",
                )
            tokens.append(ids)
        return tokens

    async def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        if sum(map(len, texts)) <= SHORT_TEXT:
            return self.engine.encode(texts)
        return await asyncio.to_thread(self.engine.encode, texts)

    def _check_vocabulary(self, param: str, ids: Sequence[int]) -> None:
        if not ids or min(ids) < 0 or max(ids) >= self.engine.vocabulary_size:
            raise InvalidRequest(
                f"Tokens must be ids from 0 to {self.engine.vocabulary_size - 1}, at least one.", param
            )


def cut_to(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Rows cut to their first `dimensions` values and scaled back to length 1, as OpenAI's `dimensions` does."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    vectors = vectors[:, :dimensions]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
