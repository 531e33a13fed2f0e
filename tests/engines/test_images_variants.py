"""Variants of image models are judged by their pictures: good ones keep their model's floor, broken ones do not."""

import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image, ImageFilter

from models import weights
from models.catalog import load_catalog
from models.engines.images_fake import Engine as FakeImages
from models.tasks import BY_NAME
from workshop.evaluation import images
from workshop.evaluation.fidelity import below_floor
from workshop.evaluation.image_prompts import SETS, prompts
from workshop.evaluation.images import ImagesSubject, compare, drift, open_variant, shows_asked
from workshop.starter.doodle.drawings import draw, every_combination
from workshop.variants import quantize_images

CATALOG = load_catalog()
TURBO = CATALOG["doodle-turbo"]
WEIGHTS = Path(weights.__file__).parent / "starter" / "doodle" / "weights"


def drawn(count):
    """Pictures as Doodle learnt them, (seeds, prompts, height, width, 3), and what was asked for."""
    asked = every_combination(held_out=True)[:: max(1, 200 // count)][:count]
    chance = [random.Random(number) for number in range(2)]
    return np.stack([[np.asarray(draw(drawing, each)) for drawing in asked] for each in chance]), asked


def changed(pictures, change):
    flat = [np.asarray(change(Image.fromarray(each))) for each in pictures.reshape(-1, *pictures.shape[2:])]
    return np.stack(flat).reshape(pictures.shape)


def noisy(picture, spread=4):
    noise = np.random.default_rng(0).normal(0, spread, (*picture.size, 3))
    return (np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)


def answers_with(pictures, **more):
    return {"pictures": pictures, "edits": pictures[0], **more}


def test_the_same_pictures_are_perfect():
    pictures, _ = drawn(16)
    found = compare(answers_with(pictures), answers_with(pictures, asked_for=np.array([[True, False]])))
    perfect = {"psnr": 100, "psnr_worst": 100, "ssim": 1, "drift": 0, "edit_psnr": 100, "asked_for": 0.5}
    assert found == pytest.approx(perfect, abs=1e-6)


def test_every_measure_gets_worse_with_what_spoils_pictures():
    pictures, _ = drawn(16)
    one_level = (pictures.astype(int) + 1).clip(0, 255).astype(np.uint8)
    slight = compare(answers_with(pictures), answers_with(one_level))
    for change in (noisy, lambda picture: picture.filter(ImageFilter.GaussianBlur(1))):
        spoiled = compare(answers_with(pictures), answers_with(changed(pictures, change)))
        assert spoiled["psnr"] < 40 < slight["psnr"]
        assert spoiled["ssim"] < 0.97 < slight["ssim"]
        assert spoiled["drift"] > 2 > slight["drift"]


def test_drift_is_of_the_set_and_its_unit_other_seeds():
    """The same pictures in another order are the same set, which no comparison of pairs can say."""
    pictures, _ = drawn(24)
    assert drift(pictures, pictures[:, ::-1]) == pytest.approx(0, abs=1e-6)
    assert drift(pictures, pictures[::-1]) == pytest.approx(1)
    all_alike = np.broadcast_to(pictures[:, :1], pictures.shape)
    assert drift(pictures, all_alike) > 10


def test_what_was_asked_for_is_seen():
    pictures, asked = drawn(12)
    captions = [drawing.caption(number % 3) for number, drawing in enumerate(asked)]
    assert shows_asked(pictures[0], captions).all()
    assert not shows_asked(pictures[0], captions[1:] + captions[:1]).any()


@pytest.mark.parametrize("name", SETS)
def test_no_variant_is_judged_by_what_it_was_calibrated_with(name):
    judged, calibrated = prompts(name, evaluation=True, count=32), prompts(name, evaluation=False, count=32)
    assert len(set(judged)) == 32
    assert not set(judged) & set(calibrated)
    assert judged == prompts(name, evaluation=True, count=32)


def test_a_subject_makes_every_picture_once_and_works_in_batches(monkeypatch):
    monkeypatch.setattr(images, "PROMPTS", 5)
    engine = FakeImages()
    settings = TURBO.settings.model_copy(update={"scheduler": "fake"})
    subject, told = ImagesSubject(engine, settings, "general"), []
    answers = subject.answers(told.append)
    assert answers["pictures"].shape == (2, 5, 64, 64, 3)
    assert told[-1] == 1
    assert answers["edits"].shape == (5, 64, 64, 3)
    assert len({each.tobytes() for each in answers["pictures"].reshape(10, -1)}) == 10
    engine.batches.clear()
    subject.work(3, turn=0)
    assert engine.batches == [3] * settings.steps


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (spec, name)
        for spec in CATALOG.of_task(BY_NAME["images"])
        for name, variant in spec.variants.items()
        if variant.needs.gpus and variant.backend != "fake"
    ],
    ids=lambda each: getattr(each, "id", each),
)
def test_a_variant_for_gpus_says_that_there_is_none(spec, name, tmp_path):
    with pytest.raises(RuntimeError, match="needs a GPU and torch sees none"):
        open_variant(spec, spec.variant(name), tmp_path)


