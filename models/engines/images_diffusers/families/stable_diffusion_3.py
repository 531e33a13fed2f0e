"""Stable Diffusion 3 and 3.5: a transformer over latents, three text encoders, flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models.engines.images_diffusers.denoising import Conditioning
from models.engines.images_diffusers.families.family import Family, Residuals, longest_text
from models.engines.images_diffusers.families.flow import first_step, shift_for
from models.tasks.images import Picture


class StableDiffusion3(Family):
    flow = True

    def __init__(self, pipe: Any, context_tokens: int):
        if pipe.text_encoder_3 is None:  # left out to save memory; CLIP reads shorter prompts
            context_tokens = min(context_tokens, longest_text(pipe.tokenizer, pipe.text_encoder))
        super().__init__(pipe, context_tokens)
        self.patch = pipe.transformer.config.patch_size

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return (self.pipe.tokenizer_3 or self.pipe.tokenizer,)

    def encode(self, text: str) -> Conditioning:
        embeddings, _, pooled, _ = self.pipe.encode_prompt(
            text,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.context_tokens,
        )
        return {"text": embeddings, "pooled": pooled}

    def set_timesteps(self, scheduler: Any, steps: int, picture: Picture) -> None:
        shifted = scheduler.config.get("use_dynamic_shifting")
        tokens = picture.pixels // self.multiple**2
        scheduler.set_timesteps(steps, mu=shift_for(scheduler, tokens, most=1.16) if shifted else None)

    def first_step(self, steps: int, strength: float) -> int:
        return first_step(steps, strength)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, Any],
        residuals: Residuals | None,
    ) -> torch.Tensor:
        return self.denoiser(
            hidden_states=latents,
            timestep=timesteps,
            encoder_hidden_states=conditioning["text"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]
