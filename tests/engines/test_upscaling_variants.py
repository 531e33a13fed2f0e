"""Variants of upscalers: the same tiles, seams and ways to stop on every backend; the catalog's keep their floors, and
broken ones do not."""

import json
import threading
from shutil import copytree

import numpy as np
import onnx
import pytest
import tiny_graphs
import torch
from onnx import numpy_helper
from onnxruntime import RunOptions
from patience import patience
from safetensors.torch import save_file

from models.catalog import load_catalog
from models.engines.networks.real_esrgan import RRDBNet, SRVGGNetCompact
from models.engines.onnx_session import open_session
from models.engines.upscaling_onnx import Engine as OnnxUpscaling
from models.engines.upscaling_torch import Engine as TorchUpscaling
from models.errors import OutOfMemory
from models.specs import Needs, VariantSpec
from workshop.evaluation import upscaling
from workshop.evaluation.fidelity import below_floor
from workshop.evaluation.pictures import LARGEST_DB, other_kinds, psnr, scenes, ssim
from workshop.evaluation.upscaling import UpscalingSubject, compare, open_variant, shrunk
from workshop.variants import export_upscaling, quantize_upscaling
from workshop.variants.quantize_onnx import half

SPEC = load_catalog().resolve("realesr-animevideov3")
variants = pytest.mark.variants


def variant_of(**engine) -> VariantSpec:
    needs = {"cpus": 1, "memory_gib": 1}
    return VariantSpec.model_validate({"backend": "onnx", "precision": "fp32", "needs": needs, "engine": engine})


def noise(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """But for what floats round."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b).max()) <= 1


@pytest.fixture(scope="module", params=[tiny_graphs.compact_upscaler, tiny_graphs.dense_upscaler])
def graphs(request, tmp_path_factory):
    """A folder of tiny graphs: one that draws alone, and two, of which one has the other's features."""
    return request.param(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("size", [(90, 70), (5, 300)])
def test_tiles_leave_no_seams(graphs, size):
    whole = OnnxUpscaling(graphs, variant_of(trunk_tile=4096, draw_tile=4096)).upscale(noise(*size))
    engine = OnnxUpscaling(graphs, variant_of(trunk_tile=24, draw_tile=16))
    assert whole.std() > 10
    assert same(whole, engine.upscale(noise(*size)))
    engine.config |= {"trunk_reach": 0, "draw_reach": 0}
    assert not same(whole, engine.upscale(noise(*size)))


class EndlessSession:
    """A session whose run ends only when it is told to."""

    def __init__(self):
        self.ended = threading.Event()

    def get_inputs(self):
        return [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.UINT8, None)]

    def run(self, outputs, inputs, options):
        waited = threading.Event()
        for _ in range(int(patience(60) / 0.01)):
            if options.terminate:
                self.ended.set()
                raise RuntimeError("Exiting due to terminate flag being set to true.")
            waited.wait(0.01)


def test_it_can_be_stopped_in_the_middle_of_a_tile(graphs, monkeypatch):
    engine, session = OnnxUpscaling(graphs, variant_of()), EndlessSession()
    monkeypatch.setattr(engine, "draw_session", session)
    monkeypatch.setattr(engine, "trunk_session", None)
    calls = []

    def stop_at_the_third() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale(noise(50, 50), stop_at_the_third)
    assert session.ended.is_set()
    assert len(calls) == 3
    monkeypatch.undo()
    assert engine.upscale(noise(8, 8)).shape == (32, 32, 3)


def test_the_runtime_ends_a_run_that_is_told_to(graphs):
    """What the test above stands in for."""
    options = RunOptions()
    options.terminate = True
    (first, *_) = sorted(graphs.glob("*.onnx"), reverse=True)
    with pytest.raises(Exception, match="terminate"):
        open_session(first).run(None, {"input": noise(20, 20)}, options)


def test_short_memory_is_met_with_smaller_tiles(graphs, monkeypatch):
    engine = OnnxUpscaling(graphs, variant_of(trunk_tile=128, draw_tile=128))
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


def test_prelus_are_unfolded_and_channels_equalized_without_a_change(tmp_path):
    folder = tiny_graphs.compact_upscaler(tmp_path)
    unfolded_and_equalized(folder, tmp_path, OnnxUpscaling(folder, variant_of()))


def unfolded_and_equalized(folder, target, engine):
    """What comes before rounding moves the weights of a network and draws what `engine` draws."""
    before, model = (onnx.load(folder / "draw.onnx") for _ in range(2))
    wanted = engine.upscale(noise(30, 30))
    assert wanted.std() > 10
    quantize_upscaling.equalize(model, [noise(20, 20)], target)
    quantize_upscaling.unfold_prelus(model)
    assert not any(node.op_type == "PRelu" for node in model.graph.node)
    moved = [
        not np.allclose(numpy_helper.to_array(a), numpy_helper.to_array(b))
        for a in before.graph.initializer
        for b in model.graph.initializer
        if a.name == b.name
    ]
    assert any(moved)
    onnx.save(model, target / "draw.onnx")
    (target / "config.json").write_text((folder / "config.json").read_text())
    assert same(wanted, OnnxUpscaling(target, variant_of()).upscale(noise(30, 30)))


def test_what_is_no_chain_has_no_form_in_8_bits(tmp_path):
    folder = tiny_graphs.dense_upscaler(tmp_path)
    with pytest.raises(ValueError, match="not a chain"):
        quantize_upscaling.quantize(folder, tmp_path)


def test_torch_compiled_can_be_stopped_between_tiles(tmp_path):
    """What is compiled is left to torch; here it is what it was, so that the test takes no minute."""
    plain = torch_upscaler(tmp_path, SRVGGNetCompact(1), {"architecture": "SRVGGNetCompact", "convolutions": 1})
    engine = TorchUpscaling.__new__(TorchUpscaling)
    engine.__dict__ |= plain.__dict__ | {"draw_tile": 16, "trunk_tile": 16}
    engine.compiled = {"trunk": plain.network.trunk, "draw": plain.network.draw}
    calls = []

    def stop() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.upscale(noise(40, 40), stop)
    assert calls == [1]
    assert same(plain.upscale(noise(40, 40)), engine.upscale(noise(40, 40)))


def torch_upscaler(folder, network, config) -> TorchUpscaling:
    """A network with random weights."""
    drawn = torch.Generator().manual_seed(7)
    # PReLUs of upstream have slopes below 0 and above 1.
    state = {
        name: torch.randn(value.shape, generator=drawn) * (0.6 if value.ndim == 1 and "weight" in name else 0.05)
        for name, value in network.state_dict().items()
    }
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return TorchUpscaling(folder, "cpu", torch.float32)


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
    a, b = np.full((11, 11, 3), 100, np.uint8), np.full((11, 11, 3), 150, np.uint8)
    constant = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + constant) / (100**2 + 150**2 + constant))


