"""Load a folder in diffusers' format as a pipeline that is ready to run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from models.engines.images_diffusers import memory
from models.engines.images_diffusers.quantization import BITS, Quantizer, quantization_of
from models.specs import Precision, VariantSpec

DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}
SET_ASIDE = 2 * 2**30  # bytes to reserve for a batch where nothing was measured

Offload = Literal["none", "model", "sequential", "auto"]


@dataclass(frozen=True, slots=True)
class Options:
    """The options in a variant's `engine`.

    Attributes:
        unet: the subfolder of the UNet, if not `unet`: for a distilled form beside the original.
        without: parts not to load. Stable Diffusion 3 can run without `text_encoder_3` and `tokenizer_3`, which are
            half of its weights, but then reads shorter prompts.
        scheduler_config: overrides for the scheduler's configuration, for all samplers.
        channels_last: the memory layout for convolutions. None: on for a GPU in half precision.
        compile: torch.compile the whole denoiser, or each of its repeated `blocks`, which compiles much faster.
            Each new combination of batch and size compiles once, for minutes on large models. A changed set of
            adapters compiles again. It needs a C compiler on the machine.
        quantizer: the library for a precision of int8 or int4: `torchao` or `bitsandbytes`.
        quantized: the parts to quantize. The denoiser and large text encoders are worth it.
        fused: adapters that are always on, with their weights. They are added to the model's weights and cost no time.
        attention: for UNets `sdpa` (fused) or `eager` (plain matrix products); None: the faster one on the device.
            For transformers the name of one of diffusers' attention backends; None: the default one.
        vae_tiling, vae_slicing: decode in tiles, or one picture at a time: less memory, more time.
        offload: keep idle weights in CPU memory, on GPUs only. `model` moves whole parts (text encoders, denoiser,
            autoencoder); `sequential` moves layers, which is much slower; `auto` picks the fastest that fits `memory`.
        largest_batch: the most pictures in one call of the denoiser; `memory` can lower it.
        memory: measured rows of (pixels, batch, bytes of a step, bytes of a decode).
        most_adapters: how many LoRAs stay loaded.
        most_prompts: how many encoded prompts are kept.
    """

    unet: str | None = None
    without: tuple[str, ...] = ()
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    channels_last: bool | None = None
    compile: bool | Literal["blocks"] = False
    quantizer: Quantizer | None = None
    quantized: tuple[str, ...] = ()
    fused: dict[str, float] = field(default_factory=dict)
    attention: str | None = None
    vae_tiling: bool = False
    vae_slicing: bool = False
    offload: Offload = "none"
    largest_batch: int = 16
    memory: tuple[tuple[int, int, int, int], ...] = ()
    most_adapters: int = 8
    most_prompts: int = 64

    @classmethod
    def of(cls, variant: VariantSpec) -> Self:
        """
        Raises:
            ValueError: there is no such option, or its value is not allowed.
        """
        known = {option.name for option in fields(cls)}
        if unknown := set(variant.engine) - known:
            raise ValueError(f"images on diffusers have no engine option {min(unknown)}; they have {sorted(known)}")
        options = cls(**variant.engine)
        if options.offload not in get_args(Offload):
            raise ValueError(f"offload is one of {get_args(Offload)}, not {options.offload!r}")
        if options.quantizer not in (None, *get_args(Quantizer)):
            raise ValueError(f"quantizer is one of {get_args(Quantizer)}, not {options.quantizer!r}")
        if len({variant.precision in BITS, bool(options.quantizer), bool(options.quantized)}) > 1:
            raise ValueError(
                f"images on diffusers run in {', '.join(DTYPES)}, not {variant.precision}; {' and '.join(BITS)} take a "
                "`quantizer` and what is `quantized`, and others neither"
            )
        if options.unet is not None and "unet" in options.quantized:
            raise ValueError("a UNet from a subfolder of its own cannot be quantized")
        return options


def dtype_of(variant: VariantSpec) -> torch.dtype:
    """The type in which a variant computes: bf16 for quantized weights.

    Raises:
        ValueError: the precision is not supported.
    """
    if variant.precision in BITS:
        return torch.bfloat16
    if variant.precision not in DTYPES:
        raise ValueError(f"images on diffusers run in {', '.join([*DTYPES, *BITS])}, not {variant.precision}")
    return DTYPES[variant.precision]


def device_for(variant: VariantSpec) -> str:
    """`cuda` or `cpu`, as the variant needs. On a CPU, also set the number of torch's threads.

    Raises:
        RuntimeError: the variant needs a GPU and there is none.
    """
    if variant.needs.gpus:
        if not torch.cuda.is_available():
            raise RuntimeError("This variant needs a GPU and torch sees none. Choose a CPU variant.")
        return "cuda"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or max(1, round(variant.needs.cpus))))
    return "cpu"


def load_pipeline(folder: Path, options: Options, precision: Precision, dtype: torch.dtype) -> Any:
    """The pipeline that the folder's model_index.json names, without its safety checker: Medley checks the pictures of
    all models in one place, deployments/servers/safety.py.

    Raises:
        RuntimeError: the quantizer is not installed.
        ValueError: there is no such part to quantize.
    """
    parts: dict[str, Any] = dict.fromkeys(options.without)
    index = json.loads((folder / "model_index.json").read_text())
    if "safety_checker" in index:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if options.quantizer is not None:
        kind = quantization_of(options.quantizer, precision, dtype, options.quantized, index)
        parts["quantization_config"] = kind
    if options.unet is not None:
        parts["unet"] = UNet2DConditionModel.from_pretrained(
            folder, subfolder=options.unet, dtype=dtype, local_files_only=True
        )
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    if dtype is torch.float16 and pipe.vae.config.get("force_upcast"):
        pipe.vae.to(torch.float32)  # overflows in half precision
    return pipe


def place(pipe: Any, denoiser: Any, options: Options, device: str, pixels: int) -> None:
    """Move a pipeline to its device, with the fastest layout and kernels.

    Args:
        pixels: the usual size of pictures, for `auto`.
    """
    _choose_attention(denoiser, options.attention, device)
    if wants_channels_last(options, device, denoiser):
        denoiser.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    if options.vae_slicing:
        pipe.vae.enable_slicing()
    if options.vae_tiling:
        pipe.vae.enable_tiling()
    if device == "cpu":
        pipe.to(device)
    else:
        _place_on_gpu(pipe, options, device, pixels)
    if options.compile:
        compile_denoiser(denoiser, options)


def fuse_adapters(pipe: Any, files: Mapping[Path, float]) -> None:
    """Add LoRAs to the model's own weights."""
    for file, weight in files.items():
        pipe.load_lora_weights(file.parent, weight_name=file.name)
        pipe.fuse_lora(lora_scale=weight)
        pipe.unload_lora_weights()


