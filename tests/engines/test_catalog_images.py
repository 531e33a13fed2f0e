"""The image models of the catalog say what the engine can do."""

import re

import pytest

from models.catalog import load_catalog
from models.engines.images_diffusers.loading import Options, dtype_of
from models.engines.images_diffusers.schedulers import DIFFUSION, FLOW
from models.engines.images_onnx.engine import Options as OnnxOptions
from models.registry import import_string
from models.sources import HubSource
from models.specs import Backend
from models.tasks import BY_NAME
from workshop.evaluation.images import EVALUATION

CAPABILITIES = {"generate", "edit", "inpaint", "vary", "negative_prompt", "control", "lora", "seed"}
DIFFUSERS = [
    spec
    for spec in load_catalog().of_task(BY_NAME["images"])
    if any(variant.backend is Backend.DIFFUSERS for variant in spec.variants.values())
]


def test_there_are_models_of_every_architecture():
    ids = {spec.id for spec in DIFFUSERS}
    assert ids >= {
        "stable-diffusion-v1-5",
        "stable-diffusion-inpainting",
        "stable-diffusion-2-1",
        "sdxl-base-1.0",
        "sdxl-turbo",
        "stable-diffusion-3.5-medium",
        "flux.1-schnell",
        "z-image-turbo",
    }


@pytest.mark.parametrize("spec", DIFFUSERS, ids=lambda spec: spec.id)
def test_a_row(spec):
    settings = spec.settings
    assert spec.capabilities >= {"generate", "seed"}
    assert spec.capabilities <= CAPABILITIES
    assert ("control" in spec.capabilities) == bool(settings.controls)
    always_on = spec.variant(None).engine.get("fused", {})
    assert ("lora" in spec.capabilities) == bool(set(settings.adapters) - set(always_on))
    assert settings.scheduler in {**DIFFUSION, **FLOW}
    assert settings.steps <= settings.most_steps
    assert settings.smallest <= settings.width <= settings.largest
    assert settings.width * settings.height <= settings.most_megapixels * 1e6
    for side in (settings.width, settings.height, settings.smallest, settings.largest):
        assert side % settings.multiple == 0
    for source in (spec.source, *settings.controls.values(), *settings.adapters.values()):
        if isinstance(source, HubSource):
            assert re.fullmatch("[0-9a-f]{40}", source.revision), f"{source.repo} is not pinned to a commit"


@pytest.mark.parametrize(
    ("spec", "name"),
    [(spec, name) for spec in DIFFUSERS for name in spec.variants],
    ids=lambda value: str(getattr(value, "id", value)),
)
def test_a_variant(spec, name):
    variant = spec.variants[name]
    if variant.backend is Backend.ONNX:
        OnnxOptions.of(variant)
        assert callable(import_string(variant.artifact.maker))
        return
    options = Options.of(variant)
    dtype_of(variant)
    assert set(options.fused) <= set(spec.settings.adapters)


@pytest.mark.parametrize("spec", DIFFUSERS, ids=lambda spec: spec.id)
def test_floors_are_of_measures_that_there_are(spec):
    assert set(spec.fidelity) <= set(EVALUATION.measures)
