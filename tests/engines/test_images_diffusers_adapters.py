"""LoRAs: many over one base model, each as diffusers applies it."""

import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from diffusers import DiffusionPipeline
from tiny_diffusion import load, make, picture

from models.engines.images_diffusers.adapters import weights_file
from models.engines.images_diffusers.schedulers import DIFFUSION, new_scheduler
from models.errors import InvalidRequest
from models.tasks.images import Adapter

NAMES = ["v1.5-style", "b", "c", "text"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model and LoRAs of it; the last one is of the text encoder too."""
    root = tmp_path_factory.mktemp("adapters")
    base = tiny.stable_diffusion(root / "base")
    return base, {name: tiny.lora(root / name, base, seed, text=name == "text") for seed, name in enumerate(NAMES)}


def engine_with(folders, **options):
    base, loras = folders
    sources = {name: {"kind": "folder", "path": folder} for name, folder in loras.items()}
    return load(base, adapters=sources, engine=options)


@pytest.fixture(scope="module")
def engine(folders):
    return engine_with(folders)


@pytest.fixture(scope="module")
def plain(folders):
    """Pictures of the base model, by an engine that never loads an adapter."""
    untouched = load(folders[0])
    return lambda **changes: make(untouched, picture(**changes))


def theirs(folders, adapters):
    base, loras = folders
    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = new_scheduler(DIFFUSION["ddim"], pipe.scheduler.config)
    for number, adapter in enumerate(adapters):
        pipe.load_lora_weights(loras[adapter.name], adapter_name=f"n{number}")
    pipe.set_adapters([f"n{number}" for number in range(len(adapters))], [adapter.weight for adapter in adapters])
    image = pipe(
        "a red cat",
        num_inference_steps=4,
        guidance_scale=5.0,
        width=32,
        height=32,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    return (image * 255).round().astype(int)


@pytest.mark.parametrize(
    "adapters",
    [
        (Adapter("v1.5-style", 1.0),),
        (Adapter("b", 0.4),),
        (Adapter("text", 1.0),),
        (Adapter("b", 0.7), Adapter("c", 0.5)),
    ],
)
def test_adapters_do_what_they_do_in_diffusers(engine, folders, plain, adapters):
    ours = make(engine, picture(adapters=adapters))
    assert np.abs(ours - theirs(folders, adapters)).max() <= 2
    assert np.abs(ours - plain()).max() > 8


def test_no_weight_is_no_adapter(engine, plain):
    assert np.abs(make(engine, picture(adapters=(Adapter("b", 0.0),))) - plain()).max() <= 1


def test_the_base_model_comes_back(engine, plain):
    make(engine, picture(adapters=(Adapter("text", 1.0),)))
    assert np.abs(make(engine, picture()) - plain()).max() <= 1


def test_pictures_with_different_adapters_take_turns(engine):
    """Each batch runs with its own, whatever ran before it."""
    several = [(Adapter("b", 1.0),), (), (Adapter("c", 1.0),), (Adapter("b", 0.3),), (Adapter("text", 1.0),)]
    wanted = [picture(adapters=adapters, seed=7) for adapters in several]
    alone = [make(engine, each) for each in wanted]
    denoisings = [engine.start(each) for each in wanted]
    for _ in range(4):
        for denoising in denoisings:
            engine.step([denoising])
    for denoising, expected in zip(denoisings, alone, strict=True):
        assert np.abs(engine.finish([denoising])[0].astype(int) - expected).max() <= 1
    for number, one in enumerate(alone):
        assert all(np.abs(one - other).max() > 4 for other in alone[:number])


def test_the_least_recently_used_makes_room(folders):
    engine = engine_with(folders, most_adapters=2)
    expected = make(engine, picture(adapters=(Adapter("b", 1.0),)))
    make(engine, picture(adapters=(Adapter("c", 1.0),)))
    make(engine, picture(adapters=(Adapter("b", 1.0),)))
    assert engine.adapters.loaded == ("c", "b")
    make(engine, picture(adapters=(Adapter("text", 1.0),)))
    assert engine.adapters.loaded == ("b", "text")
    both = make(engine, picture(adapters=(Adapter("c", 1.0), Adapter("b", 1.0))))
    assert set(engine.adapters.loaded) == {"b", "c"}
    assert np.abs(both - expected).max() > 4
    assert np.abs(make(engine, picture(adapters=(Adapter("b", 1.0),))) - expected).max() <= 1
    assert np.abs(make(engine, picture()) - make(load(folders[0]), picture())).max() <= 1


def test_a_picture_whose_adapter_was_dropped_goes_on(folders):
    engine = engine_with(folders, most_adapters=1)
    wanted = picture(adapters=(Adapter("b", 1.0),))
    expected = make(engine, wanted)
    denoising = engine.start(wanted)
    engine.step([denoising])
    make(engine, picture(adapters=(Adapter("c", 1.0),)))
    assert engine.adapters.loaded == ("c",)
    assert np.abs(tiny.finished(engine, denoising) - expected).max() <= 1


def test_prompts_are_encoded_again_only_for_adapters_of_the_text_encoder(engine):
    def misses(adapters):
        before = engine.prompts.misses
        engine.start(picture(prompt="a prompt of its own", guidance=1.0, adapters=adapters))
        return engine.prompts.misses - before

    assert misses(()) == 1
    assert misses((Adapter("b", 1.0),)) == 0
    assert misses((Adapter("text", 1.0),)) == 1
    assert misses((Adapter("text", 1.0), Adapter("b", 1.0))) == 0
    assert misses((Adapter("text", 0.5),)) == 1


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ((Adapter("nonesuch", 1.0),), "no adapter 'nonesuch'; it has b, c, text, v1.5-style"),
        ((Adapter("b", 1.0), Adapter("b", 0.5)), "once"),
        (tuple(Adapter(name, 1.0) for name in NAMES), "2 adapters at most"),
    ],
)
def test_adapters_that_cannot_be_used(folders, adapters, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        engine_with(folders, most_adapters=2).start(picture(adapters=adapters))
    assert raised.value.param == "adapters"


def test_the_weights_of_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"0 \.safetensors files"):
        weights_file(tmp_path)
    (tmp_path / "style.safetensors").touch()
    assert weights_file(tmp_path).name == "style.safetensors"
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"2 \.safetensors files"):
        weights_file(tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    assert weights_file(tmp_path).name == "pytorch_lora_weights.safetensors"
