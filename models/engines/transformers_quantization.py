"""Quantization of weights while transformers loads them, with the libraries that it supports."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

# The type of a quantized model's activations.
COMPUTED_IN = torch.bfloat16
INSTALL = {"torchao": "pip install torchao", "bitsandbytes": "pip install bitsandbytes"}


def quantization_config(name: str, gpu: bool) -> Any:
    """transformers' configuration for a quantization method.

    Args:
        name: from the catalog, `engine: {quantization: ...}`.
        gpu: whether the model runs on one.

    Raises:
        ValueError: there is no such method.
        RuntimeError: its library is not installed, or it needs a GPU. The message says what to do.
    """
    if name not in WAYS:
        raise ValueError(f"transformers quantizes by {', '.join(WAYS)}, not {name!r}")
    library, needs_gpu, make = WAYS[name]
    if needs_gpu and not gpu:
        raise RuntimeError(f"{name} has no CPU kernels. Give the variant a GPU, or choose a CPU variant.")
    if find_spec(library) is None:
        raise RuntimeError(f"{name} needs {library}, which is not installed. Run `{INSTALL[library]}`.")
    return make()


def int8_weights() -> Any:
    """int8 weights per output channel; products in COMPUTED_IN."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(version=2))


def int8_dynamic() -> Any:
    """int8 weights per output channel and int8 activations per token; products in int8."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8DynamicActivationInt8WeightConfig(version=2))


def int4_weights() -> Any:
    """int4 weights in groups of 128 inputs; products in COMPUTED_IN."""
    from torchao.quantization import Int4WeightOnlyConfig
    from transformers import TorchAoConfig

    # torch itself has kernels for this packing; the others need one more library.
    packing: Any = "tile_packed_to_4d"
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=128, int4_packing_format=packing))


def bitsandbytes_8bit() -> Any:
    """LLM.int8(), Dettmers et al. 2022: columns with outliers stay in 16 bits."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def bitsandbytes_4bit() -> Any:
    """NF4 with quantized scales, from QLoRA, Dettmers et al. 2023."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=COMPUTED_IN,
    )


# name -> (library, whether it needs a GPU, function that makes the configuration)
WAYS: dict[str, tuple[str, bool, Callable[[], Any]]] = {
    "torchao-int8-weights": ("torchao", False, int8_weights),
    "torchao-int8-dynamic": ("torchao", False, int8_dynamic),
    "torchao-int4-weights": ("torchao", True, int4_weights),
    "bitsandbytes-8bit": ("bitsandbytes", True, bitsandbytes_8bit),
    "bitsandbytes-4bit": ("bitsandbytes", True, bitsandbytes_4bit),
}
