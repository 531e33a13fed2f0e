"""Attention of an exported BERT-like encoder as one operator of ONNX Runtime, which can be quantized as one.

ONNX Runtime's own optimizer for transformers does not know the pattern that torch exports.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"


class Graph:
    """A model's graph with its edges and constants by name."""

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.nodes = model.graph.node
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.makers: dict[str, onnx.NodeProto] = {}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            self.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.users[name].append(node)

    def maker(self, name: str, kind: str) -> onnx.NodeProto:
        """The node that makes a value. Raises ValueError if it is not of this kind."""
        node = self.makers.get(name)
        if node is None or node.op_type != kind:
            raise ValueError(f"{name} should be made by a {kind}, not by {node.op_type if node else 'nothing'}")
        return node

    def user(self, name: str, kind: str) -> onnx.NodeProto:
        """The only node that uses a value. Raises ValueError if there are others, or if it is not of this kind."""
        nodes = self.users[name]
        if len(nodes) != 1 or nodes[0].op_type != kind:
            raise ValueError(f"{name} should be used by one {kind}, not by {[node.op_type for node in nodes]}")
        return nodes[0]

    def add(self, name: str, value: np.ndarray) -> str:
        """A new constant. Returns its name."""
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        self.constants[name] = value
        return name

    def replace(self, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Replace a node with others."""
        place = next(index for index, node in enumerate(self.nodes) if node.output == old.output)
        del self.nodes[place]
        for node in reversed(new):
            self.nodes.insert(place, node)


def fuse(model: onnx.ModelProto, heads: int) -> onnx.ModelProto:
    """Rewrite every attention and every GELU after a bias, in place.

    Raises:
        ValueError: the graph is not one of `export_onnx.export_embeddings`.
    """
    graph = Graph(model)
    softmaxes = [node for node in graph.nodes if node.op_type == "Softmax"]
    if not softmaxes:
        raise ValueError("the graph has no attention")
    for softmax in softmaxes:
        _fuse_attention(graph, softmax, heads)
    for gelu in [node for node in graph.nodes if node.op_type == "Gelu"]:
        bias = graph.maker(gelu.input[0], "Add")
        graph.replace(gelu, helper.make_node("BiasGelu", bias.input, gelu.output, domain=MICROSOFT, name=gelu.name))
    mask = helper.make_node("Cast", ["attention_mask"], ["attention_mask_int32"], to=onnx.TensorProto.INT32)
    graph.nodes.insert(0, mask)
    if all(known.domain != MICROSOFT for known in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    remove_unused(model)
    return model


def _fuse_attention(graph: Graph, softmax: onnx.NodeProto, heads: int) -> None:
    """Softmax(Q K^T * scale + mask) V, with Q, K and V each made by a product and a bias from one input."""
    scaled = graph.maker(graph.maker(softmax.input[0], "Add").input[0], "Mul")
    scores = graph.maker(scaled.input[0], "MatMul")
    mixed = graph.user(softmax.output[0], "MatMul")
    joined = graph.user(graph.user(mixed.output[0], "Transpose").output[0], "Reshape")
    inputs, weights, biases = set(), [], []
    for turned in (scores.input[0], scores.input[1], mixed.input[1]):
        bias = graph.maker(graph.maker(graph.maker(turned, "Transpose").input[0], "Reshape").input[0], "Add")
        product = graph.maker(bias.input[0], "MatMul")
        inputs.add(product.input[0])
        weights.append(graph.constants[product.input[1]])
        biases.append(graph.constants[bias.input[1]])
    (states,) = inputs
    weight = graph.add(f"{softmax.name}_weight", np.concatenate(weights, axis=1))
    bias = graph.add(f"{softmax.name}_bias", np.concatenate(biases))
    attention = helper.make_node(
        "Attention",
        [states, weight, bias, "attention_mask_int32"],
        joined.output,
        name=f"{softmax.name}_attention",
        domain=MICROSOFT,
        num_heads=heads,
        scale=float(graph.constants[scaled.input[1]]),
    )
    graph.replace(joined, attention)


def remove_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and constants that no output needs, and noted shapes, which may be wrong now."""
    graph, wanted = model.graph, {output.name for output in model.graph.output}
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)
    kept = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
