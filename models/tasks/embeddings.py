"""Embeddings: texts or token ids in, unit vectors out.

An engine works in two steps, so that a server can pack the token lists of many requests into batches by length:
`encode` (texts to token ids, cheap) and `embed` (a batch of token ids to vectors, the model).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from models.specs import ModelSpec, VariantSpec
from models.tasks.methods import Unary
from models.tasks.usage import Usage


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """
    Attributes:
        inputs: texts, or token ids that are used as they are (special tokens included).
        truncate: cut longer inputs to this many tokens; None refuses inputs over the model's limit.
        dimensions: length of the vectors, at most the model's; None is the model's own.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    truncate: int | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """
    Attributes:
        vectors: little-endian float32, row after row, one row of `dimensions` per input; rows have length 1.
        prompt_tokens: tokens of all inputs, special tokens included.
    """

    vectors: bytes
    dimensions: int
    prompt_tokens: int

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt_tokens)


# From this many inputs on, the answer may be over half a megabyte and goes through the object store.
MANY_INPUTS = 128

EMBED = Unary("embed", EmbeddingRequest, EmbeddingResult, large=lambda request: len(request.inputs) >= MANY_INPUTS)


class EmbeddingEngine(Protocol):
    """A loaded embedding model. Methods block; `embed` is called from one thread at a time.

    Attributes:
        vocabulary_size: token ids are below this.
    """

    vocabulary_size: int

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self: ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, not truncated."""
        ...

    def truncate(self, tokens: list[int], length: int) -> list[int]:
        """At most `length` tokens, still ending as the model expects an input to end."""
        ...

    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors of a batch of token ids, all below `vocabulary_size`.

        Returns:
            float32, shape (len(batch), native dimensions), rows of length 1.
        """
        ...

    def detokenize(self, tokens: Sequence[int]) -> str: ...

    def without_special_tokens(self, tokens: list[int]) -> list[int]: ...

    def token_strings(self, tokens: Sequence[int]) -> list[str]: ...


class FakeEmbeddings:
    """Deterministic vectors without a model: a bag of words, hashed. Texts that share words are near each other."""

    vocabulary_size = 1 << 16

    def __init__(self, dimensions: int):
        self.dimensions = dimensions
        self._words: dict[int, str] = {}

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        assert spec.dimensions is not None
        return cls(spec.dimensions.native)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._token(word) for word in text.split()] for text in texts]

    def truncate(self, tokens: list[int], length: int) -> list[int]:
        return tokens[:length]

    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        vectors = np.zeros((len(batch), self.dimensions), dtype=np.float32)
        vectors[:, 0] = 1e-3  # so that no vector is zero
        for index, tokens in enumerate(batch):
            for token in tokens:
                vectors[index] += np.random.default_rng(token).standard_normal(self.dimensions)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return " ".join(self._words.get(token, f"<{token}>") for token in tokens)

    def without_special_tokens(self, tokens: list[int]) -> list[int]:
        return tokens

    def token_strings(self, tokens: Sequence[int]) -> list[str]:
        return [self.detokenize([token]) for token in tokens]

    def _token(self, word: str) -> int:
        digest = hashlib.blake2b(word.lower().encode("utf-8", "surrogatepass"), digest_size=2).digest()
        token = int.from_bytes(digest, "little")
        self._words[token] = word
        return token
