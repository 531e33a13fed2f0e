"""The recipe of the starter image model, and the judge of its pictures."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from models.starter.doodle.drawings import COLOURS, SHAPES, Drawing, draw, every_combination, training_example
from models.starter.doodle.emoji_pictures import FONT, NAMES, emoji_examples
from models.starter.doodle.judge import see


@pytest.mark.parametrize("blur", [0, 1.5])
def test_the_judge_sees_what_was_drawn(blur):
    chance = np.random.default_rng(0)
    for number, drawing in enumerate(every_combination(held_out=True)):
        picture = draw(drawing, random.Random(number)).filter(ImageFilter.GaussianBlur(blur))
        noisy = np.asarray(picture) + chance.normal(0, 8, (64, 64, 3))
        seen = see(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
        assert (seen.shape, seen.colour, seen.background) == (drawing.shape, drawing.colour, drawing.background)


def test_the_judge_sees_nothing_in_an_empty_picture():
    seen = see(Image.new("RGB", (64, 64), COLOURS["green"]))
    assert (seen.background, seen.colour, seen.shape) == ("green", None, None)


def test_what_is_held_out_is_never_trained_on():
    out, trained = every_combination(held_out=True), every_combination(held_out=False)
    assert len(out) >= 201
    assert len(out) + len(trained) == len(SHAPES) * len(COLOURS) * (len(COLOURS) - 1)
    assert Drawing("circle", "red", "blue") in out
    chance = random.Random(0)
    captions = {training_example(chance)[1] for _ in range(3000)}
    forbidden = [drawing.caption(form).replace("large ", "") for drawing in out for form in range(3)]
    assert not captions.intersection(forbidden)


@pytest.mark.skipif(not FONT.exists(), reason="the emoji font is not here; on Debian: fonts-noto-color-emoji")
def test_every_emoji_has_a_picture_of_its_own():
    pictures = {picture.tobytes() for picture, _ in emoji_examples()}
    assert len(pictures) == len(NAMES)


def test_the_recipe_learns_and_writes_a_folder_that_diffusers_opens(tmp_path):
    """A minute of training in miniature: losses fall, and both forms of the model make pictures."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    from models.starter.doodle import distill, train

    options = train.Options(
        shapes=64, emoji_share=0, batch=8, autoencoder_steps=15, denoiser_steps=4, seed=1, device="cpu"
    )
    examples = train.make_examples(options, with_emoji=False)
    tokenizer = train.new_tokenizer(examples.captions, tmp_path / "tokenizer")
    autoencoder = train.train_autoencoder(examples, options)
    pixels = train.as_input(examples.pixels)

    def error(autoencoder):
        return (autoencoder.decode(autoencoder.encode(pixels).latents).sample - pixels).square().mean()

    torch.manual_seed(options.seed)
    assert error(autoencoder) < 0.9 * error(train.new_autoencoder())
    latents = train.encode_all(autoencoder, examples, "cpu")
    assert abs(latents.std().item() - 1) < 0.05

    def save(text_encoder, denoiser):
        train.save_in_halves(train.assemble(autoencoder, text_encoder, tokenizer, denoiser), tmp_path)

    train.train_denoiser(latents, examples, tokenizer, options, save)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)  # as any user would open it
    few = distill.Options(pictures=4, emoji_share=0, batch=4, training_steps=2, device="cpu")
    paths = distill.follow_teacher(pipeline, few)
    student = distill.train_student(pipeline.unet, paths, few)
    assert isinstance(student, UNet2DConditionModel)
    picture = pipeline("a red circle on blue", num_inference_steps=2, width=64, height=64).images[0]
    assert picture.size == (64, 64)


def test_one_step_of_the_student_leads_where_the_teacher_went():
    from models.starter.doodle import distill

    schedule = distill.student_schedule(4)
    latents = torch.randn(5, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    velocities = distill.velocities_between(distill.Paths(latents, torch.zeros(2, 24, 128)), schedule)
    for number, time in enumerate(schedule.timesteps):
        reached = schedule.step(velocities[number], time, latents[number]).prev_sample
        assert torch.allclose(reached, latents[number + 1], atol=1e-4)
