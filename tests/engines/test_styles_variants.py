"""Variants of the style model: rewritten operators compute the same; the catalog's variants keep the floors, and broken
ones do not."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from models.catalog import load_catalog
from models.specs import Needs
from workshop.evaluation.fidelity import below_floor
from workshop.evaluation.pictures import scenes
from workshop.evaluation.styles import compare, open_variant, style_distance
from workshop.variants import fuse_styles
from workshop.variants.block_convolutions import block
from workshop.variants.fuse_attention import Graph
from workshop.variants.fuse_norms import fuse as fuse_norms
from workshop.variants.quantize_onnx import half

SPEC = load_catalog().resolve("magenta-styles")
variants = pytest.mark.variants
NAMED, PAINTER = "multistyle26.onnx", "arbitrary_transform.onnx"
DRAWN = np.random.default_rng(4)


def network(nodes, constants: dict[str, np.ndarray], channels: int) -> onnx.ModelProto:
    """x of (1, channels, height, width) to y."""
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, channels, "height", "width"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bias", [True, False])
def test_a_wide_convolution_in_blocks_is_the_same(bias):
    constants = {"w": DRAWN.standard_normal((3, 5, 9, 9)).astype(np.float32), "b": np.float32([1, 2, 3])}
    names = ["x", "w", "b"] if bias else ["x", "w"]
    model = network([helper.make_node("Conv", names, ["y"], name="c", kernel_shape=[9, 9])], constants, 5)
    x = DRAWN.standard_normal((1, 5, 48, 40)).astype(np.float32)
    wanted = run(model, x)
    assert block(model) == 1
    assert kinds(model) == ["SpaceToDepth", "Conv", "DepthToSpace"]
    np.testing.assert_allclose(run(model, x), wanted, atol=1e-3)
    assert wanted.shape == (1, 3, 40, 32)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((3, 5, 3, 3), {}), ((32, 5, 9, 9), {}), ((3, 5, 9, 9), {"strides": [2, 2]}), ((3, 5, 9, 9), {"pads": [4] * 4})],
)
def test_other_convolutions_are_left_alone(shape, settings):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", kernel_shape=list(shape[2:]), **settings)
    model = network([node], {"w": DRAWN.standard_normal(shape).astype(np.float32)}, 5)
    assert block(model) == 0
    assert kinds(model) == ["Conv"]


def written_out_norm(epsilon: float = 1e-3) -> onnx.ModelProto:
    constants = {
        "two": np.float32(2), "e": np.float32(epsilon), "one": np.float32(1), "shape": np.int64([1, 4, 1, 1]),
        "gamma": np.float32([1, 2, 3, 4]), "beta": np.float32([4, 3, 2, 1]),
    }  # fmt: skip
    mean = {"axes": [2, 3], "keepdims": 1}
    nodes = [
        helper.make_node("Identity", ["gamma"], ["scale"]),
        helper.make_node("Identity", ["beta"], ["bias"]),
        helper.make_node("Reshape", ["scale", "shape"], ["scale4"]),
        helper.make_node("Reshape", ["bias", "shape"], ["bias4"]),
        helper.make_node("ReduceMean", ["x"], ["m"], **mean),
        helper.make_node("Sub", ["x", "m"], ["centred"]),
        helper.make_node("Pow", ["centred", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], **mean),
        helper.make_node("Add", ["variance", "e"], ["stable"]),
        helper.make_node("Sqrt", ["stable"], ["root"], name="root"),
        helper.make_node("Div", ["one", "root"], ["inverse"]),
        helper.make_node("Mul", ["centred", "inverse"], ["normal"]),
        helper.make_node("Mul", ["normal", "scale4"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias4"], ["y"]),
    ]
    return network(nodes, constants, 4)


def test_a_norm_that_is_written_out_becomes_one_operator():
    model, x = written_out_norm(), DRAWN.standard_normal((1, 4, 9, 7)).astype(np.float32) * 3
    wanted = run(model, x)
    assert fuse_norms(model) == 1
    assert kinds(model) == ["Identity", "Identity", "InstanceNormalization"]
    np.testing.assert_allclose(run(model, x), wanted, atol=1e-4)


def test_another_square_root_is_not_taken_for_a_norm():
    model = network([helper.make_node("Sqrt", ["x"], ["y"])], {}, 4)
    with pytest.raises(ValueError, match="Add"):
        fuse_norms(model)


def test_style_distance_is_of_looks_and_not_of_places():
    one, other = scenes(128, 5)["texture"], scenes(128, 6)["texture"]
    assert style_distance(one, one) == 0
    moved = style_distance(one, np.roll(one, (13, 40), (0, 1)))
    blurred = np.repeat(np.repeat(one[::4, ::4], 4, 0), 4, 1)
    assert moved < 0.05
    assert moved < style_distance(one, other)
    assert style_distance(one, blurred) > 0.1
    assert style_distance(one, np.roll(one, 1, axis=2) // 2) > 0.2


@pytest.fixture(scope="module")
def freed(artifacts):
    return artifacts.of(SPEC, "onnx")


@pytest.fixture(scope="module")
def reference(freed, artifacts):
    return artifacts.answers(SPEC.id, lambda: answers_of(freed))


def answers_of(folder):
    return open_variant(SPEC, SPEC.variant("onnx"), folder).answers(lambda done: None)


def judged(reference, folder) -> tuple[dict[str, float], str]:
    found = compare(reference, answers_of(folder))
    print({name: round(value, 4) for name, value in found.items()})
    return found, below_floor(SPEC, found)


def with_graph(freed, folder, name: str, model: onnx.ModelProto):
    """The reference's folder with one graph in the place of its own."""
    for file in freed.glob("*.onnx"):
        (folder / file.name).write_bytes(file.read_bytes())
    onnx.save(model, folder / name)
    return folder


