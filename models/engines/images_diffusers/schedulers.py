"""Samplers by their usual names.

Each picture has its own scheduler, on the CPU. Its state is a few numbers and the last predictions, so its step never
waits for the GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler class of diffusers, and additions to the model's configuration."""

    scheduler: type[Any]
    config: Mapping[str, Any] = field(default_factory=dict)


PLAIN = {"use_karras_sigmas": False}
KARRAS = {"use_karras_sigmas": True}

# For models that predict noise or velocity over a table of betas.
DIFFUSION = {
    "ddim": Sampler(DDIMScheduler),
    "ddpm": Sampler(DDPMScheduler),
    "euler": Sampler(EulerDiscreteScheduler, PLAIN),
    "euler-karras": Sampler(EulerDiscreteScheduler, KARRAS),
    "euler-ancestral": Sampler(EulerAncestralDiscreteScheduler),
    "heun": Sampler(HeunDiscreteScheduler, PLAIN),
    "lms": Sampler(LMSDiscreteScheduler, PLAIN),
    "pndm": Sampler(PNDMScheduler, {"skip_prk_steps": True}),
    "dpm++-2m": Sampler(DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", **PLAIN}),
    "dpm++-2m-karras": Sampler(DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", **KARRAS}),
    "dpm++-2m-sde": Sampler(DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", **PLAIN}),
    "unipc": Sampler(UniPCMultistepScheduler, PLAIN),
    "lcm": Sampler(LCMScheduler),
}

# For models that predict the flow from noise to picture.
FLOW = {"flow-euler": Sampler(FlowMatchEulerDiscreteScheduler)}


def samplers_for(config: Mapping[str, Any], flow: bool) -> dict[str, Sampler]:
    """The samplers that support the model's schedule.

    A model trained to start from pure noise needs `rescale_betas_zero_snr`. A scheduler that does not know this option
    would ignore it and use a wrong schedule.
    """
    table = FLOW if flow else DIFFUSION
    if not config.get("rescale_betas_zero_snr"):
        return dict(table)
    return {name: sampler for name, sampler in table.items() if "rescale_betas_zero_snr" in _options(sampler.scheduler)}


def new_scheduler(sampler: Sampler, config: Mapping[str, Any]) -> Any:
    """A scheduler for one picture. `config` is the configuration that the model was trained with."""
    return sampler.scheduler.from_config(config, **sampler.config)


def snapshot(scheduler: Any) -> dict[str, Any]:
    """The state for `restore`. Copies lists only, because schedulers replace tensors but change lists in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in vars(scheduler).items()}


def restore(scheduler: Any, state: dict[str, Any]) -> None:
    vars(scheduler).clear()
    vars(scheduler).update(state)


def advance(
    scheduler: Any, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step.

    Returns:
        the next latents, and the step's estimate of the finished ones.
    """
    draws = {"generator": generator} if _draws_noise(type(scheduler)) else {}
    output = scheduler.step(prediction, timestep, latents, **draws, return_dict=True)
    return output.prev_sample, _finished_estimate(scheduler, output, prediction, timestep, latents)


def _finished_estimate(
    scheduler: Any, output: Any, prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor
) -> torch.Tensor:
    for name in ("pred_original_sample", "denoised"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    kind = type(scheduler)
    if issubclass(kind, FlowMatchEulerDiscreteScheduler):
        sigma = scheduler.sigmas[scheduler.step_index - 1]
        return latents - sigma * prediction
    if issubclass(kind, DPMSolverMultistepScheduler | UniPCMultistepScheduler):
        return scheduler.model_outputs[-1]  # these convert every prediction to finished latents
    alpha = scheduler.alphas_cumprod[timestep].sqrt()
    sigma = (1 - scheduler.alphas_cumprod[timestep]).sqrt()
    if scheduler.config.prediction_type == "v_prediction":
        return alpha * latents - sigma * prediction
    return (latents - sigma * prediction) / alpha


@cache
def _draws_noise(scheduler: type[Any]) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters


@cache
def _options(scheduler: type[Any]) -> frozenset[str]:
    return frozenset(inspect.signature(scheduler.__init__).parameters)