def test_scenes_repeat_and_differ():
    one, again, other = scenes(48, 1), scenes(48, 1), scenes(48, 2)
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert psnr(one[name], other[name]) < 25


def test_pictures_of_other_kinds_are_what_they_are_called():
    other = other_kinds(64)
    assert {picture.shape for picture in other.values()} == {(64, 64, 3)}
    assert not other["flat"].std((0, 1)).any()
    assert set(np.unique(other["stripes"])) == {0, 255}
    assert tuple(other["ramps"][0, -1]) == (255, 0, 0)
    assert other["night"].max() < 40
    assert other["photograph"].std() > 50


def test_the_set_has_every_kind_of_picture_of_every_seed(monkeypatch):
    """Drawn small, which is what takes long about it."""
    monkeypatch.setattr(upscaling, "SIDE", 8)
    names = upscaling.truths.__wrapped__()
    assert len(names) == len(upscaling.SEEDS) * len(scenes(8, 1)) + len(other_kinds(8))
    assert {picture.shape for picture in names.values()} == {(32, 32, 3)}


def test_the_truth_is_nearer_to_itself(monkeypatch):
    truth = {**scenes(64, 4), **other_kinds(64)}
    monkeypatch.setattr(upscaling, "truths", lambda: truth)
    blurred = {name: shrunk(image).repeat(4, 0).repeat(4, 1) for name, image in truth.items()}
    assert compare(truth, truth)["truth_lost"] == 0
    assert compare(truth, blurred)["truth_lost"] > 10
    assert compare(blurred, truth)["truth_lost"] < -10


@pytest.fixture(scope="module", params=["compact", "dense"])
def tiny(request, artifacts, tmp_path_factory):
    """A network with random weights, in torch and exported: its folder of ONNX, and the engine of torch."""
    network = SRVGGNetCompact(2) if request.param == "compact" else RRDBNet(1)
    config = {"architecture": "SRVGGNetCompact", "convolutions": 2}
    if request.param == "dense":
        config = {"architecture": "RRDBNet", "blocks": 1}
    unpacked = tmp_path_factory.mktemp("torch")
    engine = torch_upscaler(unpacked, network, config)

    def export(target) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                export_upscaling, "unpack", lambda source, target: copytree(source, target, dirs_exist_ok=True)
            )
            export_upscaling.export(unpacked, target)

    return artifacts.made(f"tiny-upscaler-{request.param}", export), engine


@variants
@pytest.mark.parametrize("size", [(24, 40), (61, 33), (1, 1), (2, 5)])
def test_the_exported_network_draws_what_torch_draws(tiny, size):
    folder, engine = tiny
    wanted = engine.upscale(noise(*size))
    assert wanted.std() > 1
    assert same(wanted, OnnxUpscaling(folder, variant_of()).upscale(noise(*size)))
    small = OnnxUpscaling(folder, variant_of(trunk_tile=24, draw_tile=16))
    assert same(wanted, small.upscale(noise(*size)))