@variants
def test_fused_networks_are_the_reference(reference, freed, tmp_path):
    fuse_styles.fuse(freed, tmp_path)
    found, broken = judged(reference, tmp_path)
    assert not broken
    assert found["psnr_named"] > 80
    assert found["psnr_pictures"] > 50
    assert kinds(onnx.load(tmp_path / NAMED)).count("InstanceNormalization") == 18
    assert kinds(onnx.load(tmp_path / PAINTER)).count("SpaceToDepth") == 2


@variants
def test_halves_keep_the_floor(reference, freed, tmp_path):
    half(freed, tmp_path)
    assert not judged(reference, tmp_path)[1]


@variants
@pytest.mark.parametrize("name", ["onnx-gpu", "onnx-gpu-fp16", "onnx-gpu-tensorrt"])
def test_variants_for_a_gpu_say_so_where_there_is_none_and_load_on_a_cpu(freed, monkeypatch, name):
    variant = SPEC.variant(name)
    swapped = variant.model_copy(update={"engine": {}, "needs": Needs(cpus=1, memory_gib=1)})
    image = scenes(40, 1)["drawing"]
    assert open_variant(SPEC, swapped, freed).engine.stylize(image, "charcoal").shape == image.shape
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match="ExecutionProvider"):
        open_variant(SPEC, variant, freed)


@variants
@pytest.mark.parametrize("name", [NAMED, PAINTER])
def test_perturbed_weights_break_the_floor(reference, freed, tmp_path, name):
    model, drawn = onnx.load(freed / name), np.random.default_rng(3)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 4:
            moved = value + 0.2 * value.std() * drawn.standard_normal(value.shape)
            whole = np.clip(np.rint(moved), -127, 127) if value.dtype == np.int8 else moved
            tensor.CopyFrom(numpy_helper.from_array(whole.astype(value.dtype), tensor.name))
    assert judged(reference, with_graph(freed, tmp_path, name, model))[1]


@variants
def test_a_left_out_operator_breaks_the_floor(reference, freed, tmp_path):
    model = onnx.load(freed / NAMED)
    graph = Graph(model)
    first = next(node for node in graph.nodes if node.op_type == "Relu")
    graph.replace(first, helper.make_node("Identity", first.input, first.output))
    assert judged(reference, with_graph(freed, tmp_path, NAMED, model))[1]


@variants
def test_a_mixed_up_style_breaks_the_floor(reference):
    """Styles in another order: each painting is a good one, of another style."""
    right, wrong = reference, dict(reference)
    named = [name for name in wrong if name.startswith("named/")]
    turned = dict(wrong) | {name: wrong[other] for name, other in zip(named, named[3:] + named[:3], strict=True)}
    found = compare(right, turned)
    assert below_floor(SPEC, found)
    assert found["style_distance"] > SPEC.fidelity["style_distance"]
