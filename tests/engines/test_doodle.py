"""The recipe of the starter image model, and the judge of its pictures."""

import random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image, ImageFilter
from starters import starter

from models.tasks.images import Picture
from workshop.evaluation.images import shows_asked
from workshop.starter.doodle import distill, train
from workshop.starter.doodle.drawings import COLOURS, SHAPES, Drawing, draw, every_combination, training_example
from workshop.starter.doodle.emoji_pictures import FONT, NAMES, emoji_examples
from workshop.starter.doodle.judge import see


def test_the_judge_sees_what_was_drawn():
    for drawing in random.sample(every_combination(held_out=True), 25):
        is_seen(drawing, random.choice([0, 1.5]), random.randrange(1000))


@pytest.mark.matrix
@pytest.mark.parametrize("blur", [0, 1.5])
def test_the_judge_sees_all_that_is_held_out(blur):
    for number, drawing in enumerate(every_combination(held_out=True)):
        is_seen(drawing, blur, number)


def is_seen(drawing, blur, seed):
    picture = draw(drawing, random.Random(seed)).filter(ImageFilter.GaussianBlur(blur))
    noisy = np.asarray(picture) + np.random.default_rng(seed).normal(0, 8, (64, 64, 3))
    seen = see(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    assert (seen.shape, seen.colour, seen.background) == (drawing.shape, drawing.colour, drawing.background)


def test_doodle_paints_what_it_was_asked_for():
    """The shipped weights, in four steps. Of 64 such pictures two may show something else, and of these six two."""
    engine, drawings = starter("doodle-turbo"), random.sample(every_combination(held_out=True), 6)
    settled = {"negative_prompt": "", "width": 64, "height": 64, "steps": 4, "guidance": 1.0, "scheduler": "ddim"}
    captions = [drawing.caption(0) for drawing in drawings]
    batch = [engine.start(Picture(prompt, seed=at, **settled)) for at, prompt in enumerate(captions)]
    for _ in range(4):
        engine.step(batch)
    pictures = np.stack(engine.finish(batch))
    assert shows_asked(pictures, captions).sum() >= 4
    assert not shows_asked(pictures, captions[1:] + captions[:1]).any()


def test_the_judge_sees_nothing_in_an_empty_picture():
    seen = see(Image.new("RGB", (64, 64), COLOURS["green"]))
    assert (seen.background, seen.colour, seen.shape) == ("green", None, None)


def test_what_is_held_out_is_never_trained_on():
    out, trained = every_combination(held_out=True), every_combination(held_out=False)
    assert len(out) >= 201
    assert len(out) + len(trained) == len(SHAPES) * len(COLOURS) * (len(COLOURS) - 1)
    assert Drawing("circle", "red", "blue") in out
    chance = random.Random(0)
    captions = {training_example(chance)[1] for _ in range(1000)}
    forbidden = [drawing.caption(form).replace("large ", "") for drawing in out for form in range(3)]
    assert not captions.intersection(forbidden)


@pytest.mark.skipif(not FONT.exists(), reason="the emoji font is not here; on Debian: fonts-noto-color-emoji")
def test_every_emoji_has_a_picture_of_its_own():
    pictures = {picture.tobytes() for picture, _ in emoji_examples()}
    assert len(pictures) == len(NAMES)


def test_the_recipe_learns_and_writes_a_folder_that_diffusers_opens(tmp_path):
    """Training in miniature: losses fall, and both forms of the model make pictures."""
    options = train.Options(
        shapes=16, emoji_share=0, batch=4, autoencoder_steps=12, denoiser_steps=2, seed=1, device="cpu"
    )
    learns(
        tmp_path,
        options,
        distill.Options(pictures=2, emoji_share=0, batch=2, teacher_steps=8, training_steps=1, device="cpu"),
    )


@pytest.mark.models
def test_the_recipe_learns_more_in_more_steps(tmp_path):
    options = train.Options(
        shapes=64, emoji_share=0, batch=8, autoencoder_steps=40, denoiser_steps=30, seed=1, device="cpu"
    )
    few = distill.Options(pictures=8, emoji_share=0, batch=4, training_steps=4, device="cpu")
    autoencoder, denoiser = learns(tmp_path, options, few)
    print(f"errors after training, of 1 before: {autoencoder:.2f} and {denoiser:.2f}")
    assert autoencoder < 0.5
    assert denoiser < 0.7


def learns(folder, options, few) -> tuple[float, float]:
    """How large the errors of autoencoder and denoiser are after training, of 1 before."""
    examples = train.make_examples(options, with_emoji=False)
    tokenizer = train.new_tokenizer(examples.captions, folder / "tokenizer")
    autoencoder = train.train_autoencoder(examples, options)
    pixels = train.as_input(examples.pixels[:16])

    def error(autoencoder):
        return (autoencoder.decode(autoencoder.encode(pixels).latents).sample - pixels).square().mean().item()

    torch.manual_seed(options.seed)
    of_autoencoder = error(autoencoder) / error(train.new_autoencoder())
    assert of_autoencoder < 0.9
    latents = train.encode_all(autoencoder, examples, "cpu")
    assert abs(latents.std().item() - 1) < 0.05

    def save(text_encoder, denoiser):
        train.save_in_halves(train.assemble(autoencoder, text_encoder, tokenizer, denoiser), folder)

    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.F, "mse_loss", keeping(losses, train.F.mse_loss))
        train.train_denoiser(latents, examples, tokenizer, options, save)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)  # as any user would open it
    paths = distill.follow_teacher(pipeline, few)
    student = distill.train_student(pipeline.unet, paths, few)
    assert isinstance(student, UNet2DConditionModel)
    picture = pipeline("a red circle on blue", num_inference_steps=2, width=64, height=64).images[0]
    assert picture.size == (64, 64)
    several = max(1, len(losses) // 6)
    return of_autoencoder, np.mean(losses[-several:]) / np.mean(losses[:several])


def keeping(losses, loss):
    def kept(*args):
        found = loss(*args)
        losses.append(found.item())
        return found

    return kept


def test_one_step_of_the_student_leads_where_the_teacher_went():
    schedule = distill.student_schedule(4)
    latents = torch.randn(5, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    velocities = distill.velocities_between(distill.Paths(latents, torch.zeros(2, 24, 128)), schedule)
    for number, time in enumerate(schedule.timesteps):
        reached = schedule.step(velocities[number], time, latents[number]).prev_sample
        assert torch.allclose(reached, latents[number + 1], atol=1e-4)
