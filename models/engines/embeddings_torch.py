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

DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


class TorchEmbeddings(TextTokenizer):
    def __init__(self, folder: Path, device: str, dtype: torch.dtype, pooling: str):
        super().__init__(folder)
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling is 'mean' or 'cls', not {pooling!r}")
        self.pooling = pooling
        self.device = device
        self.encoder = AutoModel.from_pretrained(folder, dtype=dtype).eval().to(device)

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        if variant.needs.gpus and not torch.cuda.is_available():
            raise RuntimeError("This variant needs a GPU and torch sees none. Choose a CPU variant.")
        if not variant.needs.gpus:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, round(variant.needs.cpus))))
        device = "cuda" if variant.needs.gpus else "cpu"
        return cls(weights, device, DTYPES[variant.precision], variant.engine.get("pooling", "mean"))

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
