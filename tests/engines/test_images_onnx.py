"""Image models on ONNX Runtime make the pictures that they make on diffusers, for every architecture they are exported
from; and what a graph cannot do is said."""

import numpy as np
import pytest
import tiny_diffusion as tiny
import tiny_graphs
import torch
from tiny_diffusion import load, make, photograph, picture

from models.engines import onnx_session
from models.engines.images_onnx import parts
from models.engines.images_onnx.engine import OnnxImages, Options
from models.errors import ContextLengthExceeded, InvalidRequest, OutOfMemory
from models.tasks.images import Adapter, ControlPicture
from workshop.variants.export_images import export

# name -> how its folder is made: a variational autoencoder and noise; two text encoders; a UNet that knows masks and
# takes its guidance as an input, with a small autoencoder
KINDS = {
    "sd": (tiny.stable_diffusion, {}),
    "sdxl": (tiny.stable_diffusion_xl, {}),
    "inpainting": (tiny.stable_diffusion, {"channels": 9, "tiny_vae": True, "time_cond_proj_dim": 16}),
}
MASK = np.zeros((32, 32), np.float32)
MASK[8:24, 12:28] = 1

# name -> what a picture is made with
CHANGES = {
    "plain": {},
    "negative": {"negative_prompt": "blurry", "seed": 3},
    "unguided": {"guidance": 1.0},
    "euler-ancestral": {"scheduler": "euler-ancestral", "steps": 5},
    "pndm-wide": {"scheduler": "pndm", "width": 48, "height": 16},
    "odd-size": {"width": 40, "height": 56},
    "from-a-picture": {"width": 24, "height": 32, "image": photograph()[:, :24], "strength": 0.6},
    "repainted-in-part": {"image": photograph(), "mask": MASK, "strength": 0.8},
    "repainted": {"image": photograph(), "mask": MASK},
}


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
def pairs(artifacts):
    """By name, the engine on diffusers and the engine on ONNX Runtime; exported once, when first asked for."""
    made = {}

    def pair(name):
        if name not in made:
            build, options = KINDS[name]
            source = artifacts.made(f"tiny-{name}", lambda folder: build(folder, **options))
            target = artifacts.made(f"tiny-{name}-onnx", lambda folder: export(source, folder))
            made[name] = load(source), load_onnx(target)
        return made[name]

    return pair


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The engine on graphs of a few nodes."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "graphs"))
    return load_onnx(tiny_graphs.stable_diffusion(tiny.stable_diffusion(source), target))


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.std() > 8  # not just grey
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.variants
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_the_same_pictures_as_on_diffusers(pairs, name, changes):
    """Also of sizes that the network cannot halve evenly, such as 10 x 14 latents."""
    theirs, ours = pairs(name)
    assert_same(make(ours, picture(**changes)), make(theirs, picture(**changes)))


@pytest.mark.variants
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_on_exported_graphs_is_the_same_as_one_by_one(pairs, name):
    shares_steps(pairs(name)[1])


def test_a_batch_of_different_steps_is_the_same_as_one_by_one(engine):
    shares_steps(engine)


def shares_steps(engine):
    """With and without guidance, with previews on the way."""
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
        assert expected.std() > 8
        assert np.abs(together[each.seed] - expected).max() <= 1


def test_what_a_graph_cannot_do_is_refused(engine):
    control = ControlPicture("canny", photograph(), 1.0)
    for param, changes in (("controls", {"controls": (control,)}), ("adapters", {"adapters": (Adapter("a"),)})):
        with pytest.raises(InvalidRequest, match=f"ONNX form of this model has no {param}") as raised:
            engine.start(picture(**changes))
        assert raised.value.param == param
    with pytest.raises(ContextLengthExceeded, match="at most 77"):
        engine.start(picture(prompt="x" * 90))


def test_too_little_memory_is_an_answer_and_the_picture_can_go_on(engine, monkeypatch):
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


def test_nothing_is_copied_on_the_way(engine, monkeypatch):
    """The runtime reads the very memory of the tensors, and tensors are the very memory that it wrote."""
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


ONE_BLOCK = {
    "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}


@pytest.mark.variants
def test_half_precision_makes_nearly_the_same_picture(artifacts):
    """Made for GPUs; the CPU runs it too."""
    source = artifacts.made("tiny-vae", lambda folder: tiny.stable_diffusion(folder, tiny_vae=True, **ONE_BLOCK))
    target = artifacts.made("tiny-vae-fp16", lambda folder: export(source, folder, precision="fp16"))
    engine = load_onnx(target, precision="fp16")
    assert engine.family.dtype is torch.float16
    difference = np.abs(make(engine, picture()) - make(load(source), picture()))
    assert 0 < difference.mean() < 1.5


def test_each_step_is_computed_by_the_graph(engine):
    """What the graph predicts is a convolution, and what the mean of the prompt's tokens says, added everywhere."""
    denoiser, drawn = engine.family.denoiser, torch.Generator().manual_seed(3)
    text = torch.randn(2, 77, 32, generator=drawn)
    sample, times = torch.randn(2, 4, 8, 8, generator=drawn), torch.tensor([100.0, 900.0])
    with torch.no_grad():
        (made,) = denoiser(sample, times, text)
        (flat,) = denoiser(sample, times, text.mean(1, keepdim=True).expand_as(text))
        (other,) = denoiser(sample, times, text + 1)
    torch.testing.assert_close(made, flat, atol=1e-4, rtol=1e-4)
    moved = other - made
    torch.testing.assert_close(moved, moved[..., :1, :1].expand_as(moved), atol=1e-4, rtol=1e-4)
    assert moved.abs().max() > 0.1


def test_a_picture_to_start_from_is_read_by_the_encoder(engine):
    from_prompt = make(engine, picture())
    nearly = make(engine, picture(image=photograph(), strength=0.3))
    assert np.abs(from_prompt - nearly).max() > 20
    kept = make(engine, picture(image=photograph(), mask=MASK))
    np.testing.assert_array_equal(kept[MASK == 0], photograph()[MASK == 0])


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
