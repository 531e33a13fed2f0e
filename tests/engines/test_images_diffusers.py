"""Our step-wise engine makes the pictures that diffusers' own pipelines make, for every architecture and sampler."""

import random

import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from PIL import Image
from tiny_diffusion import load, make, photograph, picture

from models.engines.images_diffusers.schedulers import DIFFUSION, new_scheduler
from models.errors import InvalidRequest
from models.tasks.images import ControlPicture

# name -> how its folder is made, and whether it matches flows
FAMILIES = {
    "sd": (tiny.stable_diffusion, {}, False),
    "sd-v-prediction": (tiny.stable_diffusion, {"prediction": "v_prediction"}, False),
    "sd-tiny-vae": (tiny.stable_diffusion, {"prediction": "v_prediction", "tiny_vae": True}, False),
    "sdxl": (tiny.stable_diffusion_xl, {}, False),
    "sdxl-turbo": (tiny.stable_diffusion_xl, {"turbo": True}, False),
    "sd3": (tiny.stable_diffusion_3, {}, True),
    "sd3-without-t5": (tiny.stable_diffusion_3, {"t5": False}, True),
    # diffusers' inpainting pipeline tells by 16 channels that a denoiser knows no masks, and forgets the final shift
    "sd3-16-channels": (tiny.stable_diffusion_3, {"channels": 16, "shift": 0.0}, True),
    "flux-dev": (tiny.flux, {"guidance": True}, True),
    "flux-schnell": (tiny.flux, {"guidance": False}, True),
    "z-image": (tiny.z_image, {}, True),
}
DIFFUSION_FAMILIES = [name for name, (_, _, flow) in FAMILIES.items() if not flow]
MASK = np.zeros((32, 32), np.float32)
MASK[8:24, 12:28] = 1


