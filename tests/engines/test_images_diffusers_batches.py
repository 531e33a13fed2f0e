"""Pictures of different requests share one call of the denoiser, and each is the one that it would be alone."""

import random

import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from tiny_diffusion import finished, load, make, photograph, picture

from models.engines.images_diffusers.prompts import PromptCache
from models.engines.images_diffusers.schedulers import DIFFUSION
from models.errors import OutOfMemory
from models.tasks.images import Adapter, ControlPicture

FAMILIES = {
    "sd": (tiny.stable_diffusion, {}, "ddim"),
    "sdxl": (tiny.stable_diffusion_xl, {}, "ddim"),
    "sd3": (tiny.stable_diffusion_3, {}, "flow-euler"),
    "flux": (tiny.flux, {}, "flow-euler"),
    "z-image": (tiny.z_image, {}, "flow-euler"),
}
MASK = np.zeros((32, 32), np.float32)
MASK[8:24, 12:28] = 1


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            build, options, _ = FAMILIES[name]
            made[name] = load(build(tmp_path_factory.mktemp(name), **options))
        return made[name]

    return get


@pytest.fixture(scope="module")
def sd(engines):
    return engines("sd")


@pytest.fixture
def calls(sd, monkeypatch):
    """Rows of each call of the denoiser."""
    seen = []
    forward = sd.family.denoiser.forward

    def counting(latents, *args, **more):
        seen.append(len(latents))
        return forward(latents, *args, **more)

    monkeypatch.setattr(sd.family.denoiser, "forward", counting)
    return seen


def mixed(scheduler):
    """No two are alike, in length, guidance, prompt, seed or what they start from."""
    samplers = list(DIFFUSION) if scheduler == "ddim" else [scheduler]
    wanted = [
        picture(scheduler=name, seed=number, steps=3 + number % 4, guidance=[1.0, 3.0, 7.5][number % 3], prompt=prompt)
        for number, (name, prompt) in enumerate(
            zip(samplers * 5, ["a cat", "red dog", "", "zzz", "a b c"], strict=False)
        )
    ]
    wanted += [
        picture(scheduler=samplers[-1], negative_prompt="blurry", seed=50),
        picture(scheduler=samplers[0], image=photograph(), strength=0.5, steps=6, seed=51),
        picture(scheduler=samplers[0], image=photograph(1), mask=MASK, steps=5, seed=52),
    ]
    return wanted


def assert_same_pictures(together, alone):
    for ours, theirs in zip(together, alone, strict=True):
        assert theirs.std() > 10
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_mixed_batch_is_the_pictures_made_alone(engines):
    for name in ("sd", random.choice([name for name in FAMILIES if name != "sd"])):
        makes_a_mixed_batch(engines, name)


@pytest.mark.matrix
@pytest.mark.parametrize("name", FAMILIES)
def test_a_mixed_batch_of_every_family(engines, name):
    makes_a_mixed_batch(engines, name)


def makes_a_mixed_batch(engines, name):
    """They finish at different times; who is done leaves the batch."""
    engine, wanted = engines(name), mixed(FAMILIES[name][2])
    alone = [make(engine, each) for each in wanted]
    batch = [engine.start(each) for each in wanted]
    assert len({each.batch_key for each in batch}) == 1
    assert len({each.steps for each in batch}) > 2
    while going := [each for each in batch if each.step < each.steps]:
        engine.step(going)
    assert_same_pictures(engine.finish(batch), alone)


def test_every_sampler_shares_a_batch(sd):
    wanted = [picture(scheduler=name, seed=number) for number, name in enumerate(sd.schedulers)]
    alone = [make(sd, each) for each in wanted]
    batch = [sd.start(each) for each in wanted]
    while going := [each for each in batch if each.step < each.steps]:
        sd.step(going)
    assert_same_pictures(sd.finish(batch), alone)


def test_one_call_of_the_denoiser_a_step_and_no_row_too_many(sd, calls):
    """The unconditional half is computed for those that are guided, and only for them."""
    batch = [sd.start(picture(guidance=guidance)) for guidance in (1.0, 5.0, 0.0, 7.5)]
    sd.step(batch)
    assert calls == [6]


def test_pictures_join_between_two_steps(sd):
    early, late = picture(steps=6, scheduler="dpm++-2m"), picture(steps=3, seed=9, scheduler="euler-ancestral")
    alone = [make(sd, early), make(sd, late)]
    first = sd.start(early)
    sd.step([first])
    sd.step([first])
    second = sd.start(late)
    while first.step < first.steps:
        sd.step([each for each in (first, second) if each.step < each.steps])
    assert_same_pictures(sd.finish([first, second]), alone)


