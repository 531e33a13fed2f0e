"""Smaller weights, fused adapters and compiling on diffusers."""

import numpy as np
import pytest
import tiny_diffusion as tiny
import torch
from tiny_diffusion import load, make, picture

from models.engines.images_diffusers import loading, quantization
from models.engines.images_diffusers.engine import DiffusersImages
from models.errors import InvalidRequest
from models.tasks.images import Adapter


def load_as(folder, precision, **engine):
    model = tiny.spec(folder)
    variant = model.variant(None).model_copy(update={"precision": precision, "engine": engine})
    return DiffusersImages.load(model, variant, folder)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return tiny.flux(tmp_path_factory.mktemp("flux"))


INT8 = {"quantizer": "torchao", "quantized": ["transformer", "text_encoder_2"]}


@pytest.mark.models
def test_weights_of_8_bits_are_smaller_and_paint_nearly_the_same(flux):
    small, half = load_as(flux, "int8", **INT8), load_as(flux, "bf16")
    wanted = picture(scheduler="flow-euler", steps=2)
    for part in INT8["quantized"]:
        kinds = {type(weight).__name__ for weight in getattr(small.family.pipe, part).parameters() if weight.ndim == 2}
        assert "Int8Tensor" in kinds
    assert small.family.dtype is torch.bfloat16
    theirs = make(half, wanted)
    difference = np.abs(make(small, wanted) - theirs)
    assert theirs.std() > 8
    assert 0 < difference.mean() < 4


@pytest.mark.parametrize(
    ("precision", "engine", "message"),
    [
        ("int8", {}, "int8 and int4 take a `quantizer`"),
        ("bf16", INT8, "int8 and int4 take a `quantizer`"),
        ("int8", {"quantizer": "torchao"}, "int8 and int4 take a `quantizer`"),
        ("int8", {"quantizer": "magic", "quantized": ["transformer"]}, "quantizer is one of"),
        (
            "int8",
            {"quantizer": "torchao", "quantized": ["unet"]},
            "no part of a FluxPipeline",
        ),
        ("int8", {"quantizer": "torchao", "quantized": ["unet"], "unet": "other"}, "cannot be quantized"),
        ("fp8", {}, "not fp8"),
    ],
)
def test_what_does_not_go_together_is_refused(flux, precision, engine, message):
    with pytest.raises(ValueError, match=message):
        load_as(flux, precision, **engine)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_quantizer_that_is_not_installed_is_named(flux, precision, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="needs bitsandbytes, which is not installed"):
        load_as(flux, precision, quantizer="bitsandbytes", quantized=["transformer"])


def test_compiling_without_a_compiler_is_said_when_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(loading.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs a C compiler.*Install gcc"):
        load(tiny.stable_diffusion(tmp_path), engine={"compile": True})


@pytest.mark.models
def test_compiled_blocks_paint_the_same(tmp_path):
    folder = tiny.stable_diffusion(tmp_path)
    assert (
        np.abs(make(load(folder, engine={"compile": "blocks"}), picture()) - make(load(folder), picture())).max() <= 1
    )


def test_a_fused_adapter_is_always_on(tmp_path):
    base = tiny.stable_diffusion(tmp_path / "base")
    loras = {name: tiny.lora(tmp_path / name, base, seed) for seed, name in enumerate("ab")}
    sources = {name: {"kind": "folder", "path": folder} for name, folder in loras.items()}
    plain, fused = load(base, adapters=sources), load(base, adapters=sources, engine={"fused": {"a": 0.5}})
    wanted = make(plain, picture(adapters=(Adapter("a", 0.5),)))
    assert np.abs(make(fused, picture()) - wanted).max() <= 1
    assert np.abs(make(plain, picture()) - wanted).max() > 8
    # Two strong ones would make of a network this small one that rounding errors change the pictures of.
    weak = Adapter("b", 0.2)
    both, alone = make(plain, picture(adapters=(Adapter("a", 0.5), weak))), make(plain, picture(adapters=(weak,)))
    assert np.abs(make(fused, picture(adapters=(weak,))) - both).max() <= 2
    assert np.abs(alone - both).max() > 8
    with pytest.raises(InvalidRequest, match="no adapter 'a'; it has b"):
        fused.start(picture(adapters=(Adapter("a"),)))
