"""Variants of upscalers: the same tiles, seams and ways to stop on every backend; the catalog's keep their floors, and
broken ones do not."""

import json
import time
from shutil import copytree

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from models.catalog import load_catalog
from models.engines.networks.real_esrgan import RRDBNet, SRVGGNetCompact
from models.engines.upscaling_onnx import OnnxUpscaling
from models.engines.upscaling_torch import TorchUpscaling
from models.errors import OutOfMemory
from models.evaluation.fidelity import below_floor
from models.evaluation.pictures import LARGEST_DB, other_kinds, psnr, scenes, ssim
from models.evaluation.upscaling import UpscalingSubject, compare, open_variant, shrunk, truths
from models.specs import Needs, VariantSpec
from models.variants import export_upscaling, quantize_upscaling
from models.weights import fetch

SPEC = load_catalog().resolve("realesr-animevideov3")
models = pytest.mark.models


def variant_of(**engine) -> VariantSpec:
    needs = {"cpus": 1, "memory_gib": 1}
    return VariantSpec.model_validate({"backend": "onnx", "precision": "fp32", "needs": needs, "engine": engine})


def noise(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """But for what floats round."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= 1


@pytest.fixture(scope="module", params=["compact", "dense"])
def tiny(request, tmp_path_factory):
    """A network with random weights, in torch and exported: its folder of ONNX, and the engine of torch."""
    network = SRVGGNetCompact(2) if request.param == "compact" else RRDBNet(1)
    config = {"architecture": "SRVGGNetCompact", "convolutions": 2}
    if request.param == "dense":
        config = {"architecture": "RRDBNet", "blocks": 1}
    drawn = torch.Generator().manual_seed(7)
    # PReLUs of upstream have slopes below 0 and above 1.
    state = {
        name: torch.randn(value.shape, generator=drawn) * (0.6 if value.ndim == 1 and "weight" in name else 0.05)
        for name, value in network.state_dict().items()
    }
    folder, unpacked = tmp_path_factory.mktemp("onnx"), tmp_path_factory.mktemp("torch")
    save_file(state, unpacked / "model.safetensors")
    (unpacked / "config.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_upscaling, "unpack", lambda source, target: copytree(source, target, dirs_exist_ok=True))
        export_upscaling.export(unpacked, folder)
    return folder, TorchUpscaling(unpacked, "cpu", torch.float32)


@pytest.mark.parametrize("size", [(24, 40), (61, 33), (1, 1), (2, 5)])
def test_the_exported_network_draws_what_torch_draws(tiny, size):
    folder, engine = tiny
    wanted = engine.upscale(noise(*size))
    assert wanted.std() > 1
    assert same(wanted, OnnxUpscaling(folder, variant_of()).upscale(noise(*size)))


@pytest.mark.parametrize("size", [(90, 70), (5, 300)])
def test_tiles_leave_no_seams(tiny, size):
    folder, _ = tiny
    whole = OnnxUpscaling(folder, variant_of(trunk_tile=4096, draw_tile=4096)).upscale(noise(*size))
    engine = OnnxUpscaling(folder, variant_of(trunk_tile=24, draw_tile=16))
    assert same(whole, engine.upscale(noise(*size)))
    engine.config |= {"trunk_reach": 0, "draw_reach": 0}
    assert not same(whole, engine.upscale(noise(*size)))


def test_it_can_be_stopped_in_the_middle_of_a_tile(tiny):
    folder, _ = tiny
    engine = OnnxUpscaling(folder, variant_of(trunk_tile=4096, draw_tile=4096))
    image = noise(500, 500)
    began = time.perf_counter()
    engine.upscale(image)
    whole = time.perf_counter() - began
    calls = []

    def stop_at_the_third() -> None:
        calls.append(time.perf_counter())
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale(image, stop_at_the_third)
    stopped = time.perf_counter()
    assert stopped - calls[-1] < whole / 2
    assert len(calls) == 3
    assert engine.upscale(noise(8, 8)).shape == (32, 32, 3)


def test_short_memory_is_met_with_smaller_tiles(tiny, monkeypatch):
    folder, _ = tiny
    engine = OnnxUpscaling(folder, variant_of(trunk_tile=128, draw_tile=128))
    image = noise(150, 150)
    wanted, draw, most = engine.upscale(image), engine.draw, 80 * 80

    def draw_small(features, rows, columns):
        if (rows.stop - rows.start) * (columns.stop - columns.start) > most:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 1")
        return draw(features, rows, columns)

    monkeypatch.setattr(engine, "draw", draw_small)
    assert same(wanted, engine.upscale(image))
    most = 10
    with pytest.raises(OutOfMemory, match="smaller"):
        engine.upscale(image)


def test_prelus_are_unfolded_and_channels_equalized_without_a_change(tiny, tmp_path):
    folder, engine = tiny
    model = onnx.load(folder / "draw.onnx")
    if not any(node.op_type == "PRelu" for node in model.graph.node):
        with pytest.raises(ValueError, match="no chain"):
            quantize_upscaling.quantize(folder, tmp_path)
        return
    before = onnx.load(folder / "draw.onnx")
    quantize_upscaling.equalize(model, [noise(20, 20)], tmp_path)
    quantize_upscaling.unfold_prelus(model)
    assert not any(node.op_type == "PRelu" for node in model.graph.node)
    moved = [
        not np.allclose(numpy_helper.to_array(a), numpy_helper.to_array(b))
        for a in before.graph.initializer
        for b in model.graph.initializer
        if a.name == b.name
    ]
    assert any(moved)
    onnx.save(model, tmp_path / "draw.onnx")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert same(engine.upscale(noise(30, 30)), OnnxUpscaling(tmp_path, variant_of()).upscale(noise(30, 30)))


def test_torch_compiled_can_be_stopped_between_tiles(tiny, monkeypatch):
    """What is compiled is left to torch; here it is what it was, so that the test takes no minute."""
    _, plain = tiny
    engine = TorchUpscaling.__new__(TorchUpscaling)
    engine.__dict__ |= plain.__dict__ | {"draw_tile": 16, "trunk_tile": 16}
    engine.compiled = {"trunk": plain.network.trunk, "draw": plain.network.draw}
    calls = []

    def stop() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale(noise(60, 60), stop)
    assert calls == [1]
    assert same(plain.upscale(noise(60, 60)), engine.upscale(noise(60, 60)))


def test_likeness_of_pictures():
    image = scenes(64, 9)["drawing"]
    assert psnr(image, image) == LARGEST_DB
    assert ssim(image, image) == pytest.approx(1)
    off_by_one = image.astype(int) + np.where(image < 255, 1, -1)
    assert psnr(image, off_by_one.astype(np.uint8)) == pytest.approx(48.13, abs=0.01)
    noisy = np.clip(image + np.random.default_rng(1).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    assert ssim(image, noisy) < 0.9 < ssim(image, off_by_one.astype(np.uint8))
    assert ssim(image, 255 - image) < 0.1


def test_ssim_is_that_of_its_paper():
    """One window of two constant pictures: only means count, and (2ab + c) / (a² + b² + c) is known."""
    a, b = np.full((11, 11), 100, np.uint8), np.full((11, 11), 150, np.uint8)
    constant = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + constant) / (100**2 + 150**2 + constant))


def test_scenes_repeat_and_differ():
    one, again, other = scenes(48, 1), scenes(48, 1), scenes(48, 2)
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert psnr(one[name], other[name]) < 25
    assert len(truths()) == 17


def test_pictures_of_other_kinds_are_what_they_are_called():
    other = other_kinds(64)
    assert {picture.shape for picture in other.values()} == {(64, 64, 3)}
    assert not other["flat"].std((0, 1)).any()
    assert set(np.unique(other["stripes"])) == {0, 255}
    assert tuple(other["ramps"][0, -1]) == (255, 0, 0)
    assert other["night"].max() < 40
    assert other["photograph"].std() > 50


def test_the_truth_is_nearer_to_itself():
    truth = dict(truths())
    blurred = {name: shrunk(image).repeat(4, 0).repeat(4, 1) for name, image in truth.items()}
    assert compare(truth, truth)["truth_lost"] == 0
    assert compare(truth, blurred)["truth_lost"] > 10
    assert compare(blurred, truth)["truth_lost"] < -10


@pytest.fixture(scope="module")
def reference():
    variant = SPEC.variant(SPEC.reference_variant)
    return answers_of(open_variant(SPEC, variant, fetch(SPEC, variant, lambda step: None)))


@pytest.fixture(scope="module")
def source():
    return fetch(SPEC, SPEC.variant("torch").model_copy(update={"artifact": None}), lambda step: None)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_upscaling.export(source, folder)
    return folder


@pytest.fixture(scope="module")
def quantized(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    quantize_upscaling.quantize(exported, folder)
    return folder


def answers_of(subject):
    return subject.answers(lambda done: None)


def judged(reference, folder) -> tuple[dict[str, float], str]:
    found = compare(reference, answers_of(UpscalingSubject(OnnxUpscaling(folder, variant_of()))))
    print({name: round(value, 4) for name, value in found.items()})
    return found, below_floor(SPEC, found)


@models
def test_the_exported_model_is_the_reference(reference, exported):
    found, broken = judged(reference, exported)
    assert not broken
    assert found["psnr_worst"] > 80


@models
def test_8_bits_keep_the_floor(reference, quantized):
    assert not judged(reference, quantized)[1]
    kinds = [node.op_type for node in onnx.load(quantized / "draw.onnx").graph.node]
    assert kinds.count("QuantizeLinear") >= 16


@models
def test_bf16_keeps_the_floor(reference):
    variant = SPEC.variant("torch-bf16")
    subject = open_variant(SPEC, variant, fetch(SPEC, variant, lambda step: None))
    assert not below_floor(SPEC, compare(reference, answers_of(subject)))


@models
def test_halves_keep_the_floor(reference, exported, tmp_path):
    from models.variants.quantize_onnx import half

    half(exported, tmp_path)
    assert (tmp_path / "draw.onnx").stat().st_size < 0.6 * (exported / "draw.onnx").stat().st_size
    assert not judged(reference, tmp_path)[1]


@models
def test_a_wrong_calibration_breaks_the_floor(reference, exported, tmp_path, monkeypatch):
    """With nothing but grey."""
    grey = {"grey": np.full((64, 64, 3), 128, np.uint8)}
    monkeypatch.setattr(quantize_upscaling, "scenes", lambda side, seed: grey)
    monkeypatch.setattr(quantize_upscaling, "CALIBRATION_BLOCKS", ())
    quantize_upscaling.quantize(exported, tmp_path)
    assert judged(reference, tmp_path)[1]


@models
def test_a_calibration_without_strong_contrast_breaks_the_floor(reference, exported, tmp_path, monkeypatch):
    """It is seen on stripes, which are nothing like the pictures of the calibration."""
    monkeypatch.setattr(quantize_upscaling, "CALIBRATION_BLOCKS", ())
    quantize_upscaling.quantize(exported, tmp_path)
    assert "Worst PSNR" in judged(reference, tmp_path)[1]


@models
def test_8_bits_are_nearer_with_equalized_channels(reference, exported, quantized, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize_upscaling, "equalize", lambda *_: None)
    quantize_upscaling.quantize(exported, tmp_path)
    plain, equal = (judged(reference, folder)[0] for folder in (tmp_path, quantized))
    assert equal["psnr"] > plain["psnr"] + 1
    assert equal["ssim"] > plain["ssim"]


@models
def test_perturbed_weights_break_the_floor(reference, exported, tmp_path):
    model, drawn = onnx.load(exported / "draw.onnx"), np.random.default_rng(3)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 4 and value.shape[-1] == 3:
            moved = value + 0.05 * value.std() * drawn.standard_normal(value.shape)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "draw.onnx")
    (tmp_path / "config.json").write_text((exported / "config.json").read_text())
    assert judged(reference, tmp_path)[1]


@models
@pytest.mark.parametrize("name", ["torch-gpu-compiled", "onnx-gpu-fp16", "onnx-gpu-tensorrt"])
def test_variants_for_a_gpu_say_so_where_there_is_none(exported, monkeypatch, name):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=r"GPU|ExecutionProvider"):
        open_variant(SPEC, SPEC.variant(name), exported)


@models
def test_a_variant_for_a_gpu_loads_on_a_cpu(exported):
    variant = SPEC.variant("onnx-gpu-tensorrt")
    engine = {name: value for name, value in variant.engine.items() if name != "provider"}
    swapped = variant.model_copy(update={"engine": engine, "needs": Needs(cpus=1, memory_gib=1)})
    assert open_variant(SPEC, swapped, exported).engine.upscale(noise(8, 8)).shape == (32, 32, 3)
