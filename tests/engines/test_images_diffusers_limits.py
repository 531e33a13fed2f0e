"""What is refused, how a model is loaded and placed, and what memory allows."""

import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from tiny_diffusion import load, make, photograph, picture

from models.engines.images_diffusers import engine, loading, memory
from models.engines.images_diffusers.engine import DiffusersImages
from models.engines.images_diffusers.memory import Measured, MemoryTable
from models.errors import ContextLengthExceeded, InvalidRequest, OutOfMemory
from models.specs import Needs, Precision
from models.tasks.images import ControlPicture
from models.weights import WeightsMissing


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return load(tiny.stable_diffusion(tmp_path_factory.mktemp("sd")))


def test_prompts_as_long_as_the_model_reads_and_longer(sd):
    """Each letter is a token here, and there are a start and an end."""
    assert sd.start(picture(prompt="x" * 75)).prompt_tokens == 77
    assert sd.start(picture(prompt="")).prompt_tokens == 2
    with pytest.raises(ContextLengthExceeded, match=r"78 tokens.* at most 77") as raised:
        sd.start(picture(prompt="x" * 76))
    assert raised.value.param == "prompt"
    with pytest.raises(ContextLengthExceeded, match=r"92 tokens.* at most 77") as raised:
        sd.start(picture(negative_prompt="x" * 90))
    assert raised.value.param == "negative_prompt"


@pytest.mark.parametrize(
    ("build", "options", "engine", "limit"),
    [
        (tiny.stable_diffusion_xl, {}, {}, 77),
        (tiny.stable_diffusion_3, {}, {}, 100),
        (tiny.stable_diffusion_3, {"t5": False}, {"without": ["text_encoder_3", "tokenizer_3"]}, 77),
        (tiny.flux, {}, {}, 100),
        (tiny.z_image, {}, {}, 100),
    ],
)
def test_how_much_each_architecture_reads(tmp_path, build, options, engine, limit):
    """CLIP reads 77 tokens, T5 what the catalog says."""
    loaded = load(build(tmp_path, **options), context=100, engine=engine)
    scheduler = loaded.schedulers[0]
    longest = loaded.start(picture(prompt="x" * (limit - 2), scheduler=scheduler))
    assert limit - 1 <= longest.prompt_tokens <= limit
    with pytest.raises(ContextLengthExceeded, match=f"at most {limit}"):
        loaded.start(picture(prompt="x" * limit, scheduler=scheduler))


@pytest.mark.parametrize("size", [{"width": 30}, {"height": 34}, {"width": 0}])
def test_sizes_that_are_no_multiples(sd, size):
    with pytest.raises(InvalidRequest, match="multiple of 4"):
        sd.start(picture(**size))


@pytest.mark.parametrize(
    ("kinds", "message"), [(["nonesuch"], "no control 'nonesuch'; it has none"), (["a", "b"], "it has none")]
)
def test_controls_that_a_model_has_not(sd, kinds, message):
    controls = tuple(ControlPicture(kind, photograph(), 1.0) for kind in kinds)
    with pytest.raises(InvalidRequest, match=message) as raised:
        sd.start(picture(controls=controls))
    assert raised.value.param == "controls"


def test_the_same_control_twice(tmp_path):
    base = tiny.stable_diffusion(tmp_path / "sd")
    net = tiny.controlnet(tmp_path / "canny", base)
    model = load(base, controls={"canny": {"kind": "folder", "path": net}})
    control = ControlPicture("canny", photograph(), 1.0)
    with pytest.raises(InvalidRequest, match="once"):
        model.start(picture(controls=(control, control)))


def test_a_controlnet_that_is_not_there_is_found_at_load(tmp_path):
    base = tiny.stable_diffusion(tmp_path / "sd")
    with pytest.raises(WeightsMissing, match="canny of tiny"):
        load(base, controls={"canny": {"kind": "folder", "path": tmp_path / "nowhere"}})


def test_the_safety_checker_is_not_loaded(sd):
    assert sd.family.pipe.safety_checker is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chanels_last": True}, "no engine option chanels_last"),
        ({"offload": "sometimes"}, "offload is one of"),
        ({"attention": "flash"}, "sdpa or eager"),
    ],
)
def test_options_that_there_are_not(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(tiny.stable_diffusion(tmp_path), engine=options)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "eager", "channels_last": True},
        {"attention": "sdpa", "vae_slicing": True, "vae_tiling": True},
        {"largest_batch": 4, "most_prompts": 2, "most_adapters": 1},
    ],
)
def test_options_change_how_and_not_what(sd, tmp_path, options):
    changed = load(tiny.stable_diffusion(tmp_path), engine=options)
    wanted = picture(image=photograph(), strength=0.5)
    assert np.abs(make(changed, wanted) - make(sd, wanted)).max() <= 1


HALF = {"bf16": (torch.bfloat16, 3), "fp16": (torch.float16, 0.5)}  # and how far values may be from float32's, of 255


