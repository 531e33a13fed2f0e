"""What this machine's CPU can reckon with."""

import torch


def converts_bf16() -> bool:
    """Whether each bf16 number has to be converted before a product: on x86 CPUs that have AVX2 and no AVX-512.

    A language model in float32 is up to six times as fast there (decision 0020).
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
