"""Stable Diffusion 1 and 2, and similar models. A UNet with 9 input channels is an inpainting model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.engines.images_diffusers.denoising import Conditioning
from models.engines.images_diffusers.families.family import Family, Residuals, longest_text
from models.tasks.images import Picture


class StableDiffusion(Family):
    def __init__(self, pipe: Any, context_tokens: int):
        super().__init__(pipe, min(context_tokens, longest_text(pipe.tokenizer, pipe.text_encoder)))
        known = (self.latent_channels, 2 * self.latent_channels + 1)
        if self.input_channels not in known:
            raise ValueError(f"a UNet of {self.input_channels} input channels is none that this engine runs: {known}")

    @property
    def denoiser(self) -> Any:
        return self.pipe.unet

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return (self.pipe.tokenizer,)

    def encode(self, text: str) -> Conditioning:
        embeddings, _ = self.pipe.encode_prompt(text, self.device, 1, do_classifier_free_guidance=False)
        return {"text": embeddings}

    def guides(self, guidance: float) -> bool:
        return guidance > 1 and not self._guidance_is_an_input

    def describe(self, picture: Picture, encoded: Conditioning) -> Conditioning:
        if not self._guidance_is_an_input:
            return encoded
        scale = torch.tensor([picture.guidance - 1])
        size = self.denoiser.config.time_cond_proj_dim
        embedding = self.pipe.get_guidance_scale_embedding(scale, embedding_dim=size)
        return {**encoded, "guidance": embedding.to(self.device, self.dtype)}

    @property
    def _guidance_is_an_input(self) -> bool:
        """Guidance as an input, as in models distilled for few steps; it needs no second prediction."""
        return self.denoiser.config.time_cond_proj_dim is not None

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, Any],
        residuals: Residuals | None,
    ) -> torch.Tensor:
        down, middle = residuals or (None, None)
        return self.denoiser(
            latents,
            timesteps,
            encoder_hidden_states=conditioning["text"],
            timestep_cond=conditioning.get("guidance"),
            added_cond_kwargs=self.added(conditioning),
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
