"""Pictures to latents and back, with any autoencoder of diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (height, width, 3) -> float32 (1, 3, height, width), 0 to 1."""
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


def as_pixels(images: torch.Tensor) -> list[np.ndarray]:
    """float (n, 3, height, width), -1 to 1 -> uint8 (height, width, 3) each."""
    scaled = (images.float() * 0.5 + 0.5).clamp(0, 1) * 255
    return list(scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def encode(vae: Any, image: torch.Tensor, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """A picture as latents, scaled for the denoiser.

    Args:
        image: float32 (1, 3, height, width), -1 to 1.
        generator: for the sample of a variational autoencoder.
    """
    encoded = vae.encode(image.to(vae.device, vae.dtype))
    latents = encoded.latent_dist.sample(generator) if hasattr(encoded, "latent_dist") else encoded.latents
    shift, scale = _scaling(vae, latents)
    return ((latents - shift) * scale).to(dtype)


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents to pictures, float (n, 3, height, width), -1 to 1."""
    shift, scale = _scaling(vae, latents)
    return vae.decode((latents / scale + shift).to(vae.dtype), return_dict=False)[0]


def latent_mask(mask: np.ndarray, size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """A mask over latents, shape (1, 1, height, width): 1 where any pixel of the latent is repainted.

    Diffusers samples one pixel of each square instead, which misses thin strokes.
    """
    pixels = binary_mask(mask)[None, None]
    return torch.nn.functional.adaptive_max_pool2d(pixels, size).to(like.device, like.dtype)


def binary_mask(mask: np.ndarray) -> torch.Tensor:
    """float32 (height, width), 1 is repainted."""
    return (torch.tensor(mask) >= 0.5).float()


def with_kept_pixels(pixels: np.ndarray, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The exact original outside the mask. Encoding and decoding it would not give the same bytes."""
    share = mask[..., None].astype(np.float32)
    return (share * pixels + (1 - share) * original).round().astype(np.uint8)


def _scaling(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    config, scale = vae.config, vae.config.scaling_factor
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or deviation is None:
        return getattr(config, "shift_factor", None) or 0.0, scale
    channels = (1, -1, 1, 1)
    return like.new_tensor(mean).view(channels), scale / like.new_tensor(deviation).view(channels)
