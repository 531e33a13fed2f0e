"""Stable Diffusion XL, its Turbo form and similar models: two text encoders, and the size as an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.engines.images_diffusers.denoising import Conditioning
from models.engines.images_diffusers.families.family import longest_text
from models.engines.images_diffusers.families.stable_diffusion import StableDiffusion
from models.tasks.images import Picture


class StableDiffusionXL(StableDiffusion):
    def __init__(self, pipe: Any, context_tokens: int):
        super().__init__(pipe, min(context_tokens, longest_text(pipe.tokenizer_2, pipe.text_encoder_2)))

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return self.pipe.tokenizer, self.pipe.tokenizer_2

    def encode(self, text: str) -> Conditioning:
        embeddings, _, pooled, _ = self.pipe.encode_prompt(text, device=self.device, do_classifier_free_guidance=False)
        return {"text": embeddings, "pooled": pooled}

    def encode_negative(self, text: str) -> Conditioning:
        encoded = self.encode(text)
        if text or not self.pipe.config.force_zeros_for_empty_prompt:
            return encoded
        return {name: torch.zeros_like(tensor) for name, tensor in encoded.items()}

    def describe(self, picture: Picture, encoded: Conditioning) -> Conditioning:
        size = (picture.height, picture.width)
        # original size, top left corner of the crop, target size: as if from training
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=encoded["text"].dtype, device=self.device)
        return {**super().describe(picture, encoded), "sizes": sizes}

    def added(self, conditioning: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {"text_embeds": conditioning["pooled"], "time_ids": conditioning["sizes"]}
