"""The schedule of flow-matching models."""

from __future__ import annotations

from typing import Any


def shift_for(scheduler: Any, tokens: int, most: float = 1.15) -> float:
    """How far a schedule leans to the noisy end for a picture of so many tokens: linear between two measured sizes.

    The numbers are the scheduler's own, with the defaults of the pipelines (`calculate_shift` in diffusers).
    """
    config = scheduler.config
    fewest, largest = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    return low + (high - low) * (tokens - fewest) / (largest - fewest)


def first_step(steps: int, strength: float) -> int:
    """As these pipelines round it: up to the larger part, where Stable Diffusion's round down."""
    return int(max(steps - min(steps * strength, steps), 0))
