"""What differs between architectures. The rest of the engine is the same for all."""

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
    """A pipeline's parts, called as its makers call them, for pictures that need not be at the same step.

    Attributes:
        flow: it predicts flow, not noise or velocity.
        patch: latents that the denoiser takes together, along a side.
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
        """In which noise is drawn and schedulers compute."""
        return self.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes; with offloading, its weights may lie elsewhere."""
        return self.pipe._execution_device

    @property
    def multiple(self) -> int:
        """Sides of pictures are multiples of it."""
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
        """Those whose tokens are counted: what one of them cannot read is lost."""

    def count_tokens(self, text: str, param: str) -> int:
        """Tokens of a prompt, with the start and end tokens; what is longer would be cut off by the pipeline.

        Raises:
            ContextLengthExceeded
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
        """A prompt as tokenizers get it."""
        return text

    @abstractmethod
    def encode(self, text: str) -> Conditioning:
        """What the text encoders make of a prompt. The slow part, and the same for every picture with this prompt."""

    def encode_negative(self, text: str) -> Conditioning:
        return self.encode(text)

    def guides(self, guidance: float) -> bool:
        """Whether guidance takes a second, unconditional prediction."""
        return guidance > 1

    def describe(self, picture: Picture, encoded: Conditioning) -> Conditioning:
        """The conditioning of one picture: the prompt, and what else the denoiser is told about it."""
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
        """Where to start in a schedule of so many steps."""
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
            residuals: what ControlNets add, for UNets.

        Returns:
            (batch, latent channels, height, width)
        """


def steps_for(steps: int, strength: float) -> int:
    """Enough steps for a part of at least one; few-step models would start from pure noise otherwise."""
    return max(steps, math.ceil(1 / strength - 1e-9))


def longest_text(tokenizer: Any, encoder: Any) -> int:
    """Tokens that a CLIP encoder reads."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
