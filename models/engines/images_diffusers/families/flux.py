"""Flux: a transformer over packed latents, with flow matching. Guidance, in models that have it, is an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from models.engines.images_diffusers.denoising import Conditioning
from models.engines.images_diffusers.families.family import Family, Residuals
from models.engines.images_diffusers.families.flow import first_step, shift_for
from models.tasks.images import Picture


class Flux(Family):
    flow = True
    patch = 2

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return (self.pipe.tokenizer_2,)  # here CLIP only summarises the first 77 tokens

    @property
    def input_channels(self) -> int:
        return self.denoiser.config.in_channels // self.patch**2

    def encode(self, text: str) -> Conditioning:
        embeddings, pooled, _ = self.pipe.encode_prompt(
            text, device=self.device, max_sequence_length=self.context_tokens
        )
        return {"text": embeddings, "pooled": pooled}

    def guides(self, guidance: float) -> bool:
        return False  # distilled into the model: `guidance` is an input, or unused in the few-step model

    def describe(self, picture: Picture, encoded: Conditioning) -> Conditioning:
        if not self.denoiser.config.guidance_embeds:
            return encoded
        return {**encoded, "guidance": torch.tensor([picture.guidance], dtype=torch.float32, device=self.device)}

    def set_timesteps(self, scheduler: Any, steps: int, picture: Picture) -> None:
        tokens = picture.pixels // self.multiple**2
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift_for(scheduler, tokens))

    def first_step(self, steps: int, strength: float) -> int:
        return first_step(steps, strength)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, Any],
        residuals: Residuals | None,
    ) -> torch.Tensor:
        batch, channels, height, width = latents.shape
        text = conditioning["text"]
        image_ids = self.pipe._prepare_latent_image_ids(batch, height // 2, width // 2, latents.device, latents.dtype)
        predicted = self.denoiser(
            hidden_states=self.pipe._pack_latents(latents, batch, channels, height, width),
            timestep=timesteps.to(latents.dtype) / 1000,
            guidance=conditioning.get("guidance"),
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        scale = self.pipe.vae_scale_factor
        return self.pipe._unpack_latents(predicted, height * scale, width * scale, scale)