@variants
def test_exported_prelus_are_unfolded_and_channels_equalized_without_a_change(tiny, tmp_path):
    folder, engine = tiny
    if (folder / "trunk.onnx").exists():
        with pytest.raises(ValueError, match="not a chain"):
            quantize_upscaling.quantize(folder, tmp_path)
    else:
        unfolded_and_equalized(folder, tmp_path, engine)


@pytest.fixture(scope="module")
def reference(artifacts):
    variant = SPEC.variant(SPEC.reference_variant)
    folder = artifacts.of(SPEC, SPEC.reference_variant)
    return artifacts.answers(SPEC.id, lambda: answers_of(open_variant(SPEC, variant, folder)))


@pytest.fixture(scope="module")
def exported(artifacts):
    return artifacts.of(SPEC, "onnx")


@pytest.fixture(scope="module")
def quantized(artifacts):
    return artifacts.of(SPEC, "onnx-int8")


def answers_of(subject):
    return subject.answers(lambda done: None)


def judged(reference, folder) -> tuple[dict[str, float], str]:
    found = compare(reference, answers_of(UpscalingSubject(OnnxUpscaling(folder, variant_of()))))
    print({name: round(value, 4) for name, value in found.items()})
    return found, below_floor(SPEC, found)


@variants
def test_the_exported_model_is_the_reference(reference, exported):
    found, broken = judged(reference, exported)
    assert not broken
    assert found["psnr_worst"] > 80


@variants
def test_8_bits_keep_the_floor(reference, quantized):
    assert not judged(reference, quantized)[1]
    kinds = [node.op_type for node in onnx.load(quantized / "draw.onnx").graph.node]
    assert kinds.count("QuantizeLinear") >= 16


@variants
def test_bf16_keeps_the_floor(reference, artifacts):
    variant = SPEC.variant("torch-bf16")
    subject = open_variant(SPEC, variant, artifacts.of(SPEC, "torch-bf16"))
    assert not below_floor(SPEC, compare(reference, answers_of(subject)))


@variants
def test_halves_keep_the_floor(reference, exported, tmp_path):
    half(exported, tmp_path)
    assert (tmp_path / "draw.onnx").stat().st_size < 0.6 * (exported / "draw.onnx").stat().st_size
    assert not judged(reference, tmp_path)[1]


@variants
def test_a_wrong_calibration_breaks_the_floor(reference, exported, tmp_path, monkeypatch):
    """With nothing but grey."""
    grey = {"grey": np.full((64, 64, 3), 128, np.uint8)}
    monkeypatch.setattr(quantize_upscaling, "scenes", lambda side, seed: grey)
    monkeypatch.setattr(quantize_upscaling, "CALIBRATION_BLOCKS", ())
    quantize_upscaling.quantize(exported, tmp_path)
    assert judged(reference, tmp_path)[1]


@variants
def test_a_calibration_without_strong_contrast_breaks_the_floor(reference, exported, artifacts, monkeypatch):
    """It is seen on stripes, which are nothing like the pictures of the calibration."""
    monkeypatch.setattr(quantize_upscaling, "CALIBRATION_BLOCKS", ())
    folder = artifacts.made("upscaler-without-contrast", lambda target: quantize_upscaling.quantize(exported, target))
    assert "Worst PSNR" in judged(reference, folder)[1]


@variants
def test_8_bits_are_nearer_with_equalized_channels(reference, exported, quantized, artifacts, monkeypatch):
    monkeypatch.setattr(quantize_upscaling, "equalize", lambda *_: None)
    unequal = artifacts.made("upscaler-unequal", lambda target: quantize_upscaling.quantize(exported, target))
    plain, equal = (judged(reference, folder)[0] for folder in (unequal, quantized))
    assert equal["psnr"] > plain["psnr"] + 1
    assert equal["ssim"] > plain["ssim"]


@variants
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


@pytest.mark.parametrize("name", ["torch-gpu-compiled", "onnx-gpu-fp16", "onnx-gpu-tensorrt"])
def test_variants_for_a_gpu_say_so_where_there_is_none(monkeypatch, tmp_path, name):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match=r"GPU|ExecutionProvider"):
        open_variant(SPEC, SPEC.variant(name), tiny_graphs.compact_upscaler(tmp_path))


def test_a_variant_for_a_gpu_loads_on_a_cpu(tmp_path):
    exported = tiny_graphs.compact_upscaler(tmp_path)
    variant = SPEC.variant("onnx-gpu-tensorrt")
    engine = {name: value for name, value in variant.engine.items() if name != "provider"}
    swapped = variant.model_copy(update={"engine": engine, "needs": Needs(cpus=1, memory_gib=1)})
    assert open_variant(SPEC, swapped, exported).engine.upscale(noise(8, 8)).shape == (32, 32, 3)
