"""The architectures, identified by the class of their denoiser."""

from __future__ import annotations

from typing import Any

from models.engines.images_diffusers.families.family import Family
from models.engines.images_diffusers.families.flux import Flux
from models.engines.images_diffusers.families.stable_diffusion import StableDiffusion
from models.engines.images_diffusers.families.stable_diffusion_3 import StableDiffusion3
from models.engines.images_diffusers.families.stable_diffusion_xl import StableDiffusionXL
from models.engines.images_diffusers.families.z_image import ZImage

__all__ = ["Family", "family_of"]


def family_of(pipe: Any, context_tokens: int) -> Family:
    """
    Raises:
        ValueError: this engine does not know the architecture.
    """
    denoiser: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    match type(denoiser).__name__:
        case "UNet2DConditionModel" | "OnnxUNet" if denoiser.config.addition_embed_type == "text_time":
            return StableDiffusionXL(pipe, context_tokens)
        case "UNet2DConditionModel" | "OnnxUNet":
            return StableDiffusion(pipe, context_tokens)
        case "SD3Transformer2DModel":
            return StableDiffusion3(pipe, context_tokens)
        case "FluxTransformer2DModel":
            return Flux(pipe, context_tokens)
        case "ZImageTransformer2DModel":
            return ZImage(pipe, context_tokens)
        case other:
            raise ValueError(f"a {type(pipe).__name__} with a {other} is not an architecture that this engine runs")
