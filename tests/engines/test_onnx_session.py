"""ONNX Runtime sessions: the provider that was asked for or an error, threads, and runs by several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime import OrtValue

from models.engines import onnx_session
from models.engines.onnx_session import open_session, open_session_of, run_on_device
from models.specs import VariantSpec

SIDE = 64


@pytest.fixture
def file(tmp_path):
    """y = relu(x @ w) @ w, on which a run spends a moment."""
    weight = np.random.default_rng(1).standard_normal((SIDE, SIDE)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", SIDE]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def variant(cpus: float = 1, gpus: float = 0, **engine) -> VariantSpec:
    needs = {"cpus": cpus, "gpus": gpus, "memory_gib": 1}
    return VariantSpec.model_validate({"backend": "onnx", "precision": "fp32", "needs": needs, "engine": engine})


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, SIDE)).astype(np.float32)


@pytest.mark.parametrize(
    ("asked", "named", "installed"),
    [
        ({"gpus": 1}, "CUDAExecutionProvider", "onnxruntime-gpu"),
        ({"provider": "cuda"}, "CUDAExecutionProvider", "onnxruntime-gpu"),
        ({"gpus": 1, "provider": "tensorrt"}, "TensorrtExecutionProvider", "tensorrt"),
    ],
)
def test_a_missing_provider_is_an_error_that_says_what_to_install(file, monkeypatch, asked, named, installed):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=named) as error:
        open_session(file, **asked)
    assert installed in str(error.value)
    assert "CPU variant" in str(error.value)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_dropped_when_it_starts_is_an_error(file, monkeypatch, provider):
    """What onnxruntime-gpu does where CUDA's libraries are not: it lists the provider, and then uses the CPU."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(onnx_session.PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    on_cpu = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    monkeypatch.setattr(onnx_session, "InferenceSession", lambda *_, **__: on_cpu)
    with pytest.raises(RuntimeError, match="could not start"):
        open_session(file, 1, provider=provider)


def test_tensorrt_keeps_its_engines_beside_the_model_and_has_cuda_behind_it(file, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(onnx_session.PROVIDERS.values()))
    providers = onnx_session.providers_for("tensorrt", file)
    assert [name for name, _ in providers] == [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    options = providers[0][1]
    assert options["trt_engine_cache_enable"]
    assert (file.parent / "tensorrt").is_dir()
    assert options["trt_engine_cache_path"] == str(file.parent / "tensorrt")


def test_an_unknown_provider_is_an_error(file):
    with pytest.raises(ValueError, match="cpu, cuda, tensorrt"):
        open_session(file, provider="rocket")


@pytest.mark.parametrize(
    ("environment", "asked", "wanted"),
    [(None, {"cpus": 4}, 4), (None, {"cpus": 0.1}, 1), ("2", {"cpus": 4}, 2), ("2", {"cpus": 4, "threads": 3}, 3)],
)
def test_threads_are_the_share_of_the_replica(file, monkeypatch, environment, asked, wanted):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    options = open_session_of(variant(**asked), file).get_session_options()
    assert options.intra_op_num_threads == wanted
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_session_is_run_by_several_threads_at_once(file):
    session = open_session(file)
    inputs = [rows(1 + number % 7, number) for number in range(64)]
    alone = [session.run(None, {"x": value})[0] for value in inputs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda value: session.run(None, {"x": value})[0], inputs * 4))
        bound = list(threads.map(lambda value: run_on_device(session, {"x": value})["y"].numpy(), inputs * 4))
    for one, other, on_device in zip(alone * 4, together, bound, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, on_device)


def test_what_runs_on_the_device_goes_from_session_to_session(file):
    session = open_session(file)
    first = run_on_device(session, {"x": rows(3)})["y"]
    assert first.device_name() == "cpu"
    second = run_on_device(session, {"x": first})["y"].numpy()
    (wanted,) = session.run(None, {"x": session.run(None, {"x": rows(3)})[0]})
    np.testing.assert_array_equal(second, wanted)


def test_a_torch_tensor_is_bound_without_a_copy(file):
    tensor = torch.from_numpy(rows(2))
    value = OrtValue.from_dlpack(tensor)
    assert value.data_ptr() == tensor.data_ptr()
    session = open_session(file)
    np.testing.assert_array_equal(
        run_on_device(session, {"x": value})["y"].numpy(), session.run(None, {"x": rows(2)})[0]
    )


@pytest.mark.parametrize("in_8_bits", [True, False])
def test_what_is_quantized_is_multiplied_without_clipping(tmp_path, in_8_bits):
    """Largest times largest, on which CPUs without VNNI clip unless they are told not to."""
    scale, zero = np.float32(1 / 255), np.uint8(0)
    weights = np.full((SIDE, SIDE), 127, np.int8)
    constants = {"s": scale, "z": zero, "w8": weights, "ws": np.float32(1 / 127), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", SIDE]) for name in "xy")
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "q.onnx")
    (found,) = open_session(tmp_path / "q.onnx", in_8_bits=in_8_bits).run(None, {"x": np.ones((3, SIDE), np.float32)})
    np.testing.assert_allclose(found, SIDE, rtol=1e-3)
