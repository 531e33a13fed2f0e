"""Fuses conditional instance normalisation, exported as ten operators, into one."""

from __future__ import annotations

import onnx
from onnx import helper

from workshop.variants.fuse_attention import Graph, remove_unused


def fuse(model: onnx.ModelProto) -> int:
    """Rewrite (x - mean) * (1 / sqrt(variance + epsilon)) * scale + bias, in place, where scale and bias are of shape
    (channels,) and reshaped. Returns the number of fused ones.

    Raises:
        ValueError: the graph has a square root in another pattern.
    """
    graph = Graph(model)
    roots = [node for node in graph.nodes if node.op_type == "Sqrt"]
    for root in roots:
        stabilised = graph.maker(root.input[0], "Add")
        variance = graph.maker(stabilised.input[0], "ReduceMean")
        centred = graph.maker(graph.maker(variance.input[0], "Pow").input[0], "Sub")
        normal = graph.user(graph.user(root.output[0], "Div").output[0], "Mul")
        scaled = graph.user(normal.output[0], "Mul")
        moved = graph.user(scaled.output[0], "Add")
        scale, bias = (graph.maker(node.input[1], "Reshape").input[0] for node in (scaled, moved))
        epsilon = float(graph.constants[stabilised.input[1]])
        whole = helper.make_node(
            "InstanceNormalization",
            [centred.input[0], scale, bias],
            moved.output,
            name=f"{root.name}_whole",
            epsilon=epsilon,
        )
        graph.replace(moved, whole)
    remove_unused(model)
    return len(roots)