def test_a_cancelled_picture_is_not_missed(sd):
    staying, leaving = picture(scheduler="dpm++-2m-sde", seed=3), picture(scheduler="unipc", seed=4)
    alone = make(sd, staying)
    batch = [sd.start(leaving), sd.start(staying)]
    sd.step(batch)
    del batch[0]
    assert_same_pictures([finished(sd, batch[0])], [alone])


@pytest.mark.parametrize("scheduler", ["ddim", "euler-ancestral", "dpm++-2m-sde", "lcm"])
def test_the_same_seed_gives_the_same_bytes(sd, scheduler):
    first, again = make(sd, picture(scheduler=scheduler)), make(sd, picture(scheduler=scheduler))
    assert first.tobytes() == again.tobytes()


def test_other_randomness_changes_nothing(sd):
    first = make(sd, picture(scheduler="euler-ancestral"))
    torch.manual_seed(123)
    torch.randn(10)
    assert np.array_equal(first, make(sd, picture(scheduler="euler-ancestral")))


def test_what_cannot_share_a_step_has_another_key(tmp_path):
    base = tiny.stable_diffusion(tmp_path / "sd")
    controls = {kind: {"kind": "folder", "path": tiny.controlnet(tmp_path / kind, base)} for kind in ("canny", "depth")}
    loras = {name: {"kind": "folder", "path": tiny.lora(tmp_path / name, base)} for name in ("a", "b")}
    engine = load(base, controls=controls, adapters=loras)
    canny, depth = ControlPicture("canny", photograph(), 1.0), ControlPicture("depth", photograph(), 0.5)
    different = [
        picture(),
        picture(width=48),
        picture(height=48),
        picture(controls=(canny,)),
        picture(controls=(depth,)),
        picture(controls=(canny, depth)),
        picture(adapters=(Adapter("a", 1.0),)),
        picture(adapters=(Adapter("a", 0.5),)),
        picture(adapters=(Adapter("b", 1.0),)),
    ]
    assert len({engine.start(each).batch_key for each in different}) == len(different)
    same = [picture(controls=(canny, depth)), picture(controls=(depth, canny), seed=2)]
    assert len({engine.start(each).batch_key for each in same}) == 1


def test_controlled_pictures_share_a_batch(tmp_path):
    """Each with its own picture and weight."""
    base = tiny.stable_diffusion(tmp_path / "sd")
    net = tiny.controlnet(tmp_path / "canny", base)
    engine = load(base, controls={"canny": {"kind": "folder", "path": net}})
    wanted = [
        picture(controls=(ControlPicture("canny", photograph(number), weight),), seed=number, guidance=guidance)
        for number, weight, guidance in ((1, 1.0, 5.0), (2, 0.3, 1.0), (3, 0.0, 5.0))
    ]
    alone = [make(engine, each) for each in wanted]
    batch = [engine.start(each) for each in wanted]
    for _ in range(4):
        engine.step(batch)
    assert_same_pictures(engine.finish(batch), alone)
    assert np.array_equal(alone[2], make(engine, picture(seed=3)))


def test_a_preview_shows_the_picture_that_is_coming(sd):
    """The estimate of the finished picture, not the noisy one: previews come nearer, and the last one is it."""
    for scheduler in random.sample(sd.schedulers, 4):
        denoising = sd.start(picture(steps=10, scheduler=scheduler))
        previews = []
        while denoising.step < denoising.steps:
            sd.step([denoising])
            previews.append(sd.preview(denoising).astype(int))
        result = sd.finish([denoising])[0]
        distances = [np.abs(preview - result).mean() for preview in previews]
        assert distances[-1] < 12, scheduler
        assert distances[-1] <= min(distances), scheduler
        assert distances[-1] < distances[0], scheduler


@pytest.mark.parametrize("name", ["sd3", "flux", "z-image"])
def test_previews_of_flows(engines, name):
    denoising = engines(name).start(picture(steps=8, scheduler="flow-euler"))
    while denoising.step < denoising.steps:
        engines(name).step([denoising])
        preview = engines(name).preview(denoising)
    assert np.abs(preview.astype(int) - engines(name).finish([denoising])[0]).max() <= 1


def test_a_preview_changes_nothing_and_keeps_what_is_kept(sd):
    wanted = picture(image=photograph(), mask=MASK, scheduler="euler-ancestral")
    denoising = sd.start(wanted)
    assert sd.preview(denoising).shape == (32, 32, 3)
    while denoising.step < denoising.steps:
        sd.step([denoising])
        assert np.array_equal(sd.preview(denoising)[MASK == 0], wanted.image[MASK == 0])
    assert np.array_equal(sd.finish([denoising])[0], make(sd, wanted))


