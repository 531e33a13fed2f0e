"""The schedule of flow-matching models."""

from __future__ import annotations

from typing import Any


def shift_for(scheduler: Any, tokens: int, most: float = 1.15) -> float:
    """How much a schedule favours its noisy end, from the picture's number of tokens: linear between two fixed sizes.

    The sizes are from the scheduler, with the pipelines' defaults (`calculate_shift` in diffusers).
    """
    config = scheduler.config
    fewest, largest = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", most)
    return low + (high - low) * (tokens - fewest) / (largest - fewest)


def first_step(steps: int, strength: float) -> int:
    """Rounded like these pipelines do: to more steps, where Stable Diffusion's round to fewer."""
    return int(max(steps - min(steps * strength, steps), 0))
