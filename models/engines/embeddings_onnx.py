"""Embeddings on ONNX Runtime. Imports neither torch nor transformers: a replica is 100 MB, ready in a second."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime

from models.engines.text_tokenizer import TextTokenizer
from models.specs import ModelSpec, VariantSpec


class OnnxEmbeddings(TextTokenizer):
    def __init__(self, folder: Path, threads: int, providers: list[str]):
        super().__init__(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait by spinning take the CPU from the other models of a shared machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=providers)

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        threads = variant.engine.get("threads") or int(os.environ.get("OMP_NUM_THREADS") or 0)
        return cls(weights, threads or max(1, round(variant.needs.cpus)), providers_for(variant.needs.gpus))

    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        ids, mask = padded(batch)
        (vectors,) = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        return vectors


def providers_for(gpus: float) -> list[str]:
    """The execution provider the variant asks for. Raises RuntimeError when it is absent: never a silent fall-back."""
    wanted = "CUDAExecutionProvider" if gpus else "CPUExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeError(
            f"This variant needs ONNX Runtime's {wanted}, which is not installed. Install onnxruntime-gpu, or choose a "
            "CPU variant."
        )
    return [wanted]


def padded(batch: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, int64, shape (len(batch), longest); padding is 0 in both."""
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    # The exported graph holds for lengths from 2 on.
    mask = (np.arange(max(2, lengths.max())) < lengths[:, None]).astype(np.int64)
    ids = np.zeros_like(mask)
    ids[mask.astype(bool)] = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in batch])
    return ids, mask
