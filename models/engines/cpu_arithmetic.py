"""The arithmetic that this machine's CPU supports."""

import torch


def converts_bf16() -> bool:
    """Whether the CPU must convert bf16 numbers before it multiplies: true for x86 CPUs with AVX2 but no AVX-512.

    A language model in float32 is up to six times as fast there (decision 0020).
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
