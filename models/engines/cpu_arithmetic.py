"""The arithmetic that this machine's CPU supports."""

import torch

from models.specs import VariantSpec


def converts_bf16() -> bool:
    """Whether the CPU must convert bf16 numbers before it multiplies: true for x86 CPUs with AVX2 but no AVX-512.

    A language model in float32 is up to six times as fast there (decision 0020).
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def vllm_dtype(variant: VariantSpec) -> str:
    """vLLM's `dtype`: the checkpoint's, but float32 on a CPU that has to convert bf16."""
    return "float32" if not variant.needs.gpus and converts_bf16() else "auto"