def compile_denoiser(denoiser: Any, options: Options) -> None:
    """Have the denoiser compiled on first use with each size.

    Raises:
        RuntimeError: this machine has no compiler. Otherwise only the first request would find out.
    """
    if not any(map(shutil.which, (os.environ.get("CC") or "gcc", "cc", "clang"))):
        raise RuntimeError(
            "This variant is compiled by torch, which needs a C compiler, and there is none. Install gcc, or choose "
            "another variant."
        )
    if options.compile == "blocks":
        denoiser.compile_repeated_blocks()
    else:
        denoiser.compile()


def wants_channels_last(options: Options, device: str, denoiser: Any) -> bool:
    if options.channels_last is not None:
        return options.channels_last
    if options.quantizer is not None:
        return False
    return device == "cuda" and denoiser.dtype is not torch.float32


def _place_on_gpu(pipe: Any, options: Options, device: str, pixels: int) -> None:
    offload = options.offload
    if offload == "auto":
        needed = memory.MemoryTable.of(options.memory).bytes_each(pixels)
        offload = offload_for(part_bytes(pipe), needed, memory.free_bytes())
    match offload:
        case "model":
            pipe.enable_model_cpu_offload(device=device)
        case "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        case _:
            pipe.to(device)


def part_bytes(pipe: Any) -> list[int]:
    """Bytes of the weights of each part of a pipeline."""
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return [sum(weight.numel() * weight.element_size() for weight in part.parameters()) for part in parts]


def offload_for(parts: list[int], needed: float | None, free: int | None) -> Offload:
    """The fastest offloading that fits.

    Args:
        parts: bytes of the weights of each part. needed: bytes of a batch of one. free: bytes of GPU memory.
    """
    if free is None:
        return "none"
    working = SET_ASIDE if needed is None else needed
    if sum(parts) + working <= free:
        return "none"
    return "model" if max(parts) + working <= free else "sequential"


def _choose_attention(denoiser: Any, attention: str | None, device: str) -> None:
    if not isinstance(denoiser, UNet2DConditionModel):
        if attention is not None:
            denoiser.set_attention_backend(attention)
        return
    match attention or "sdpa":
        case "sdpa":
            denoiser.set_attn_processor(AttnProcessor2_0())
        case "eager":
            denoiser.set_attn_processor(AttnProcessor())
        case other:
            raise ValueError(f"attention of a UNet is sdpa or eager, not {other!r}")