class Model:
    """A tiny model, loaded by us and by diffusers."""

    def __init__(self, name, folder):
        self.name = name
        build, options, self.flow = FAMILIES[name]
        self.folder = build(folder, **options)
        without = [] if options.get("t5", True) else ["text_encoder_3", "tokenizer_3"]
        self.engine = load(self.folder, engine={"without": without})
        self.pipe = DiffusionPipeline.from_pretrained(self.folder, **dict.fromkeys(without))
        self.scheduler_config = dict(self.pipe.scheduler.config)
        self.default = "flow-euler" if self.flow else "ddim"
        self.more = {"max_sequence_length": 77} if self.flow else {}

    def theirs(self, wanted, pipe=None, **more):
        pipe = pipe or self.pipe
        pipe.set_progress_bar_config(disable=True)
        if not self.flow:
            pipe.scheduler = new_scheduler(DIFFUSION[wanted.scheduler], self.scheduler_config)
        arguments = {
            "prompt": wanted.prompt,
            "num_inference_steps": wanted.steps,
            "guidance_scale": wanted.guidance - (self.name == "z-image"),
            "generator": torch.Generator().manual_seed(wanted.seed),
            "output_type": "np",
        }
        if wanted.negative_prompt:
            arguments["negative_prompt"] = wanted.negative_prompt
        if wanted.image is None or wanted.mask is not None or self.flow:
            arguments |= {"width": wanted.width, "height": wanted.height}
        if wanted.image is not None:
            arguments |= {"image": Image.fromarray(wanted.image), "strength": wanted.strength}
        if wanted.mask is not None:
            arguments["mask_image"] = Image.fromarray((wanted.mask * 255).astype(np.uint8))
        image = pipe(**{**arguments, **self.more, **more}).images[0]
        return (image * 255).round().astype(int)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Model(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.std() > 10, "a grey picture equals any other grey picture"
    assert np.abs(ours - theirs).max() <= 2


def some(names, count: int):
    """Others on every run, by its seed; as a part of the release tier all of them are tried."""
    return random.sample(sorted(names), count)


def test_the_tiny_models_depend_on_all_they_are_given(model):
    for name in some(FAMILIES, 3):
        depends_on_all_it_is_given(model, name)


@pytest.mark.matrix
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tiny_model_depends_on_all_it_is_given(model, name):
    depends_on_all_it_is_given(model, name)


def depends_on_all_it_is_given(model, name):
    engine, scheduler = model(name).engine, model(name).default
    base = make(engine, picture(scheduler=scheduler))
    changes = [{"seed": 2}, {"prompt": "zzz xxx"}, {"steps": 3}]
    if name != "flux-schnell":
        changes.append({"guidance": 2.0})
    if name not in ("flux-dev", "flux-schnell"):
        changes.append({"negative_prompt": "blurry"})
    for change in changes:
        other = make(engine, picture(scheduler=scheduler, **change))
        assert np.abs(base - other).max() > 8, change


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_from_a_prompt(model, name):
    from_a_prompt(model, name, random.choice([1.0, 5.0]))


@pytest.mark.matrix
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_from_a_prompt_with_and_without_guidance(model, name, guidance):
    from_a_prompt(model, name, guidance)


def from_a_prompt(model, name, guidance):
    wanted = picture(scheduler=model(name).default, guidance=guidance)
    assert_same(make(model(name).engine, wanted), model(name).theirs(wanted))


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_a_negative_prompt_and_another_shape(model, name):
    wanted = picture(scheduler=model(name).default, negative_prompt="blurry", width=48, height=32)
    assert_same(make(model(name).engine, wanted), model(name).theirs(wanted))


SAMPLED = ["sd", "sd-v-prediction", "sdxl", "sdxl-turbo"]


@pytest.mark.parametrize("scheduler", DIFFUSION)
def test_every_sampler(model, scheduler):
    samples(model, random.choice(SAMPLED), scheduler, [random.choice([1, 2, 7])])


@pytest.mark.matrix
@pytest.mark.parametrize("scheduler", DIFFUSION)
@pytest.mark.parametrize("name", SAMPLED)
def test_every_sampler_of_every_family(model, name, scheduler):
    samples(model, name, scheduler, [1, 2, 7])


def samples(model, name, scheduler, several_steps):
    for steps in several_steps:
        wanted = picture(scheduler=scheduler, steps=steps)
        assert_same(make(model(name).engine, wanted), model(name).theirs(wanted))


def test_a_picture_from_a_picture(model):
    for name in some(FAMILIES, 4):
        from_a_picture(model, name, random.choice([0.6, 1.0]))


@pytest.mark.matrix
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_from_a_picture_of_every_family(model, name, strength):
    from_a_picture(model, name, strength)


def from_a_picture(model, name, strength):
    wanted = picture(scheduler=model(name).default, image=photograph(), strength=strength, steps=5)
    pipe = AutoPipelineForImage2Image.from_pipe(model(name).pipe)
    assert_same(make(model(name).engine, wanted), model(name).theirs(wanted, pipe))


def test_a_sampler_from_a_picture(model):
    for scheduler in some(DIFFUSION, 3):
        samples_from_a_picture(model, scheduler)


@pytest.mark.matrix
@pytest.mark.parametrize("scheduler", DIFFUSION)
def test_every_sampler_from_a_picture(model, scheduler):
    samples_from_a_picture(model, scheduler)


def samples_from_a_picture(model, scheduler):
    wanted = picture(scheduler=scheduler, image=photograph(), strength=0.5, steps=8)
    pipe = AutoPipelineForImage2Image.from_pipe(model("sd").pipe)
    assert_same(make(model("sd").engine, wanted), model("sd").theirs(wanted, pipe))


@pytest.mark.parametrize("name", ["sd", "sd-tiny-vae", "sdxl"])
def test_repainting_under_a_mask(model, name):
    repaints(model, name, random.choice([0.6, 1.0]))


@pytest.mark.matrix
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["sd", "sd-tiny-vae", "sdxl"])
def test_repainting_under_a_mask_with_every_strength(model, name, strength):
    repaints(model, name, strength)


def repaints(model, name, strength):
    """By blending at every step, for denoisers that know nothing of masks."""
    wanted = picture(image=photograph(), mask=MASK, strength=strength, steps=5)
    ours = make(model(name).engine, wanted)
    theirs = model(name).theirs(wanted, AutoPipelineForInpainting.from_pipe(model(name).pipe))
    assert_repainted(ours, theirs, wanted)


@pytest.mark.parametrize("name", ["sd3-16-channels", "flux-dev"])
def test_repainting_with_flows(model, name):
    wanted = picture(scheduler="flow-euler", image=photograph(), mask=MASK, strength=0.6, steps=5)
    ours = make(model(name).engine, wanted)
    theirs = model(name).theirs(wanted, AutoPipelineForInpainting.from_pipe(model(name).pipe))
    assert_repainted(ours, theirs, wanted)


