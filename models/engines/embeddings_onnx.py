"""Embeddings on ONNX Runtime. Imports neither torch nor transformers: a replica is 100 MB, ready in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from onnxruntime import InferenceSession

from models.engines.onnx_session import open_session_of
from models.engines.text_tokenizer import TextTokenizer
from models.specs import ModelSpec, VariantSpec


class Engine(TextTokenizer):
    def __init__(self, folder: Path, session: InferenceSession):
        super().__init__(folder)
        self.session = session
        self.vocabulary_size = self._known_of(self.vocabulary_size)

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        return cls(weights, open_session_of(variant, weights / "model.onnx"))

    def _known_of(self, tokens: int) -> int:
        """How many of the tokenizer's ids the graph knows: all, or those below the first that it fails on."""
        known, unknown = 0, tokens + 1
        tried = tokens
        while True:
            try:
                self.embed([[tried - 1]])
                known = tried
            except Exception:
                if tried == 1:  # it fails on anything
                    raise
                unknown = tried
            if unknown - known == 1:
                return known
            tried = (known + unknown) // 2

    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        ids, mask = padded(batch)
        (vectors,) = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        return np.asarray(vectors, dtype=np.float32)


def padded(batch: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, int64, shape (len(batch), longest); padding is 0 in both."""
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    # The exported graph needs a length of at least 2.
    mask = (np.arange(max(2, lengths.max())) < lengths[:, None]).astype(np.int64)
    ids = np.zeros_like(mask)
    ids[mask.astype(bool)] = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])
    return ids, mask
