"""Quantized variants of the starter chat model, on the engines that serve them."""

import shutil

import pytest
import torch
from artifacts import home_is
from safetensors.torch import load_file, save_file

from models.catalog import load_catalog
from models.hardware import this_hardware
from models.specs import Backend
from models.tasks import BY_NAME
from workshop.evaluation.chat import OF_THE_SERVER, compare, open_subject
from workshop.evaluation.chat_texts import FACTS
from workshop.evaluation.fidelity import below_floor, reference_answers
from workshop.evaluation.trial import environment_of

pytestmark = pytest.mark.variants


@pytest.fixture(scope="module")
def spec():
    return load_catalog().resolve("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def reference(spec, artifacts):
    artifacts.published(spec)
    with home_is(artifacts.home):
        return reference_answers(spec, lambda step: None)


@pytest.fixture
def opened(spec, monkeypatch):
    """A variant as the evaluation opens it, with its own environment; closed at the end."""
    subjects = []

    def open_variant(name, folder):
        variant = spec.variant(name)
        for key, value in environment_of(variant).items():
            monkeypatch.setenv(key, value)
        subjects.append(open_subject(spec, variant, folder))
        return subjects[-1]

    yield open_variant
    for subject in subjects:
        subject.close()


@pytest.mark.parametrize("name", ["vllm-cpu-int8", "vllm-cpu-int8-kv8"])
def test_vllm_serves_the_int8_model_and_it_knows_the_capital_of_france(spec, reference, opened, artifacts, name):
    if "kv8" in name and "avx512f" not in this_hardware().cpu:
        pytest.skip("vLLM keeps a cache of 8 bits only on CPUs with AVX-512")
    subject = opened(name, artifacts.of(spec, name))
    said = subject.answers(lambda done: None)
    assert next(iter(FACTS)) == "What is the capital of France?"
    assert "Paris" in subject._tokenizer.decode(said["greedy"][0][said["greedy"][0] >= 0])
    found = compare(reference, said)
    assert not below_floor(spec, found)
    assert found["perplexity_ratio"] > 0.99  # it is no better than what it was made of
    times = subject.work(2, 0)
    assert 0 < times["time_per_output_token_s"] < times["time_to_first_token_s"] * 64


def test_the_int8_model_is_smaller(spec, artifacts):
    size = {
        name: sum(file.stat().st_size for file in artifacts.of(spec, name).glob("*.safetensors"))
        for name in ("vllm-cpu", "vllm-cpu-int8")
    }
    assert size["vllm-cpu-int8"] < 0.85 * size["vllm-cpu"]  # down_proj and embeddings stay in 16 bits


def test_a_checkpoint_with_noise_in_one_kind_of_layer_falls_below_the_floor(
    spec, reference, opened, artifacts, tmp_path
):
    """Of six of the 255 steps. Scales of one layer that are mixed up change less than an fp8 cache, and pass."""
    folder = tmp_path / "broken"
    shutil.copytree(artifacts.of(spec, "vllm-cpu-int8"), folder)
    weights = load_file(folder / "model.safetensors")
    drawn = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if name.endswith("mlp.up_proj.weight"):
            noise = torch.randn(value.shape, generator=drawn) * 6
            weights[name] = (value.float() + noise).round().clamp(-128, 127).to(torch.int8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    found = compare(reference, opened("vllm-cpu-int8", folder).answers(lambda done: None))
    assert "Perplexity ratio" in below_floor(spec, found)


def test_transformers_quantizes_on_loading_and_stays_above_the_floor(spec, reference, opened, artifacts):
    subject = opened("transformers-int8", artifacts.of(spec, "transformers-int8"))
    layer = subject._engine.model.model.layers[0].mlp.up_proj
    assert "Int8" in type(layer.weight.data).__name__
    said = subject.answers(lambda done: None)
    assert said["right"][0]  # the capital of France
    found = compare(reference, said)
    assert not below_floor(spec, found)
    assert found["agreement"] < 0.999  # not the same weights
    assert set(subject.work(1, 0)) == {"time_to_first_token_s", "time_per_output_token_s"}


def test_vllm_takes_the_arguments_of_every_row():
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    for model in load_catalog().of_task(BY_NAME["chat"]):
        for variant in model.variants.values():
            if variant.backend is Backend.VLLM:
                options = {name: value for name, value in variant.engine.items() if name not in OF_THE_SERVER}
                AsyncEngineArgs(model="none", **options)
                assert options.get("quantization") in (None, *QUANTIZATION_METHODS)