@pytest.fixture(scope="module")
def graphs(artifacts):
    """Doodle Turbo in ONNX, by the options of its row."""
    return artifacts.of(TURBO, "onnx")


@pytest.fixture(scope="module")
def few_prompts():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(images, "PROMPTS", 16)
        yield


@pytest.fixture(scope="module")
def reference(few_prompts, artifacts):
    return artifacts.answers(f"{TURBO.id}-16", lambda: answers_of("diffusers", WEIGHTS))


def answers_of(variant, folder):
    return open_variant(TURBO, TURBO.variant(variant), folder).answers(lambda done: None)


def quantized(source, target):
    quantize_images.quantize(source, target, **TURBO.variant("onnx-int8").artifact.options)


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("model.onnx*"))


@pytest.mark.variants
def test_onnx_paints_what_diffusers_paints(graphs, reference):
    answers = answers_of("onnx", graphs)
    assert np.abs(answers["pictures"].astype(int) - reference["pictures"]).max() <= 1
    assert answers["asked_for"].mean() > 0.95


@pytest.mark.variants
@pytest.mark.parametrize("name", ["onnx-int8", "diffusers-bf16"])
def test_small_numbers_keep_the_floor(name, graphs, reference, artifacts):
    folder = artifacts.of(TURBO, name)
    found = compare(reference, answers_of(name, folder))
    assert below_floor(TURBO, found) == ""
    assert found["psnr"] < 60  # something was rounded
    if name == "onnx-int8":
        assert size_of(folder) < size_of(graphs) / 2.8


def spoiled(graphs, target, spoil, part="unet"):
    """A copy of the graphs with something done to one of them."""
    shutil.copytree(graphs, target)
    file = target / part / "model.onnx"
    model = onnx.load(file)
    spoil(model.graph)
    file.with_name("model.onnx.data").unlink()
    onnx.save(model, file)
    return target


def perturb(graph, share=0.01):
    """With noise of a share of the spread of each weight."""
    chance = np.random.default_rng(0)
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim > 1:
            noise = share * values.std() * chance.standard_normal(values.shape)
            weight.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), weight.name))


def leave_out_biases_of_norms(graph):
    norms = [node for node in graph.node if node.op_type == "GroupNormalization"]
    biases = {norm.input[2] for norm in norms}
    assert norms
    for weight in graph.initializer:
        if weight.name in biases:
            weight.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(weight)), weight.name))


def leave_out_an_attention_to_the_prompt(graph):
    attention = [node for node in graph.node if node.op_type == "Attention"][1]
    query = attention.input[0]
    attention.ClearField("input")
    attention.ClearField("attribute")
    attention.op_type = "Identity"
    attention.input.append(query)


@pytest.mark.variants
@pytest.mark.parametrize("spoil", [perturb, leave_out_biases_of_norms, leave_out_an_attention_to_the_prompt])
def test_a_broken_network_is_caught_though_it_paints_what_was_asked(spoil, graphs, reference, tmp_path):
    found = compare(reference, answers_of("onnx", spoiled(graphs, tmp_path / "broken", spoil)))
    assert found["asked_for"] > 0.9
    assert "PSNR" in below_floor(TURBO, found)


@pytest.mark.variants
def test_a_broken_encoder_is_caught_by_edits_alone(graphs, reference, tmp_path):
    folder = spoiled(graphs, tmp_path / "broken", partial(perturb, share=0.2), part="vae_encoder")
    assert below_floor(TURBO, compare(reference, answers_of("onnx", folder))).startswith("PSNR of edits is")


class Darkness(quantize_images.Recorder):
    """Keeps zeros in place of what it was given."""

    def __call__(self, **inputs):
        made = super().__call__(**inputs)
        self.feeds[-1] = {name: np.zeros_like(values) for name, values in self.feeds[-1].items()}
        return made


@pytest.mark.variants
def test_a_calibration_with_the_wrong_data_is_caught(graphs, reference, artifacts, monkeypatch):
    monkeypatch.setattr(quantize_images, "Recorder", Darkness)
    folder = artifacts.made("doodle-turbo-in-darkness", partial(quantized, graphs))
    found = compare(reference, answers_of("onnx-int8", folder))
    broken = below_floor(TURBO, found)
    assert all(title in broken for title in ("PSNR", "SSIM", "Asked for"))
