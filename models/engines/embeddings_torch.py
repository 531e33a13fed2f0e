"""Embeddings on torch, on a CPU or a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from transformers import AutoModel

from models.engines.text_tokenizer import TextTokenizer
from models.specs import ModelSpec, Precision, VariantSpec

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
    Precision.INT8: torch.bfloat16,  # for the parts that are not quantized
}


class Engine(TextTokenizer):
    """
    Args:
        int8: with torchao, quantize weights to 8 bits, and activations too, with a scale for each token.
        compile: have torch compile the encoder at load time, which takes a minute.
    """

    def __init__(
        self, folder: Path, device: str, dtype: torch.dtype, pooling: str, *, int8: bool = False, compile: bool = False
    ):
        super().__init__(folder)
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling is 'mean' or 'cls', not {pooling!r}")
        self.pooling = pooling
        self.device = device
        self.encoder = AutoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
        self.vocabulary_size = min(self.vocabulary_size, self.encoder.get_input_embeddings().num_embeddings)
        if int8:
            # Imported late: torchao takes seconds to import, and other variants do not need it.
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            quantize_(self.encoder, Int8DynamicActivationInt8WeightConfig())
        if compile:
            self.encoder.compile(dynamic=True)
            # torch compiles once for a single text and once for several, whatever their lengths.
            for batch in ([[0] * 8], [[0] * 8, [0] * 9]):
                self.embed(batch)

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        if variant.needs.gpus and not torch.cuda.is_available():
            raise RuntimeError("This variant needs a GPU and torch sees none. Choose a CPU variant.")
        if not variant.needs.gpus:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, round(variant.needs.cpus))))
        device = "cuda" if variant.needs.gpus else "cpu"
        int8 = variant.precision is Precision.INT8
        pooling, compile = variant.engine.get("pooling", "mean"), variant.engine.get("compile", False)
        return cls(weights, device, DTYPES[variant.precision], pooling, int8=int8, compile=compile)

    @torch.inference_mode()
    def embed(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        longest = max(map(len, batch))
        ids = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in batch], device=self.device)
        lengths = torch.tensor([len(tokens) for tokens in batch], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None]).long()
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = states[:, 0] if self.pooling == "cls" else self._mean(states, mask)
        return torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()

    def _mean(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1)