@pytest.mark.models
@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize(
    ("build", "scheduler"),
    [(tiny.stable_diffusion, "ddim"), (tiny.stable_diffusion_xl, "dpm++-2m"), (tiny.flux, "flow-euler")],
)
def test_half_precision(tmp_path, build, scheduler, precision):
    folder, (dtype, most) = build(tmp_path), HALF[precision]
    model = tiny.spec(folder)
    variant = model.variant("cpu").model_copy(update={"precision": Precision(precision)})
    half = DiffusersImages.load(model, variant, folder)
    assert half.family.denoiser.dtype is dtype
    assert half.family.pipe.vae.dtype is (torch.float32 if dtype is torch.float16 else dtype)
    wanted = picture(scheduler=scheduler, image=photograph(), strength=0.5, guidance=2.0)
    difference = np.abs(make(half, wanted) - make(load(folder), wanted)).mean()
    print(f"{build.__name__} {precision}: {difference:.3f}")
    assert 0 < difference < most


def test_a_precision_that_there_is_not(tmp_path):
    model = tiny.spec(tmp_path)
    with pytest.raises(ValueError, match="int8"):
        DiffusersImages.load(model, model.variant("cpu").model_copy(update={"precision": Precision.INT8}), tmp_path)


def test_a_gpu_variant_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model = tiny.spec(tmp_path)
    needs = Needs(cpus=1, gpus=1, memory_gib=1)
    with pytest.raises(RuntimeError, match="GPU"):
        DiffusersImages.load(model, model.variant("cpu").model_copy(update={"needs": needs}), tmp_path)


def test_an_architecture_that_there_is_not(tmp_path):
    folder = tiny.stable_diffusion(tmp_path, channels=9)
    tiny.unet(8).save_pretrained(folder / "unet")
    with pytest.raises(ValueError, match="8 input channels"):
        load(folder)


TABLE = MemoryTable([Measured(100, 1, 10, 30), Measured(100, 4, 40, 100), Measured(300, 1, 60, 90)])


@pytest.mark.parametrize(
    ("pixels", "each"),
    [
        (100, 30),  # the worst of the two batches, and decoding more than stepping
        (50, 30),  # never less than what was measured
        (200, 60),  # on the line between
        (300, 90),
        (600, 360),  # twice the pixels, four times the attention
    ],
)
def test_bytes_of_a_picture(pixels, each):
    assert TABLE.bytes_each(pixels) == each


def test_the_largest_batch_that_fits():
    assert TABLE.largest_batch(100, 100) == 3
    assert TABLE.largest_batch(600, 300) == 0
    assert MemoryTable().largest_batch(100, 100) is None
    assert MemoryTable.of([[100, 1, 10, 30]]).points == (Measured(100, 1, 10, 30),)


def test_the_engine_asks_the_table(tmp_path, monkeypatch):
    rows = [[1024, 1, 100, 50]]
    model = load(tiny.stable_diffusion(tmp_path), engine={"largest_batch": 8, "memory": rows})
    monkeypatch.setattr(engine, "free_bytes", lambda: None)
    assert model.largest_batch(32, 32) == 8
    monkeypatch.setattr(engine, "free_bytes", lambda: 350)
    assert model.largest_batch(32, 32) == 3
    assert model.largest_batch(128, 128) == 0
    monkeypatch.setattr(engine, "free_bytes", lambda: 10**9)
    assert model.largest_batch(32, 32) == 8


def test_measuring_fills_the_table(sd, monkeypatch):
    """With a stand-in for the GPU's counter, that asks for what is measured to be really done."""
    done = []

    def peak(work):
        work()
        done.append(work)
        return 100 * len(done)

    monkeypatch.setattr(engine, "peak_bytes", peak)
    points = sd.measure(picture(), [1, 3])
    assert points == [Measured(1024, 1, 100, 200), Measured(1024, 3, 300, 400)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_is_measured_without_a_gpu(sd):
    assert sd.measure(picture(), [1, 2]) == []
    assert memory.free_bytes() is None


@pytest.mark.parametrize(
    ("needed", "free", "offload"),
    [
        (20, None, "none"),
        (20, 180, "none"),  # 160 of weights and 20 to work with
        (20, 179, "model"),
        (20, 120, "model"),
        (20, 119, "sequential"),
        (None, 160 + loading.SET_ASIDE, "none"),
        (None, 160, "sequential"),
    ],
)
def test_offloading_is_as_little_as_fits(needed, free, offload):
    assert loading.offload_for([100, 50, 10], needed, free) == offload


def test_the_weights_of_the_parts(sd):
    parts = loading.part_bytes(sd.family.pipe)
    assert len(parts) == 3
    assert max(parts) == sum(weight.numel() * 4 for weight in sd.family.denoiser.parameters())


def test_memory_is_given_back_after_the_error_is_gone(monkeypatch):
    """While the error is alive, its traceback holds the tensors of every frame."""
    alive, seen = [], []

    class Large:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            alive.pop()

    monkeypatch.setattr(memory, "release", lambda: seen.append(len(alive)))
    monkeypatch.setattr(Large, "__init__", lambda self: alive.append(1))

    @memory.out_of_memory_is_an_answer
    def work():
        large = Large()
        raise torch.OutOfMemoryError(f"CUDA out of memory {large}")

    with pytest.raises(OutOfMemory) as raised:
        work()
    assert seen == [0]
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
