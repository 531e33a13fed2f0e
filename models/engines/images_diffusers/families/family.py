"""The differences between architectures. The rest of the engine is common to all."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from models.engines.images_diffusers.denoising import Conditioning
from models.errors import ContextLengthExceeded
from models.tasks.images import Picture

Residuals = tuple[list[torch.Tensor], torch.Tensor]


class Family(ABC):
    """Calls a pipeline's parts as the pipeline does, but for pictures that may be at different steps.

    Attributes:
        flow: the denoiser predicts flow, not noise or velocity.
        patch: the side of the denoiser's patches, in latents.
        context_tokens: the longest prompt, with its start and end tokens.
    """

    flow = False
    patch = 1

    def __init__(self, pipe: Any, context_tokens: int):
        self.pipe = pipe
        self.context_tokens = context_tokens

    @property
    @abstractmethod
    def denoiser(self) -> Any: ...

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    @property
    def latent_dtype(self) -> torch.dtype:
        """The type in which noise is drawn and schedulers compute."""
        return self.dtype

    @property
    def device(self) -> torch.device:
        """The device that computes; with offloading, the weights may be elsewhere."""
        return self.pipe._execution_device

    @property
    def multiple(self) -> int:
        """The sides of pictures must be multiples of this."""
        return self.pipe.vae_scale_factor * self.patch

    @property
    def input_channels(self) -> int:
        return self.denoiser.config.in_channels

    @property
    def latent_channels(self) -> int:
        return self.pipe.vae.config.latent_channels

    @property
    @abstractmethod
    def tokenizers(self) -> tuple[Any, ...]:
        """The tokenizers that limit a prompt's length: tokens over the limit would be lost."""

    def count_tokens(self, text: str, param: str) -> int:
        """The tokens of a prompt, including start and end tokens. The pipeline would silently cut a longer one.

        Raises:
            ContextLengthExceeded: the prompt is longer than the model reads.
        """
        text = self.as_read(text)
        counts = [len(tokenizer(text, verbose=False).input_ids) for tokenizer in self.tokenizers]
        if max(counts) > self.context_tokens:
            raise ContextLengthExceeded(
                f"This text has {max(counts)} tokens, with its start and end tokens, and the model reads at most "
                f"{self.context_tokens}. Shorten it.",
                param,
            )
        return max(counts)

    def as_read(self, text: str) -> str:
        """A prompt in the form for tokenizers."""
        return text

    @abstractmethod
    def encode(self, text: str) -> Conditioning:
        """Encode a prompt. This is slow, and gives the same for every picture with this prompt."""

    def encode_negative(self, text: str) -> Conditioning:
        return self.encode(text)

    def guides(self, guidance: float) -> bool:
        """Whether guidance needs a second, unconditional prediction."""
        return guidance > 1

    def describe(self, picture: Picture, encoded: Conditioning) -> Conditioning:
        """The conditioning of one picture: the prompt, and other inputs of the denoiser."""
        return encoded

    def stack(self, rows: Sequence[Conditioning]) -> Mapping[str, Any]:
        """The conditioning of a batch."""
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def added(self, conditioning: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
        """Conditioning beside the text, for UNets and their ControlNets."""
        return None

    def set_timesteps(self, scheduler: Any, steps: int, picture: Picture) -> None:
        scheduler.set_timesteps(steps)

    def first_step(self, steps: int, strength: float) -> int:
        """The step at which to start a schedule of this length."""
        return max(steps - int(steps * strength), 0)

    @abstractmethod
    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, Any],
        residuals: Residuals | None,
    ) -> torch.Tensor:
        """One call of the denoiser for a batch.

        Args:
            latents: (batch, input channels, height, width). timesteps: (batch,). conditioning: from `stack`.
            residuals: from ControlNets, for UNets.

        Returns:
            (batch, latent channels, height, width)
        """


def steps_for(steps: int, strength: float) -> int:
    """Enough steps that `strength` leaves at least one. Few-step models would otherwise start from pure noise."""
    return max(steps, math.ceil(1 / strength - 1e-9))


def longest_text(tokenizer: Any, encoder: Any) -> int:
    """The most tokens that a CLIP encoder reads."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
