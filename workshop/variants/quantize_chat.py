"""Language models in 8 bits: int8 weights and int8 activations, in the compressed-tensors format that vLLM loads.

Weights are rounded to the nearest of 255 steps of their output channel, activations of their token while the model
runs. Some channels of the activations are far larger than the others and would leave those but a few steps, so the
model is first changed into one that says the same and has no such channels: what flows between the layers is rotated,
which spreads the large channels over all, and the layers that read it turn it back (QuaRot, Ashkboos et al. 2024,
without the rotations that cost a step of their own while the model runs).

What enters `down_proj` lies behind a product and cannot be rotated so, and its largest values are a thousand times the
usual: that layer stays in 16 bits (Yang et al. 2024, https://arxiv.org/abs/2405.14428, find the same and leave it out
where it is worst). In 8 bits, with its input smoothed, it alone doubled how far answers were from the reference's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams, is_module_quantized
from transformers import AutoModelForCausalLM, GenerationConfig

# Built as Llama is: RMS norms that only scale, and no bias where a layer writes back.
ROTATED = ("llama", "mistral", "qwen2", "qwen3")
# By name too: vLLM's own output layer is no Linear.
TARGETS = ["Linear", "re:.*lm_head"]
KEPT = ["re:.*down_proj"]
TAKEN_OVER = (
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_*.json",
)


def quantize_int8(source: Path, target: Path) -> None:
    """Write the model in `source`, safetensors and a tokenizer, to `target` in 8 bits.

    Raises:
        ValueError: the model's architecture is not supported.
    """
    # Not in 16 bit: each rounding on the way to 8 bits costs as much as those 8 bits.
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    if model.config.model_type not in ROTATED:
        raise ValueError(f"{model.config.model_type} models cannot be rotated, only {', '.join(ROTATED)}")
    model.generation_config = GenerationConfig()  # its own is taken over as it is
    untie_output(model)
    fold_norms(model)
    rotate(model)
    quantize_weights(model, preset_name_to_scheme("W8A8", TARGETS))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    keep_rest_in_16_bit(model)
    model.save_pretrained(target)
    compressor.update_config(str(target))
    for pattern in TAKEN_OVER:
        for file in source.glob(pattern):
            shutil.copy(file, target)


def untie_output(model: Any) -> None:
    """A copy of the embeddings as output layer, where they are one. Looking rows up gains nothing from 8 bits."""
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


@torch.no_grad()
def fold_norms(model: Any) -> None:
    """Have the layers behind a norm do its scaling. What is left of it does not care for a rotation."""
    for norm, readers in norms_and_readers(model):
        for layer in readers:
            layer.weight.mul_(norm.weight)
        norm.weight.fill_(1)


@torch.no_grad()
def rotate(model: Any) -> None:
    """Rotate what flows between the layers: with x a row of it, each layer that reads x now reads x @ rotation."""
    rotation = random_rotation(model.config.hidden_size)
    embeddings = model.get_input_embeddings().weight
    embeddings.copy_(embeddings @ rotation)
    for _, readers in norms_and_readers(model):
        for layer in readers:
            layer.weight.copy_(layer.weight @ rotation)
    for block in model.model.layers:
        for layer in (block.self_attn.o_proj, block.mlp.down_proj):
            layer.weight.copy_(rotation.T @ layer.weight)


def random_rotation(size: int) -> torch.Tensor:
    """An orthogonal matrix, the same each time."""
    normal = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(normal).Q.float()


def norms_and_readers(model: Any) -> Iterable[tuple[Any, tuple[Any, ...]]]:
    """Each norm with the layers that read what it makes."""
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        yield block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)
        yield block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)
    yield model.model.norm, (model.lm_head,)


@torch.no_grad()
def quantize_weights(model: Any, scheme: QuantizationScheme) -> None:
    """Choose the scale of each output channel so that its largest weight is the last step."""
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=KEPT))
    for module in model.modules():
        if is_module_quantized(module):
            ends = module.weight.amin(1, keepdim=True), module.weight.amax(1, keepdim=True)
            scale, _ = calculate_qparams(*ends, module.quantization_scheme.weights)
            module.weight_scale.copy_(scale)


def keep_rest_in_16_bit(model: Any) -> None:
    """Embeddings, norms and KEPT; scales stay in 32."""
    for name, weights in model.named_parameters():
        if weights.is_floating_point() and not name.endswith("_scale"):
            weights.data = weights.data.bfloat16()
