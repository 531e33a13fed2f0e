"""Embeddings without a model: for tests, and to try a cluster without weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from models.specs import ModelSpec, VariantSpec
from models.tasks.embeddings import TASK


class Engine:
    """Deterministic vectors without a model: a bag of words, hashed. Texts that share words are near each other.

    A token is a word. Where the variant says so, each takes `seconds_per_token`, and loading takes `load_s`.
    """

    vocabulary_size = 1 << 16

    def __init__(self, dimensions: int, seconds_per_token: float = 0.0):
        self.dimensions = dimensions
        self.seconds_per_token = seconds_per_token
        self._words: dict[int, str] = {}

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        time.sleep(float(variant.engine.get("load_s", 0)))
        return cls(TASK.settings_of(spec).dimensions.native, float(variant.engine.get("seconds_per_token", 0)))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self._token(word) for word in text.split()] for text in texts]

    def truncate(self, tokens: list[int], length: int) -> list[int]:
        return tokens[:length]

    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        time.sleep(self.seconds_per_token * sum(map(len, batch)))
        vectors = np.zeros((len(batch), self.dimensions), dtype=np.float32)
        vectors[:, 0] = 1e-3  # no vector may be zero
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
