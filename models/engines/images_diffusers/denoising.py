"""The state of one picture: everything that its next step depends on, and nothing shared with other pictures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from models.engines.images_diffusers import schedulers
from models.tasks.images import Picture

# Tensors by names that the family chooses, each with a first dimension of 1.
Conditioning = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class KeptPart:
    """The parts of a picture to keep under a mask, for denoisers without an input for masks.

    Attributes:
        latents: of the picture, shape (1, channels, height, width). noise: added to them, same shape.
        mask: 1 is repainted, 0 stays; shape (1, 1, height, width).
    """

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor


@dataclass(slots=True, eq=False)
class LatentDenoising:
    """
    Attributes:
        timesteps: one per step, on the CPU. A step is one call of the denoiser: heun doubles every step but the last,
            and pndm adds one to the number requested.
        latents: shape (1, channels, height, width).
        unconditional: the conditioning to guide away from; None without guidance.
        channels: additional input channels for inpainting denoisers, as large as the latents.
        controls: pictures by the kind of their ControlNet, shape (1, 3, height, width), 0 to 1.
        estimate: the latest estimate of the finished latents.
    """

    picture: Picture
    batch_key: Hashable
    prompt_tokens: int
    scheduler: Any
    generator: torch.Generator
    timesteps: torch.Tensor
    latents: torch.Tensor
    conditioning: Conditioning
    unconditional: Conditioning | None
    kept: KeptPart | None
    channels: torch.Tensor | None
    controls: Mapping[str, torch.Tensor]
    estimate: torch.Tensor | None = None
    step: int = 0

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def timestep(self) -> torch.Tensor:
        return self.timesteps[self.step]

    def scaled_latents(self) -> torch.Tensor:
        """The latents in the form for the denoiser."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return self.latents
        return self.scheduler.scale_model_input(self.latents, self.timestep)

    def advance(self, prediction: torch.Tensor) -> None:
        """Advance one step with the denoiser's prediction, shape (1, channels, height, width)."""
        latents, estimate = schedulers.advance(self.scheduler, prediction, self.timestep, self.latents, self.generator)
        self.step += 1
        if self.kept is not None:
            latents = self._with_kept_part(self.kept, latents)
            estimate = torch.lerp(self.kept.latents, estimate.to(self.kept.latents.dtype), self.kept.mask)
        self.latents, self.estimate = latents, estimate

    def _with_kept_part(self, kept: KeptPart, latents: torch.Tensor) -> torch.Tensor:
        original = kept.latents
        if self.step < self.steps:
            original = add_noise(self.scheduler, original, kept.noise, self.timestep)
        return (1 - kept.mask) * original + kept.mask * latents


def add_noise(scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Latents with the noise of a timestep of the schedule."""
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(latents, timestep[None], noise)
    return scheduler.add_noise(latents, noise, timestep[None])


@dataclass(frozen=True, slots=True)
class Restorable:
    """A copy of a picture's state, to restore if a step fails."""

    denoising: LatentDenoising
    scheduler: dict[str, Any]
    generator: torch.Tensor
    latents: torch.Tensor
    estimate: torch.Tensor | None
    step: int

    @classmethod
    def of(cls, denoising: LatentDenoising) -> Self:
        return cls(
            denoising,
            schedulers.snapshot(denoising.scheduler),
            denoising.generator.get_state(),
            denoising.latents,
            denoising.estimate,
            denoising.step,
        )

    def restore(self) -> None:
        schedulers.restore(self.denoising.scheduler, self.scheduler)
        self.denoising.generator.set_state(self.generator)
        self.denoising.latents = self.latents
        self.denoising.estimate = self.estimate
        self.denoising.step = self.step
