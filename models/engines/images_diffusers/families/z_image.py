"""Z-Image: one transformer over latents and text; a language model encodes text of any length; flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from models.engines.images_diffusers.denoising import Conditioning
from models.engines.images_diffusers.families.family import Family, Residuals
from models.engines.images_diffusers.families.flow import first_step, shift_for
from models.tasks.images import Picture


class ZImage(Family):
    """Guidance of 1 is none, as everywhere in Medley; Z-Image's pipeline calls that 0. The Turbo form needs none."""

    flow = True
    patch = 2

    @property
    def denoiser(self) -> Any:
        return self.pipe.transformer

    @property
    def latent_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def input_channels(self) -> int:
        return self.denoiser.in_channels

    @property
    def tokenizers(self) -> tuple[Any, ...]:
        return (self.pipe.tokenizer,)

    def as_read(self, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return self.pipe.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )

    def encode(self, text: str) -> Conditioning:
        (embeddings,), _ = self.pipe.encode_prompt(
            text, self.device, do_classifier_free_guidance=False, max_sequence_length=self.context_tokens
        )
        return {"text": embeddings[None]}

    def stack(self, rows: Sequence[Conditioning]) -> Mapping[str, Any]:
        """Texts have different lengths, so the transformer takes a list."""
        return {"text": [row["text"][0] for row in rows]}

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
        frames = list(latents.unsqueeze(2).unbind(0))  # its format is video: one frame each
        predicted = self.denoiser(frames, (1000 - timesteps) / 1000, conditioning["text"], return_dict=False)[0]
        return -torch.stack([frame.float() for frame in predicted]).squeeze(2)
