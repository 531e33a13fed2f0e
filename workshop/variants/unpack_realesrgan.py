"""Real-ESRGAN as ncnn ships it, a text of layers and a file of numbers, as safetensors with upstream's names.

ncnn's format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure. The numbers stand in the order of
the layers: for a convolution a tag, its weights and its bias; for a PReLU its slopes. Weights are fp16, all else fp32,
and they stay so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models.engines.networks.real_esrgan import build

FP16_TAG = 0x01306B47
KERNEL = 9  # all convolutions of both networks are 3 x 3
CONVOLUTIONS_A_BLOCK = 15


@dataclass(frozen=True, slots=True)
class Layer:
    """A line of the .param file. `numbers` are its options by their number, those that are single values."""

    kind: str
    name: str
    numbers: dict[int, float]


def unpack(source: Path, target: Path) -> None:
    """Write model.safetensors and config.json of the one network in `source` to `target`.

    Raises:
        ValueError: the files are not whole, or not one of the two networks.
    """
    (param,) = source.glob("*.param")
    layers = read_layers(param.read_text())
    tensors = list(read_numbers(layers, param.with_suffix(".bin").read_bytes()))
    config = recognise(layers)
    names = list(build(config).state_dict())
    if len(names) != len(tensors):
        raise ValueError(f"{param.name} has {len(tensors)} tensors and its network {len(names)}")
    state = dict(zip(names, tensors, strict=True))
    shaped = {name: state[name].reshape(wanted.shape) for name, wanted in build(config).state_dict().items()}
    save_file(shaped, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config, indent=2))


def read_layers(text: str) -> list[Layer]:
    """The lines `kind name inputs outputs input... output... option=value...` after the two that count them."""
    magic, counts, *lines = text.strip().splitlines()
    if magic != "7767517" or int(counts.split()[0]) != len(lines):
        raise ValueError("not a whole ncnn .param file")
    layers = []
    for line in lines:
        kind, name, inputs, outputs, *rest = line.split()
        options = (item.split("=") for item in rest[int(inputs) + int(outputs) :])
        # Options below -23300 are lists, such as the slope of a leaky ReLU, which both networks fix.
        layers.append(Layer(kind, name, {int(key): float(value) for key, value in options if not key.startswith("-")}))
    return layers


def read_numbers(layers: list[Layer], data: bytes) -> Iterator[torch.Tensor]:
    """Flat tensors in the order of the file: weights and bias of each convolution, slopes of each PReLU."""
    at = 0

    def take(dtype: str, count: int) -> torch.Tensor:
        nonlocal at
        values = np.frombuffer(data, dtype, count, at)
        at += values.nbytes
        return torch.from_numpy(values.copy())

    for layer in layers:
        if layer.kind == "Convolution":
            outputs, kernel, weights = (int(layer.numbers[number]) for number in (0, 1, 6))
            if kernel * kernel != KERNEL or take("<u4", 1).item() != FP16_TAG:
                raise ValueError(f"{layer.name} is not a 3 x 3 convolution in fp16")
            yield take("<f2", weights)
            at += -at % 4
            yield take("<f4", outputs)
        elif layer.kind == "PReLU":
            yield take("<f4", int(layer.numbers[0]))
    if at != len(data):
        raise ValueError(f"the .bin file has {len(data)} bytes and its layers {at}")


def recognise(layers: list[Layer]) -> dict[str, Any]:
    """The config.json of the network these layers are."""
    convolutions = sum(layer.kind == "Convolution" for layer in layers)
    if any(layer.kind == "PReLU" for layer in layers):
        return {"architecture": "SRVGGNetCompact", "convolutions": convolutions - 2}
    blocks, rest = divmod(convolutions - 6, CONVOLUTIONS_A_BLOCK)
    if rest:
        raise ValueError(f"{convolutions} convolutions are neither of the two networks")
    return {"architecture": "RRDBNet", "blocks": blocks}