class OutOfMemoryOnce:
    """A denoiser whose forward runs out of memory the first time, before or after it computed."""

    def __init__(self, forward):
        self.forward = forward
        self.failed = False

    def __call__(self, *args, **more):
        if not self.failed:
            self.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.forward(*args, **more)


def several(schedulers) -> list:
    """One picture of each of some samplers; all of them are tried as a part of the release tier."""
    return [picture(scheduler=name, seed=number, steps=5) for number, name in enumerate(schedulers)]


def test_a_step_that_ran_out_of_memory_can_be_tried_again(sd, monkeypatch):
    runs_out_of_memory(sd, random.sample(sd.schedulers, 4), monkeypatch)


@pytest.mark.matrix
def test_a_step_of_every_sampler_that_ran_out_of_memory(sd, monkeypatch):
    runs_out_of_memory(sd, sd.schedulers, monkeypatch)


def runs_out_of_memory(sd, schedulers, monkeypatch):
    wanted = several(schedulers)
    alone = [make(sd, each) for each in wanted]
    batch = [sd.start(each) for each in wanted]
    sd.step(batch)
    denoiser = sd.family.denoiser
    monkeypatch.setattr(denoiser, "forward", OutOfMemoryOnce(denoiser.forward))
    with pytest.raises(OutOfMemory) as raised:
        sd.step(batch)
    assert "CUDA" not in raised.value.message
    assert [each.step for each in batch] == [1] * len(batch)
    while going := [each for each in batch if each.step < each.steps]:
        sd.step(going)
    assert_same_pictures(sd.finish(batch), alone)


def test_a_step_that_ran_out_of_memory_half_way_can_be_tried_again(sd, monkeypatch):
    runs_out_of_memory_half_way(sd, random.sample(sd.schedulers, 4), monkeypatch)


@pytest.mark.matrix
def test_a_step_of_every_sampler_that_ran_out_of_memory_half_way(sd, monkeypatch):
    runs_out_of_memory_half_way(sd, sd.schedulers, monkeypatch)


def runs_out_of_memory_half_way(sd, schedulers, monkeypatch):
    """After some pictures of the batch had already made theirs, with their schedulers and generators gone on."""
    wanted = several(schedulers)
    alone = [make(sd, each) for each in wanted]
    batch = [sd.start(each) for each in wanted]
    sd.step(batch)
    last = batch[-1].scheduler
    with monkeypatch.context() as patch:
        patch.setattr(type(last), "step", OutOfMemoryOnce(type(last).step))
        with pytest.raises(OutOfMemory):
            sd.step(batch)
    while going := [each for each in batch if each.step < each.steps]:
        for each in going:  # one by one, as a server would after running out of memory
            sd.step([each])
    assert_same_pictures(sd.finish(batch), alone)


def test_decoding_that_ran_out_of_memory_can_be_tried_again(sd, monkeypatch):
    alone = [make(sd, picture(seed=seed)) for seed in (1, 2)]
    batch = [sd.start(picture(seed=seed)) for seed in (1, 2)]
    for _ in range(4):
        sd.step(batch)
    decoder = sd.family.pipe.vae.decoder
    monkeypatch.setattr(decoder, "forward", OutOfMemoryOnce(decoder.forward))
    with pytest.raises(OutOfMemory):
        sd.finish(batch)
    assert_same_pictures([sd.finish([each])[0] for each in batch], alone)


def test_starting_that_ran_out_of_memory_can_be_tried_again(sd, monkeypatch):
    encoder = sd.family.pipe.text_encoder
    monkeypatch.setattr(encoder, "forward", OutOfMemoryOnce(encoder.forward))
    wanted = picture(prompt="a prompt never seen before")
    with pytest.raises(OutOfMemory):
        sd.start(wanted)
    assert sd.start(wanted).prompt_tokens > 5


def test_a_prompt_is_encoded_once_for_all_its_pictures(sd, monkeypatch):
    encoder, encoded = sd.family.pipe.text_encoder, []
    forward = encoder.forward

    def counting(*args, **more):
        encoded.append(1)
        return forward(*args, **more)

    monkeypatch.setattr(encoder, "forward", counting)
    monkeypatch.setattr(sd, "prompts", PromptCache(3))
    for seed in range(4):
        sd.start(picture(prompt="a green dog", seed=seed))
    assert len(encoded) == 2  # it, and the empty one
    for number in range(sd.prompts.most + 1):
        sd.start(picture(prompt="x" * number, guidance=1.0))
    before = len(encoded)
    sd.start(picture(prompt="a green dog", guidance=1.0))
    assert len(encoded) == before + 1
