"""The starter embedding model on ONNX Runtime and torch, against sentence-transformers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from starters import load_engine, starter

import models
from models.catalog import load_catalog
from models.weights import locate

SPEC = load_catalog().resolve("all-minilm-l6-v2")
TEXTS = [
    "",
    "a",
    "The weather is lovely today.",
    "Ça va? 你好, wörld 🎉",
    "dog " * 100,
    "dog " * 254,  # 256 tokens, with the special ones
]


@pytest.fixture(scope="module", params=["onnx", "torch"])
def engine(request):
    return starter(SPEC.id, request.param)


@pytest.fixture(scope="module")
def reference():
    """sentence-transformers takes seconds to import, for which its tests are a part of the release tier."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(locate(SPEC, SPEC.variant("torch"))), device="cpu")


@pytest.mark.models
def test_vectors_are_those_of_sentence_transformers(engine, reference):
    tokens = engine.encode(TEXTS)
    assert len(tokens[-1]) == 256
    ours, theirs = engine.embed(tokens), reference.encode(TEXTS, normalize_embeddings=True)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), SPEC.settings.dimensions.native)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.models
@pytest.mark.parametrize("others", [[], [256], [2, 100]])
def test_a_single_token_has_the_models_vector(engine, reference, others):
    """One token alone, whatever it is batched with. A graph exported for two and more must not tell the difference."""
    import torch

    word = engine.without_special_tokens(engine.encode(["dog"])[0])
    assert len(word) == 1
    features = {"input_ids": torch.tensor([word]), "attention_mask": torch.ones(1, 1, dtype=torch.long)}
    with torch.inference_mode():
        wanted = reference.forward(features)["sentence_embedding"][0].numpy()
    ours = engine.embed([word, *([word[0]] * length for length in others)])[0]
    np.testing.assert_allclose(ours, wanted / np.linalg.norm(wanted), atol=1e-3)


@pytest.mark.models
def test_tokens_are_those_of_sentence_transformers(engine, reference):
    theirs = [reference.tokenizer(text)["input_ids"] for text in TEXTS]
    assert engine.encode(TEXTS) == theirs
    assert [engine.encode([text])[0] for text in TEXTS] == theirs


def test_a_batch_is_the_same_as_one_by_one(engine):
    tokens = engine.encode(TEXTS)
    single = np.concatenate([engine.embed([item]) for item in tokens])
    np.testing.assert_allclose(engine.embed(tokens), single, atol=1e-4)


def test_paraphrases_are_closer_than_unrelated_texts(engine):
    texts = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply on Monday."]
    first, paraphrase, unrelated = engine.embed(engine.encode(texts))
    assert first @ paraphrase > 0.5
    assert first @ unrelated < 0.2


def test_encode_does_not_truncate(engine):
    assert len(engine.encode(["dog " * 1000])[0]) == 1002


@pytest.mark.parametrize("length", [2, 3, 100, 256])
def test_truncate_keeps_the_final_special_token(engine, length):
    tokens = engine.encode(["dog " * 300])[0]
    cut = engine.truncate(tokens, length)
    assert len(cut) == length
    assert cut[-1] == tokens[-1]
    assert cut[:-1] == tokens[: length - 1]


def test_truncate_leaves_short_lists_and_bare_tokens_alone(engine):
    tokens = engine.encode(["dog dog dog"])[0]
    assert engine.truncate(tokens, 100) == tokens
    bare = engine.without_special_tokens(tokens)
    assert engine.truncate(bare, 2) == bare[:2]
    assert len(engine.truncate(tokens, 1)) == 1


def test_both_engines_give_the_same_vectors():
    """And so those of sentence-transformers, with which one of them is compared as a part of the release tier."""
    onnx, torch = (starter(SPEC.id, name) for name in ("onnx", "torch"))
    tokens = onnx.encode(TEXTS)
    assert tokens == torch.encode(TEXTS)
    np.testing.assert_allclose(onnx.embed(tokens), torch.embed(tokens), atol=1e-4)
    single = [[tokens[1][1]]]
    np.testing.assert_allclose(onnx.embed(single), torch.embed(single), atol=1e-4)


def test_tokens_and_back(engine):
    tokens = engine.encode(["hello world"])[0]
    bare = engine.without_special_tokens(tokens)
    assert engine.detokenize(bare) == "hello world"
    assert engine.token_strings(tokens) == ["[CLS]", "hello", "world", "[SEP]"]
    assert max(tokens) < engine.vocabulary_size


def test_onnx_loads_neither_torch_nor_transformers():
    code = f"""
import sys
from models.catalog import load_catalog
from models.registry import engine_class
from models.weights import locate
spec = load_catalog().resolve({SPEC.id!r})
variant = spec.variant("onnx")
engine = engine_class(spec.task, variant.backend).load(spec, variant, locate(spec, variant))
assert engine.embed(engine.encode(["a", "b c"])).shape == (2, 384)
print(sorted(name for name in ("torch", "transformers", "ray", "fastapi") if name in sys.modules))
"""
    root = Path(models.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def on_gpu(name):
    variant = SPEC.variant(name)
    return variant.model_copy(update={"needs": variant.needs.model_copy(update={"gpus": 1})})


def test_an_absent_cuda_provider_is_an_error(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider"):
        load_engine(SPEC, on_gpu("onnx"))


def test_an_absent_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="GPU"):
        load_engine(SPEC, on_gpu("torch"))


def test_an_unknown_pooling_is_an_error():
    variant = SPEC.variant("torch").model_copy(update={"engine": {"pooling": "max"}})
    with pytest.raises(ValueError, match="pooling"):
        load_engine(SPEC, variant)
