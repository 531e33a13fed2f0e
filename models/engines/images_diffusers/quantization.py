"""Weights of 8 or 4 bits that compute in half precision: a large transformer in a third of the memory, or less.

The libraries are torchao, which torch.compile fuses with the matrix products, and bitsandbytes. Only linear layers are
quantized, so it suits transformers; a UNet is mostly convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig
from transformers import BitsAndBytesConfig as TransformersBitsAndBytesConfig
from transformers import TorchAoConfig as TransformersTorchAoConfig

from models.specs import Precision

Quantizer = Literal["torchao", "bitsandbytes"]
BITS = {Precision.INT8: 8, Precision.INT4: 4}


def quantization_of(
    quantizer: Quantizer, precision: Precision, dtype: torch.dtype, parts: Iterable[str], index: Mapping[str, Any]
) -> PipelineQuantizationConfig:
    """The settings that quantize these parts of a pipeline while they load.

    Args:
        dtype: for computing. parts: names in `index`, the pipeline's model_index.json.

    Raises:
        RuntimeError: the quantizer is not installed.
        ValueError: the pipeline has no such part.
    """
    if find_spec(quantizer) is None:
        raise RuntimeError(f"This variant needs {quantizer}, which is not installed. Install it, or choose another.")
    mapping = {}
    for part in parts:
        if not isinstance(index.get(part), list) or index[part][0] is None:
            raise ValueError(f"{part}, to be quantized, is no part of a {index['_class_name']}")
        of_transformers = index[part][0] == "transformers"
        make = torchao if quantizer == "torchao" else bitsandbytes
        mapping[part] = make(BITS[precision], dtype, of_transformers)
    return PipelineQuantizationConfig(quant_mapping=mapping)


def torchao(bits: int, dtype: torch.dtype, of_transformers: bool) -> Any:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    # torch itself has kernels for this 4-bit packing; others need an additional library
    weights = Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig(int4_packing_format="tile_packed_to_4d")  # pyright: ignore[reportArgumentType]
    return (TransformersTorchAoConfig if of_transformers else TorchAoConfig)(weights)


def bitsandbytes(bits: int, dtype: torch.dtype, of_transformers: bool) -> Any:
    kind = TransformersBitsAndBytesConfig if of_transformers else BitsAndBytesConfig
    if bits == 8:
        return kind(load_in_8bit=True)
    return kind(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
