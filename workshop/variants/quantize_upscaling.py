"""A chain of convolutions and PReLUs, such as SRVGGNetCompact, in 8 bits on ONNX Runtime.

A channel of what one convolution gives may be a hundred times larger than another, and all of them share 255 steps. But
a PReLU lets a factor through: a channel can be made smaller in one convolution and larger in the next, and the network
computes what it did. Cross-layer equalization: Nagel and others, 2019, https://arxiv.org/abs/1906.04721.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.engines.onnx_session import open_session
from workshop.evaluation.pictures import scenes
from workshop.variants.fuse_attention import Graph, remove_unused
from workshop.variants.quantize_onnx import quantize_convolutions

DRAW = "draw.onnx"
# Between making channels of what is computed alike (1) and those of weights (0), measured to be nearest.
EXPONENT = 0.8
CALIBRATION_SEEDS = (100, 101, 102)
CALIBRATION_SIDE = 64
CALIBRATION_BLOCKS = (1, 2, 4, 8)


def quantize(source: Path, target: Path) -> None:
    """Quantize `source`/draw.onnx, which `export_upscaling.export` made, into `target`. The first and the last
    convolution stay as they are: they take little time, and their errors are seen.

    Raises:
        ValueError: the network is not such a chain.
    """
    model = onnx.load(source / DRAW)
    pictures = [picture for seed in CALIBRATION_SEEDS for picture in scenes(CALIBRATION_SIDE, seed).values()]
    pictures += [blocks(CALIBRATION_SIDE, width) for width in CALIBRATION_BLOCKS]
    equalize(model, pictures, target)
    unfold_prelus(model)
    first, *_, last = [node.name for node in model.graph.node if node.op_type == "Conv"]
    quantized = quantize_convolutions(model, ({"input": picture} for picture in pictures), excluded=(first, last))
    onnx.save(quantized, target / DRAW)
    shutil.copy(source / "config.json", target)


def blocks(side: int, width: int) -> np.ndarray:
    """Black and white squares at random: the strongest contrast there is, rare in drawings. (side, side, 3)"""
    count = -(-side // width)
    squares = np.random.default_rng(width).integers(0, 2, (count, count), dtype=np.uint8) * 255
    picture = squares.repeat(width, 0).repeat(width, 1)[:side, :side]
    return np.repeat(picture[..., None], 3, axis=-1)


def equalize(model: onnx.ModelProto, pictures: list[np.ndarray], scratch: Path) -> None:
    """Move factors of channels across each PReLU, in place."""
    graph = Graph(model)
    prelus = [node for node in graph.nodes if node.op_type == "PRelu"]
    if not prelus:
        raise ValueError("this network is not a chain of convolutions and PReLUs, so it has no 8-bit form")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    largest = largest_of_channels(model, [node.input[0] for node in prelus], pictures, scratch)
    for prelu in prelus:
        before, after = graph.maker(prelu.input[0], "Conv"), graph.user(prelu.output[0], "Conv")
        # The constants as they are now: the convolution after one PReLU is before the next.
        weight, bias, next_weight = (
            numpy_helper.to_array(tensors[name]) for name in (before.input[1], before.input[2], after.input[1])
        )
        computed = np.maximum(largest[prelu.input[0]], 1e-3)
        weighed = np.maximum(np.abs(next_weight).max((0, 2, 3)), 1e-4)
        factors = computed**EXPONENT / weighed ** (1 - EXPONENT)
        factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
        for name, value in (
            (before.input[1], weight / factors[:, None, None, None]),
            (before.input[2], bias / factors),
            (after.input[1], next_weight * factors[None, :, None, None]),
        ):
            tensors[name].CopyFrom(numpy_helper.from_array(value, name))


def largest_of_channels(
    model: onnx.ModelProto, names: list[str], pictures: list[np.ndarray], scratch: Path
) -> dict[str, np.ndarray]:
    """The largest size of each channel of values between, over the pictures: name -> (channels,)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    file = scratch / "watched.onnx"
    onnx.save(watched, file)
    session = open_session(file)
    file.unlink()
    largest: dict[str, np.ndarray] = {}
    for picture in pictures:
        for name, value in zip(names, session.run(names, {"input": picture}), strict=True):
            size = np.abs(np.asarray(value)).max((0, 2, 3))
            largest[name] = np.maximum(largest[name], size) if name in largest else size
    return largest


def unfold_prelus(model: onnx.ModelProto) -> None:
    """PReLU as slope * x + (1 - slope) * relu(x), in place: ONNX Runtime's own takes longer than the convolutions."""
    graph = Graph(model)
    for node in [node for node in graph.nodes if node.op_type == "PRelu"]:
        (x, slope_name), (result,) = node.input, node.output
        slope = graph.constants[slope_name]
        rest = graph.add(f"{node.name}_rest", (1 - slope).astype(slope.dtype))
        low, positive, high = (f"{node.name}_{what}" for what in ("low", "positive", "high"))
        graph.replace(
            node,
            helper.make_node("Mul", [x, slope_name], [low]),
            helper.make_node("Relu", [x], [positive]),
            helper.make_node("Mul", [positive, rest], [high]),
            helper.make_node("Add", [low, high], [result]),
        )
    remove_unused(model)
