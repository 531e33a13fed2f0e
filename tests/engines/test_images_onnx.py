"""Image models on ONNX Runtime make the pictures that they make on diffusers, for every architecture they are exported
from; and what a graph cannot do is said."""

import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from tiny_diffusion import load, make, photograph, picture

from models.engines import onnx_session
from models.engines.images_onnx import OnnxImages, parts
from models.engines.images_onnx.engine import Options
from models.errors import ContextLengthExceeded, InvalidRequest, OutOfMemory
from models.tasks.images import Adapter, ControlPicture
from models.variants.export_images import export

# name -> how its folder is made: a variational autoencoder and noise; two text encoders; a UNet that knows masks and
# takes its guidance as an input, with a small autoencoder
KINDS = {
    "sd": (tiny.stable_diffusion, {}),
    "sdxl": (tiny.stable_diffusion_xl, {}),
    "inpainting": (tiny.stable_diffusion, {"channels": 9, "tiny_vae": True, "time_cond_proj_dim": 16}),
}
MASK = np.zeros((32, 32), np.float32)
MASK[8:24, 12:28] = 1


def load_onnx(folder, precision="fp32", **needs):
    variants = {
        "cpu": {
            "backend": "onnx",
            "precision": precision,
            "needs": {"cpus": 1, "memory_gib": 1, **needs.pop("needs", {})},
            "engine": needs,
        }
    }
    model = tiny.spec(folder, variants=variants)
    return OnnxImages.load(model, model.variant(None), folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By name, the engine on diffusers and the engine on ONNX Runtime; exported once, when first asked for."""
    made = {}

    def pair(name):
        if name not in made:
            source, target = tmp_path_factory.mktemp(name), tmp_path_factory.mktemp(f"{name}-onnx")
            build, options = KINDS[name]
            build(source, **options)
            export(source, target)
            made[name] = load(source), load_onnx(target)
        return made[name]

    return pair


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.std() > 8  # not just grey
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.models
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_prompt": "blurry", "seed": 3},
        {"guidance": 1.0},
        {"scheduler": "euler-ancestral", "steps": 5},
        {"scheduler": "pndm", "width": 48, "height": 16},
        {"width": 40, "height": 56},
        {"width": 24, "height": 32, "image": photograph()[:, :24], "strength": 0.6},
        {"image": photograph(), "mask": MASK, "strength": 0.8},
        {"image": photograph(), "mask": MASK},
    ],
    ids=str,
)
def test_the_same_pictures_as_on_diffusers(pairs, name, changes):
    """Also of sizes that the network cannot halve evenly, such as 10 x 14 latents."""
    theirs, ours = pairs(name)
    assert_same(make(ours, picture(**changes)), make(theirs, picture(**changes)))


@pytest.mark.models
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_different_steps_is_the_same_as_one_by_one(pairs, name):
    """With and without guidance, with previews on the way."""
    _, engine = pairs(name)
    wanted = [picture(seed=1, steps=3), picture(seed=2, steps=6, guidance=1.0), picture(seed=3, steps=4, prompt="dog")]
    alone = [make(engine, each) for each in wanted]
    waiting, running, together = [engine.start(each) for each in wanted], [], {}
    while waiting or running:
        running += [waiting.pop()] if waiting else []
        engine.step(running)
        assert engine.preview(running[0]).shape == (32, 32, 3)
        for done in [each for each in running if each.step == each.steps]:
            together[done.picture.seed] = engine.finish([done])[0].astype(int)
            running.remove(done)
    for each, expected in zip(wanted, alone, strict=True):
        assert np.abs(together[each.seed] - expected).max() <= 1


@pytest.mark.models
def test_what_a_graph_cannot_do_is_refused(pairs):
    _, engine = pairs("sd")
    control = ControlPicture("canny", photograph(), 1.0)
    for param, changes in (("controls", {"controls": (control,)}), ("adapters", {"adapters": (Adapter("a"),)})):
        with pytest.raises(InvalidRequest, match=f"ONNX form of this model has no {param}") as raised:
            engine.start(picture(**changes))
        assert raised.value.param == param
    with pytest.raises(ContextLengthExceeded, match="at most 77"):
        engine.start(picture(prompt="x" * 90))


@pytest.mark.models
def test_too_little_memory_is_an_answer_and_the_picture_can_go_on(pairs, monkeypatch):
    _, engine = pairs("sd")
    wanted = picture(scheduler="dpm++-2m", steps=4)
    expected, denoising = make(engine, wanted), engine.start(wanted)
    engine.step([denoising])

    def refuse(session, inputs):
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for a buffer")

    monkeypatch.setattr(parts, "run_on_device", refuse)
    with pytest.raises(OutOfMemory):
        engine.step([denoising])
    monkeypatch.undo()
    assert denoising.step == 1
    assert np.abs(tiny.finished(engine, denoising) - expected).max() <= 1


@pytest.mark.models
def test_nothing_is_copied_on_the_way(pairs, monkeypatch):
    """The runtime reads the very memory of the tensors, and tensors are the very memory that it wrote."""
    _, engine = pairs("sd")
    seen, graph = {}, engine.family.pipe.unet.graph
    run = onnx_session.run_on_device

    def spying(session, inputs):
        seen["inputs"] = {name: value.data_ptr() for name, value in inputs.items()}
        made = run(session, inputs)
        seen["output"] = made["out_sample"].data_ptr()
        return made

    monkeypatch.setattr(parts, "run_on_device", spying)
    given = {
        "sample": torch.zeros(2, 4, 8, 8),
        "timestep": torch.zeros(2),
        "encoder_hidden_states": torch.zeros(2, 77, 32),
    }
    made = graph(**given)
    assert seen["inputs"] == {name: tensor.data_ptr() for name, tensor in given.items()}
    assert made["out_sample"].data_ptr() == seen["output"]


@pytest.mark.models
def test_half_precision_makes_nearly_the_same_picture(tmp_path):
    """Made for GPUs; the CPU runs it too."""
    source, target = tiny.stable_diffusion(tmp_path / "source", tiny_vae=True), tmp_path / "target"
    target.mkdir()
    export(source, target, precision="fp16")
    engine = load_onnx(target, precision="fp16")
    assert engine.family.dtype is torch.float16
    difference = np.abs(make(engine, picture()) - make(load(source), picture()))
    assert 0 < difference.mean() < 1.5


def test_what_cannot_be_exported_is_said_before_any_work(tmp_path):
    source = tiny.flux(tmp_path / "source")
    with pytest.raises(ValueError, match="FluxPipeline has no UNet"):
        export(source, tmp_path)
    with pytest.raises(ValueError, match="fp32 or fp16, not int8"):
        export(source, tmp_path, precision="int8")


def test_wrong_options_and_missing_hardware_are_said(tmp_path):
    folder = tiny.stable_diffusion(tmp_path)
    with pytest.raises(ValueError, match="no engine option unet"):
        load_onnx(folder, unet="unet_turbo")
    with pytest.raises(RuntimeError, match="needs a GPU and torch sees none"):
        load_onnx(folder, needs={"gpus": 0.5}, provider="cuda")
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(RuntimeError, match=r"onnxruntime-gpu.*or choose a CPU variant"):
            load_onnx(folder, provider=provider)
    assert Options().largest_batch == 16
