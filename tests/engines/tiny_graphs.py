"""ONNX graphs of a few nodes, in the layouts that the engines on ONNX Runtime load, written here node by node.

What exporting a real network gives is the business of the makers' tests. These are for all that an engine does around
its graphs: they take no exporter, and a run of theirs takes a millisecond."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
Shapes = Mapping[str, tuple[int, Sequence[int | str | None]]]


def graph(nodes: list[onnx.NodeProto], inputs: Shapes, outputs: Shapes, constants: Mapping[str, np.ndarray]):
    """A model. Inputs and outputs by name, each with its type and shape."""
    values = [[helper.make_tensor_value_info(name, *one) for name, one in some.items()] for some in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "tiny", *values, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def node(kind: str, inputs: str, output: str, **settings: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=output, **settings)


def drawn(seed: int, *shape: int, spread: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


FOUR_TIMES = np.float32([1, 1, 4, 4])
PIXELS = {"input": (TensorProto.UINT8, ["height", "width", 3])}
LARGE = {"output": (TensorProto.UINT8, None)}
# Pixels (height, width, 3) to floats (1, 3, height, width), and floats to pixels.
READ = [
    node("Transpose", "input", "turned", perm=[2, 0, 1]),
    node("Unsqueeze", "turned first", "one"),
    node("Cast", "one", "whole", to=TensorProto.FLOAT),
    node("Div", "whole most", "x"),
]
WRITE = [
    node("Clip", "y none full", "clipped"),
    node("Mul", "clipped most", "scaled"),
    node("Round", "scaled", "rounded"),
    node("Squeeze", "rounded first", "alone"),
    node("Transpose", "alone", "turned_back", perm=[1, 2, 0]),
    node("Cast", "turned_back", "output", to=TensorProto.UINT8),
]
PIXEL_CONSTANTS = {
    "first": np.int64([0]), "most": np.float32(255), "none": np.float32(0), "full": np.float32(1),
    "four_times": FOUR_TIMES,
}  # fmt: skip
ENLARGE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def compact_upscaler(folder: Path, features: int = 8) -> Path:
    """As SRVGGNetCompact, with one convolution between first and last: a chain, added to the enlarged picture."""
    constants = dict(PIXEL_CONSTANTS)
    for number, (outputs, inputs) in enumerate(((features, 3), (features, features), (48, features))):
        constants[f"w{number}"] = drawn(number, outputs, inputs, 3, 3, spread=0.1)
        constants[f"b{number}"] = drawn(10 + number, outputs, spread=0.1)
        constants[f"slope{number}"] = drawn(20 + number, outputs, 1, 1, spread=0.6)
    chain = [
        node("Conv", "x w0 b0", "c0", **SAME),
        node("PRelu", "c0 slope0", "p0"),
        node("Conv", "p0 w1 b1", "c1", **SAME),
        node("PRelu", "c1 slope1", "p1"),
        node("Conv", "p1 w2 b2", "c2", **SAME),
        node("DepthToSpace", "c2", "detail", blocksize=4, mode="CRD"),
        node("Resize", "x  four_times", "enlarged", **ENLARGE),
        node("Add", "detail enlarged", "y"),
    ]
    chain[-2].input[:] = ["x", "", "four_times"]
    del constants["slope2"]
    onnx.save(graph([*READ, *chain, *WRITE], PIXELS, LARGE, constants), folder / "draw.onnx")
    (folder / "config.json").write_text(json.dumps({"trunk_reach": 0, "draw_reach": 4}))
    return folder


def dense_upscaler(folder: Path, features: int = 8) -> Path:
    """As RRDBNet: a trunk of its own that sees three pixels far, and what draws its features four times as large."""
    constants = dict(PIXEL_CONSTANTS)
    for number, (outputs, inputs) in enumerate(
        ((features, 3), (features, features), (features, features), (3, features))
    ):
        constants[f"w{number}"] = drawn(30 + number, outputs, inputs, 3, 3, spread=0.1)
        constants[f"b{number}"] = drawn(40 + number, outputs, spread=0.3)
    trunk = [
        node("Conv", "x w0 b0", "c0", **SAME),
        node("Relu", "c0", "r0"),
        node("Conv", "r0 w1 b1", "c1", **SAME),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "features", **SAME),
    ]
    draw = [node("Resize", "features", "enlarged", **ENLARGE), node("Conv", "enlarged w3 b3", "y", **SAME)]
    draw[0].input[:] = ["features", "", "four_times"]
    values = (TensorProto.FLOAT, [1, features, "height", "width"])
    of_trunk = {name: value for name, value in constants.items() if name in {"first", "most"} or name[-1] in "012"}
    of_draw = {name: value for name, value in constants.items() if name in PIXEL_CONSTANTS or name[-1] == "3"}
    onnx.save(graph([*READ, *trunk], PIXELS, {"features": values}, of_trunk), folder / "trunk.onnx")
    onnx.save(graph([*draw, *WRITE], {"features": values}, LARGE, of_draw), folder / "draw.onnx")
    (folder / "config.json").write_text(json.dumps({"trunk_reach": 3, "draw_reach": 1}))
    return folder


def stable_diffusion(source: Path, folder: Path) -> Path:
    """The parts of tiny_diffusion.stable_diffusion's pipeline, whose configurations are kept, as graphs that are hardly
    networks: a table of tokens, a convolution that adds what the prompt means, an autoencoder that enlarges."""
    import torch

    from workshop.variants.export_images import MODEL, copy_configurations, load_pipeline

    pipe = load_pipeline(source, "unet", torch.float32)
    copy_configurations(pipe, source, folder)
    number, vocabulary, width = TensorProto.FLOAT, pipe.text_encoder.config.vocab_size, 32
    parts = {
        "text_encoder": graph(
            [node("Gather", "table input_ids", "last_hidden_state")],
            {"input_ids": (TensorProto.INT64, ["batch", "tokens"])},
            {"last_hidden_state": (number, ["batch", "tokens", width])},
            {"table": drawn(1, vocabulary, width, spread=3)},
        ),
        "unet": graph(
            [
                node("Conv", "sample w b", "seen", **SAME),
                node("ReduceMean", "encoder_hidden_states tokens", "read", keepdims=0),
                node("MatMul", "read meaning", "meant"),
                node("Unsqueeze", "meant sides", "everywhere"),
                node("Div", "timestep most", "late"),
                node("Unsqueeze", "late all", "later"),
                node("Add", "seen everywhere", "said"),
                node("Add", "said later", "out_sample"),
            ],
            {
                "sample": (number, ["batch", 4, "height", "width"]),
                "timestep": (number, ["batch"]),
                "encoder_hidden_states": (number, ["batch", "tokens", width]),
            },
            {"out_sample": (number, ["batch", 4, "height", "width"])},
            {
                "w": drawn(2, 4, 4, 3, 3, spread=0.1),
                "b": drawn(3, 4, spread=0.1),
                "tokens": np.int64([1]),
                "meaning": drawn(4, width, 4),
                "sides": np.int64([2, 3]),
                "all": np.int64([1, 2, 3]),
                "most": np.float32(1000),
            },
        ),
        "vae_decoder": graph(
            [node("Resize", "latent_sample", "enlarged", **ENLARGE), node("Conv", "enlarged w b", "sample", **SAME)],
            {"latent_sample": (number, ["batch", 4, "height", "width"])},
            {"sample": (number, ["batch", 3, "high", "wide"])},
            {"w": drawn(5, 3, 4, 3, 3, spread=0.03), "b": drawn(6, 3, spread=0.1), "four_times": FOUR_TIMES},
        ),
        "vae_encoder": graph(
            [
                node("AveragePool", "sample", "small", kernel_shape=[4, 4], strides=[4, 4]),
                node("Conv", "small w b", "latents", kernel_shape=[1, 1]),
            ],
            {"sample": (number, ["batch", 3, "high", "wide"])},
            {"latents": (number, ["batch", 8, "height", "width"])},
            {"w": drawn(7, 8, 3, 1, 1, spread=2), "b": drawn(8, 8)},
        ),
    }
    parts["vae_decoder"].graph.node[0].input[:] = ["latent_sample", "", "four_times"]
    for name, model in parts.items():
        (folder / name).mkdir(exist_ok=True)
        onnx.save(model, folder / name / MODEL)
    return folder
