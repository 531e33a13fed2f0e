"""Embedding models in 8 bits on ONNX Runtime: weights, and what is multiplied with them.

A weight has a scale for each column. What comes in has one scale, fixed from calibration texts (static) or taken from
each batch (dynamic). A few channels of what comes in are far larger than all others, and would leave few of the 255
steps to the rest; so channels are first divided by factors that the weights' rows are multiplied with: SmoothQuant,
Xiao and others, 2022, https://arxiv.org/abs/2211.10438, with the exponent that fits each product best.
"""

from __future__ import annotations

import pydoc_data.topics
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from models.engines.embeddings_onnx import padded
from models.engines.onnx_session import open_session
from models.engines.text_tokenizer import TextTokenizer
from workshop.variants.export_onnx import MODEL
from workshop.variants.fuse_attention import MICROSOFT, Graph, fuse, remove_unused

# Of smoothing. High ones even out what calibration saw, and each batch has extremes of its own.
EXPONENTS = {"static": (None, 0.5, 0.6, 0.7, 0.8, 0.9), "dynamic": (None, 0.3, 0.4, 0.5)}
MOST_TOKENS = 256
MOST_ROWS = 3000  # of what comes into a product, for the choice of its exponent
# Calibration also needs texts that are not prose, because each kind has other extremes.
ODD_TEXTS = (
    "",
    "a",
    "?",
    "0",
    "ok",
    "42 1999 3.14159",
    "http://localhost:8000/v1",
    "Ça va? 你好, wörld 🎉",
    "dog " * 120,
)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A product's 8 bits.

    Attributes:
        weight: int8, shape (rows, columns). weight_scale: float32, (columns,).
        smoothing: what channels of the input are multiplied with before they are quantized, (rows,), or None.
        scale, zero: of the smoothed input.
    """

    weight: np.ndarray
    weight_scale: np.ndarray
    smoothing: np.ndarray | None
    scale: np.float32
    zero: np.uint8


def quantize(source: Path, target: Path, activations: Literal["static", "dynamic"] = "static", heads: int = 12) -> None:
    """Quantize `source`/model.onnx, which `export_onnx.export_embeddings` made, into `target`, with its tokenizer.

    Static is both nearer and steadier: a text's vector does not depend on what else is in its batch.

    Raises:
        ValueError: `export_embeddings` did not make the graph.
    """
    model = fuse(onnx.load(source / MODEL), heads)
    inputs = calibrate(model, source, target)
    graph = Graph(model)
    for node in [node for node in graph.nodes if node.op_type in ("MatMul", "Attention")]:
        quantized = quantize_product(inputs[node.input[0]], graph.constants[node.input[1]], EXPONENTS[activations])
        if activations == "static":
            replace_static(graph, node, quantized)
        else:
            replace_dynamic(graph, node, quantized)
    quantize_table(graph)
    remove_unused(model)
    onnx.checker.check_model(model)
    onnx.save(model, target / MODEL)
    shutil.copy(source / "tokenizer.json", target)


def calibration_texts(count: int = 96) -> list[str]:
    """Paragraphs of Python's documentation, which come with Python, how they begin, and odd ones."""
    texts = (text for topic in pydoc_data.topics.topics.values() for text in topic.split("\n\n"))
    paragraphs = sorted({text.strip() for text in texts if 20 < len(text) < 900})
    whole = paragraphs[:: len(paragraphs) // count][:count]
    short = [" ".join(text.split()[: 3 + place % 9]) for place, text in enumerate(whole)]
    return [*whole, *short, *ODD_TEXTS]


def calibrate(model: onnx.ModelProto, source: Path, scratch: Path) -> dict[str, np.ndarray]:
    """What comes into each product on the calibration texts, without padding: name -> (tokens, channels)."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type in ("MatMul", "Attention")))
    for name in names:
        watched.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    file = scratch / "watched.onnx"
    onnx.save(watched, file)
    session, tokenizer = open_session(file), TextTokenizer(source)
    file.unlink()
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for tokens in tokenizer.encode(calibration_texts()):
        ids, mask = padded([tokenizer.truncate(tokens, MOST_TOKENS)])
        for name, value in zip(names, session.run(names, {"input_ids": ids, "attention_mask": mask}), strict=True):
            seen[name].append(np.asarray(value)[0])
    return {name: np.concatenate(values) for name, values in seen.items()}


def quantize_product(inputs: np.ndarray, weight: np.ndarray, exponents: Sequence[float | None]) -> Quantized:
    """With the smoothing that leaves the smallest error in the product.

    Args:
        inputs: (tokens, rows). weight: (rows, columns).
    """
    sample = inputs[:: -(-len(inputs) // MOST_ROWS)]
    wanted = sample @ weight
    return min(
        candidates(inputs, weight, exponents), key=lambda one: float(np.mean((product(sample, one) - wanted) ** 2))
    )


def candidates(inputs: np.ndarray, weight: np.ndarray, exponents: Sequence[float | None]) -> Iterator[Quantized]:
    largest_in, largest_weight = (np.maximum(np.abs(one).max(axis), 1e-5) for one, axis in ((inputs, 0), (weight, 1)))
    for exponent in exponents:
        factors = None if exponent is None else largest_in**exponent / largest_weight ** (1 - exponent)
        smooth, rows = (inputs, weight) if factors is None else (inputs / factors, weight * factors[:, None])
        weight_scale = np.maximum(np.abs(rows).max(0), 1e-10) / 127
        low, high = min(0.0, float(smooth.min())), max(0.0, float(smooth.max()))
        scale = np.float32((high - low) / 255)
        yield Quantized(
            np.rint(rows / weight_scale).astype(np.int8),
            weight_scale.astype(np.float32),
            None if factors is None else (1 / factors).astype(np.float32),
            scale,
            np.uint8(np.clip(np.rint(-low / scale), 0, 255)),
        )


def product(inputs: np.ndarray, quantized: Quantized) -> np.ndarray:
    """The result of the quantized product."""
    smooth = inputs if quantized.smoothing is None else inputs * quantized.smoothing
    steps = np.clip(np.rint(smooth / quantized.scale) + quantized.zero, 0, 255) - quantized.zero
    return (steps.astype(np.float32) @ quantized.weight.astype(np.float32)) * (quantized.scale * quantized.weight_scale)


def replace_static(graph: Graph, node: onnx.NodeProto, quantized: Quantized) -> None:
    smooth, before = smoothed(graph, node, quantized)
    steps = f"{node.name}_steps"
    scale = graph.add(f"{node.name}_scale", np.asarray(quantized.scale))
    zero = graph.add(f"{node.name}_zero", np.asarray(quantized.zero))
    weight, weight_scale = add_weight(graph, node, quantized)
    before.append(helper.make_node("QuantizeLinear", [smooth, scale, zero], [steps]))
    if node.op_type == "Attention":
        after = attention(node, [steps, weight, node.input[2], scale, weight_scale, node.input[3], zero])
    else:
        names = [steps, weight, scale, weight_scale, zero]
        after = helper.make_node("MatMulIntegerToFloat", names, node.output, domain=MICROSOFT)
    graph.replace(node, *before, after)


def replace_dynamic(graph: Graph, node: onnx.NodeProto, quantized: Quantized) -> None:
    smooth, before = smoothed(graph, node, quantized)
    weight, weight_scale = add_weight(graph, node, quantized)
    if node.op_type == "Attention":
        steps, scale, zero = (f"{node.name}_{what}" for what in ("steps", "scale", "zero"))
        before.append(helper.make_node("DynamicQuantizeLinear", [smooth], [steps, scale, zero]))
        after = attention(node, [steps, weight, node.input[2], scale, weight_scale, node.input[3], zero])
    else:
        names = [smooth, weight, weight_scale]
        after = helper.make_node("DynamicQuantizeMatMul", names, node.output, domain=MICROSOFT)
    graph.replace(node, *before, after)


def smoothed(graph: Graph, node: onnx.NodeProto, quantized: Quantized) -> tuple[str, list[onnx.NodeProto]]:
    """The name of the smoothed input, and the node that makes it, if one is needed."""
    if quantized.smoothing is None:
        return node.input[0], []
    factors, smooth = graph.add(f"{node.name}_smoothing", quantized.smoothing), f"{node.name}_smooth"
    return smooth, [helper.make_node("Mul", [node.input[0], factors], [smooth])]


def add_weight(graph: Graph, node: onnx.NodeProto, quantized: Quantized) -> tuple[str, str]:
    weight = graph.add(f"{node.name}_weight_int8", quantized.weight)
    return weight, graph.add(f"{node.name}_weight_scale", quantized.weight_scale)


def attention(node: onnx.NodeProto, names: list[str]) -> onnx.NodeProto:
    quantized = helper.make_node("QAttention", names, node.output, domain=MICROSOFT)
    quantized.attribute.extend(node.attribute)
    return quantized


def quantize_table(graph: Graph) -> None:
    """The largest table that is looked up, that of words, half of the model: one scale for each row."""
    lookups = [node for node in graph.nodes if node.op_type == "Gather" and node.input[0] in graph.constants]
    node = max(lookups, key=lambda lookup: graph.constants[lookup.input[0]].size)
    table = graph.constants[node.input[0]]
    scale = np.maximum(np.abs(table).max(1, keepdims=True), 1e-10) / 127
    rows = graph.add(f"{node.name}_int8", np.rint(table / scale).astype(np.int8))
    scales = graph.add(f"{node.name}_scale", scale.astype(np.float32))
    steps, values, factors = (f"{node.name}_{what}" for what in ("steps", "values", "factors"))
    graph.replace(
        node,
        helper.make_node("Gather", [rows, node.input[1]], [steps]),
        helper.make_node("Cast", [steps], [values], to=onnx.TensorProto.FLOAT),
        helper.make_node("Gather", [scales, node.input[1]], [factors]),
        helper.make_node("Mul", [values, factors], node.output),
    )