@pytest.mark.parametrize("strength", [pytest.param(0.6, marks=pytest.mark.matrix), 1.0])
def test_repainting_with_a_denoiser_made_for_it(tmp_path, strength):
    folder = tiny.stable_diffusion(tmp_path, channels=9)
    engine, pipe = load(folder), DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = new_scheduler(DIFFUSION["ddim"], pipe.scheduler.config)
    wanted = picture(image=photograph(), mask=MASK, strength=strength, steps=5)
    theirs = pipe(
        wanted.prompt,
        image=Image.fromarray(wanted.image),
        mask_image=Image.fromarray((MASK * 255).astype(np.uint8)),
        width=32,
        height=32,
        strength=strength,
        num_inference_steps=5,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    assert_repainted(make(engine, wanted), (theirs * 255).round().astype(int), wanted)


def assert_repainted(ours, theirs, wanted):
    """Inside the mask as diffusers paints it, outside the picture that was sent, to the byte."""
    inside = wanted.mask > 0
    assert theirs[inside].std() > 10
    assert np.abs(ours - theirs)[inside].max() <= 2
    assert np.array_equal(ours[~inside], wanted.image[~inside])
    assert np.abs(ours - wanted.image)[inside].max() > 20


def test_a_thin_stroke_of_a_mask_is_repainted(model):
    """One pixel wide, between the pixels that a smaller mask would be sampled from."""
    mask = np.zeros((32, 32), np.float32)
    mask[:, 17] = 1
    wanted = picture(image=photograph(), mask=mask)
    ours = make(model("sd").engine, wanted)
    assert np.abs(ours - wanted.image)[:, 17].max() > 20
    assert np.array_equal(np.delete(ours, 17, axis=1), np.delete(wanted.image, 17, axis=1))


def test_a_soft_mask_blends(model):
    mask = np.full((32, 32), 0.75, np.float32)
    hard = make(model("sd").engine, picture(image=photograph(), mask=np.ones((32, 32), np.float32)))
    soft = make(model("sd").engine, picture(image=photograph(), mask=mask))
    assert np.abs(soft - (0.75 * hard + 0.25 * photograph())).max() <= 1


def test_a_denoiser_made_for_masks_works_without_one(tmp_path):
    engine = load(tiny.stable_diffusion(tmp_path, channels=9))
    from_prompt = make(engine, picture())
    from_picture = make(engine, picture(image=photograph(), strength=0.5))
    assert from_prompt.std() > 10
    assert np.abs(from_prompt - from_picture).max() > 20


@pytest.mark.parametrize(("strength", "steps"), [(0.5, 1), (0.3, 2), (1 / 49, 1), (0.01, 4)])
@pytest.mark.parametrize("name", ["sd", "sdxl-turbo", "flux-schnell"])
def test_a_part_of_few_steps_is_at_least_one(model, name, strength, steps):
    """Where diffusers' pipelines refuse, or forget the picture."""
    wanted = picture(scheduler=model(name).default, image=photograph(), strength=strength, steps=steps)
    denoising = model(name).engine.start(wanted)
    assert 1 <= denoising.steps <= 2
    assert denoising.timestep <= 1000 * strength + 250


def test_the_less_strength_the_more_is_left(model):
    engine = model("flux-schnell").engine
    wanted = {"scheduler": "flow-euler", "image": photograph()}
    unchanged = make(engine, picture(**wanted, strength=0.002, steps=1))
    distances = [
        np.abs(make(engine, picture(**wanted, strength=strength, steps=4)) - unchanged).mean()
        for strength in (0.05, 0.25, 0.5, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 20


def test_controls(model, tmp_path):
    controls(model, random.choice(["sd", "sdxl"]), tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_controls_of_every_family(model, name, tmp_path):
    controls(model, name, tmp_path)


def controls(model, name, tmp_path):
    canny = tiny.controlnet(tmp_path / "canny", model(name).folder, 1)
    depth = tiny.controlnet(tmp_path / "depth", model(name).folder, 2)
    sources = {kind: {"kind": "folder", "path": path} for kind, path in {"canny": canny, "depth": depth}.items()}
    engine = load(model(name).folder, controls=sources)
    pipeline = StableDiffusionControlNetPipeline if name == "sd" else StableDiffusionXLControlNetPipeline
    nets = [ControlNetModel.from_pretrained(canny), ControlNetModel.from_pretrained(depth)]
    one = ControlPicture("canny", photograph(3), 0.8)
    two = ControlPicture("depth", photograph(4), 0.5)

    pipe = pipeline.from_pipe(model(name).pipe, controlnet=nets[0])
    wanted = picture(controls=(one,))
    theirs = model(name).theirs(wanted, pipe, image=Image.fromarray(one.pixels), controlnet_conditioning_scale=0.8)
    ours = make(engine, wanted)
    assert_same(ours, theirs)
    assert np.abs(ours - make(engine, picture())).max() > 20

    pipe = pipeline.from_pipe(model(name).pipe, controlnet=nets)
    wanted = picture(controls=(two, one))
    images = [Image.fromarray(one.pixels), Image.fromarray(two.pixels)]
    theirs = model(name).theirs(wanted, pipe, image=images, controlnet_conditioning_scale=[0.8, 0.5])
    assert_same(make(engine, wanted), theirs)


def test_a_control_of_a_picture_from_a_picture(model, tmp_path):
    canny = tiny.controlnet(tmp_path / "canny", model("sd").folder, 1)
    engine = load(model("sd").folder, controls={"canny": {"kind": "folder", "path": canny}})
    control = ControlPicture("canny", photograph(3), 1.0)
    wanted = picture(controls=(control,), image=photograph(), strength=0.6, steps=5)
    net = ControlNetModel.from_pretrained(canny)
    pipe = StableDiffusionControlNetImg2ImgPipeline.from_pipe(model("sd").pipe, controlnet=net)
    image = Image.fromarray(control.pixels)
    more = {"control_image": image, "controlnet_conditioning_scale": 1.0, "width": 32, "height": 32}
    assert_same(make(engine, wanted), model("sd").theirs(wanted, pipe, **more))


@pytest.mark.parametrize(("sampler", "steps"), [("lcm", 51), ("ddim", 1001)])
def test_more_steps_than_a_sampler_makes(model, sampler, steps):
    with pytest.raises(InvalidRequest, match=f"{sampler} cannot make {steps} steps") as raised:
        model("sd").engine.start(picture(scheduler=sampler, steps=steps))
    assert raised.value.param == "steps"


def test_samplers_that_would_not_start_from_pure_noise_are_not_offered(tmp_path):
    folder = tiny.stable_diffusion(tmp_path, prediction="v_prediction")
    engine = load(folder, engine={"scheduler_config": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}})
    assert {"ddim", "euler", "dpm++-2m", "unipc", "lcm"} <= set(engine.schedulers)
    assert not {"pndm", "lms", "heun"} & set(engine.schedulers)
    for scheduler in some(engine.schedulers, 3):
        assert make(engine, picture(scheduler=scheduler)).std() > 10


def test_the_schedulers_configuration_can_be_replaced(model):
    ours = make(load(model("sd").folder, engine={"scheduler_config": {"timestep_spacing": "trailing"}}), picture())
    assert np.abs(ours - make(model("sd").engine, picture())).max() > 20
    pipe = model("sd").pipe
    config = {**model("sd").scheduler_config, "timestep_spacing": "trailing"}
    pipe.scheduler = new_scheduler(DIFFUSION["ddim"], config)
    generator = torch.Generator().manual_seed(1)
    arguments = {"num_inference_steps": 4, "guidance_scale": 5.0, "width": 32, "height": 32, "output_type": "np"}
    theirs = pipe("a red cat", generator=generator, **arguments).images[0]
    assert_same(ours, (theirs * 255).round().astype(int))


def test_another_unet_of_the_same_folder(model, tmp_path):
    folder = tiny.stable_diffusion(tmp_path)
    torch.manual_seed(5)
    tiny.unet(4).save_pretrained(folder / "unet_turbo")
    ours = make(load(folder, engine={"unet": "unet_turbo"}), picture())
    assert np.abs(ours - make(load(folder), picture())).max() > 20


def test_a_unet_that_takes_guidance_as_an_input(tmp_path):
    """As latent consistency models do: one prediction a step, whatever the guidance."""
    folder = tiny.stable_diffusion(tmp_path, time_cond_proj_dim=8)
    engine, pipe = load(folder), DiffusionPipeline.from_pretrained(folder)
    denoising = engine.start(picture(scheduler="lcm", guidance=8.0))
    assert denoising.unconditional is None
    pipe.scheduler = new_scheduler(DIFFUSION["lcm"], pipe.scheduler.config)
    theirs = pipe(
        "a red cat",
        num_inference_steps=4,
        guidance_scale=8.0,
        width=32,
        height=32,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    ours = tiny.finished(engine, denoising)
    assert_same(ours, (theirs * 255).round().astype(int))
    assert np.abs(ours - make(engine, picture(scheduler="lcm", guidance=3.0))).max() > 2
